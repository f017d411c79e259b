"""Checkpoints of a training run: folders that are complete or not there, and a lock on the run's folder.

A checkpoint is written under a temporary name and renamed when everything is on the disk. Its ``state.json`` holds the
SHA-256 of each of its files, so one that was damaged later is recognised and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from elite.adapter import EliteAdapter
from elite.io.files import write_json
from elite.io.tensors import write_safetensors
from elite.training.config import TrainingConfig

ADAPTER, TENSORS, STATE, CONFIG = "adapter", "training.safetensors", "state.json", "config.yaml"
PREFIX = "checkpoint-"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or none can be used; the message says which, and what is still good."""


class OutputLockedError(RuntimeError):
    """Another process trains in the same folder."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        step: optimiser steps taken.
        folder: where it lies.
        tensors: the trained weights ("weights.NAME") and AdamW's moments ("NAME.exp_avg", "NAME.exp_avg_sq").
        adapter: the averaged weights, or the trained ones where no average is kept.
        extra: what else the run put in, such as the state of a gradient scaler.
    """

    step: int
    folder: Path
    tensors: dict[str, Tensor]
    adapter: EliteAdapter
    extra: dict[str, Any]


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder; the lock of a process that died is void.

    What a process left that died while it wrote a checkpoint is removed.

    Raises:
        OutputLockedError: when another process holds it.
        OSError: when the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputLockedError(
            f"output {output} is being trained in by another process: wait for it, or choose another folder."
        ) from error
    try:
        for left in output.glob(f".{PREFIX}*.part"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()


def folder_of(output: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` steps lies."""
    return Path(output) / f"{PREFIX}{step:07d}"


def checkpoints(output: Path) -> list[Path]:
    """The checkpoint folders of a run, the newest first; whether they are whole is not looked at."""
    return sorted((path for path in Path(output).glob(f"{PREFIX}[0-9]*") if path.is_dir()), reverse=True)


def save_checkpoint(
    output: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    adapter: EliteAdapter,
    config: TrainingConfig,
    extra: Mapping[str, Any] | None = None,
    keep: int = 2,
) -> Path:
    """Write a checkpoint, whole or not at all, and of it and those before it remove all but the newest ``keep``.

    Args:
        output: folder of the run.
        step: optimiser steps taken.
        tensors: see `Checkpoint`.
        adapter: what a user of this checkpoint gets.
        config: settings of the run.
        extra: plain values.
        keep: how many checkpoints stay.

    Returns:
        Its folder.

    Raises:
        CheckpointError: when it cannot be written (a full disk); the checkpoints before it stay as they are.
    """
    output = Path(output)
    target = folder_of(output, step)
    fresh = output / f".{target.name}.{os.getpid()}.part"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        adapter.save_pretrained(fresh / ADAPTER)
        write_safetensors(fresh / TENSORS, tensors)
        config.save(fresh / CONFIG)
        sums = {str(path.relative_to(fresh)): _digest(path) for path in sorted(fresh.rglob("*")) if path.is_file()}
        write_json(fresh / STATE, {"step": step, "extra": dict(extra or {}), "sha256": sums})
        _flush(fresh)
        if target.exists():  # a damaged one of the same step
            shutil.rmtree(target)
        os.replace(fresh, target)
    except (OSError, ValueError, SafetensorError) as error:  # ValueError: weights that are not finite
        shutil.rmtree(fresh, ignore_errors=True)
        older = next((path for path in checkpoints(output) if path != target), None)
        good = f"{older.name} stays as it was" if older else "there is no earlier one"
        raise CheckpointError(
            f"the checkpoint after step {step} cannot be written to {output} ({error}); {good}."
        ) from error
    # One of a later step is damaged, or the run would have gone on from there: it must not count as kept.
    for old in [path for path in checkpoints(output) if path.name <= target.name][keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint and check its sums.

    Raises:
        CheckpointError: when a file is missing or damaged.
    """
    folder = Path(folder)
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        for name, digest in state["sha256"].items():
            if _digest(folder / name) != digest:
                raise CheckpointError(f"{folder} is damaged: {name} is not what was written.")
        from safetensors.torch import load_file

        tensors = load_file(str(folder / TENSORS))
        adapter = EliteAdapter.from_pretrained(folder / ADAPTER)
        return Checkpoint(state["step"], folder, tensors, adapter, state["extra"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from error


def last_checkpoint(output: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run; damaged ones before it are warned of. None when there is none at all.

    Raises:
        CheckpointError: when there are checkpoints, but all are damaged.
    """
    found = checkpoints(output)
    for folder in found:
        try:
            return read_checkpoint(folder)
        except CheckpointError as error:
            warnings.warn(f"{error} The one before it is used.", stacklevel=2)
    if found:
        raise CheckpointError(f"every checkpoint in {output} is damaged: delete them to begin again.")
    return None


def adapter_of_run(path: Path) -> Path:
    """The adapter's folder in an adapter's folder, or in the output folder of a run: its newest whole one.

    Raises:
        FileNotFoundError: when there is none.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        return path
    found = last_checkpoint(path)
    if found is None:
        raise FileNotFoundError(f"adapter {path} is neither an adapter's folder nor that of a run with checkpoints.")
    return found.folder / ADAPTER


def optimizer_tensors(optimizer: torch.optim.Optimizer, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AdamW's moments by the names of the weights they belong to."""
    names = {id(parameter): name for name, parameter in trained.items()}
    return {
        f"{names[id(parameter)]}.{key}": value.reshape(-1) if value.ndim == 0 else value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, trained: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Put the moments of `optimizer_tensors` back; there are none while a scaler has skipped every step.

    Raises:
        CheckpointError: when one is missing.
    """
    if not any(name.endswith(".exp_avg") for name in tensors):
        return
    for name, parameter in trained.items():
        try:
            optimizer.state[parameter] = {
                "step": tensors[f"{name}.step"].reshape(()).clone(),
                **{key: tensors[f"{name}.{key}"].to(parameter).clone() for key in ("exp_avg", "exp_avg_sq")},
            }
        except KeyError as error:
            raise CheckpointError(f"the checkpoint lacks {error}: it is of another stage or another model.") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    """Have everything on the disk before the rename, or a power cut could leave a named but empty checkpoint."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
