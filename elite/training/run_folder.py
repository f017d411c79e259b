"""A training run on disk: its lock, checkpoints, settings, curve and pictures, and what has to match to go on.

A checkpoint is a folder that is written under a temporary name and renamed when everything is on the disk. Its
``state.json`` holds the SHA-256 of each of its files, so one that was damaged later is recognised and the one before it
is used. (`accelerate.Accelerator.save_state` would write pickles, and half of one when the disk is full.)
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from elite.adapter import EliteAdapter
from elite.io.checksums import sha256
from elite.io.files import read_json, replacing, write_json
from elite.io.tensors import read_safetensors, write_safetensors
from elite.training.config import TrainingConfig

ADAPTER, TENSORS, STATE, CONFIG = "adapter", "training.safetensors", "state.json", "config.yaml"
CURVE = "curve.jsonl"
PREFIX = "checkpoint-"
# Settings that may change between two parts of one run: they do not change what a step computes.
FREE = frozenset(
    {"data", "output", "adapter", "num_workers", "checkpoint_every", "keep_checkpoints", "trackers"}
    | {"gradient_checkpointing", "gradient_accumulation_steps", "steps", "validate_every"}
)


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
        tensors: the trained weights and AdamW's moments, see `state.TrainedState.tensors`.
        adapter: the averaged weights, or the trained ones where no average is kept.
        extra: what else the run put in, such as the state of a gradient scaler.
    """

    step: int
    folder: Path
    tensors: dict[str, Tensor]
    adapter: EliteAdapter
    extra: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Checkpoint:
        """Read a checkpoint and check its sums.

        Raises:
            CheckpointError: when a file is missing or damaged.
        """
        folder = Path(folder)
        try:
            state = read_json(folder / STATE)
            for name, digest in state["sha256"].items():
                if sha256(folder / name) != digest:
                    raise CheckpointError(f"{folder} is damaged: {name} is not what was written.")
            tensors, _ = read_safetensors(folder / TENSORS)
            adapter = EliteAdapter.from_pretrained(folder / ADAPTER)
            return cls(state["step"], folder, tensors, adapter, state["extra"])
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"{folder} is damaged: {error}") from error


class RunFolder:
    """Everything about a run on disk.

    Args:
        path: the run's folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out; the lock of a process that died is void.

        What is left of a checkpoint whose writing was cut off is removed.

        Raises:
            OutputLockedError: when another process holds it.
            OSError: when the folder cannot be written to.
        """
        from filelock import FileLock, Timeout

        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputLockedError(
                f"output {self.path} is being trained in by another process: wait for it, or choose another folder."
            ) from error
        try:
            for left in self.path.glob(f".{PREFIX}*.part"):
                shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            lock.release()

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints' folders, the newest first; whether they are whole is not looked at."""
        return sorted((path for path in self.path.glob(f"{PREFIX}[0-9]*") if path.is_dir()), reverse=True)

    def last(self) -> Checkpoint | None:
        """The newest whole checkpoint, with a warning for each damaged one that is newer; None if there is none at all.

        Raises:
            CheckpointError: when there are checkpoints, but all are damaged.
        """
        found = self.checkpoints
        for folder in found:
            try:
                return Checkpoint.read(folder)
            except CheckpointError as error:
                warnings.warn(f"{error} The one before it is used.", stacklevel=2)
        if found:
            raise CheckpointError(f"every checkpoint in {self.path} is damaged: delete them to begin again.")
        return None

    def settings(self) -> TrainingConfig | None:
        """The settings of the newest checkpoint whose settings can be read."""
        for folder in self.checkpoints:
            try:
                return TrainingConfig.from_file(folder / CONFIG)
            except (OSError, ValueError):
                continue  # damaged; an older one may be readable
        return None

    def adapter(self) -> Path:
        """The adapter's folder in the newest whole checkpoint, or the folder itself if it is an adapter's.

        Raises:
            FileNotFoundError: when there is none.
        """
        if (self.path / "config.json").is_file():
            return self.path
        found = self.last()
        if found is None:
            raise FileNotFoundError(
                f"adapter {self.path} is neither an adapter's folder nor that of a run with checkpoints."
            )
        return found.folder / ADAPTER

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        adapter: EliteAdapter,
        config: TrainingConfig,
        extra: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a checkpoint, whole or not at all, and keep only the newest ``config.keep_checkpoints`` up to it.

        Args:
            step: optimiser steps taken.
            tensors: see `Checkpoint`.
            adapter: what a user of this checkpoint gets.
            config: settings of the run.
            extra: plain values.

        Returns:
            Its folder.

        Raises:
            CheckpointError: when it cannot be written (a full disk); the checkpoints before it stay as they are.
        """
        target = self.path / f"{PREFIX}{step:07d}"
        fresh = self.path / f".{target.name}.{os.getpid()}.part"
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            adapter.save_pretrained(fresh / ADAPTER)
            write_safetensors(fresh / TENSORS, tensors)
            config.save(fresh / CONFIG)
            sums = {str(path.relative_to(fresh)): sha256(path) for path in sorted(fresh.rglob("*")) if path.is_file()}
            write_json(fresh / STATE, {"step": step, "extra": dict(extra or {}), "sha256": sums})
            _flush(fresh)
            if target.exists():  # a damaged one of the same step
                shutil.rmtree(target)
            os.replace(fresh, target)
        except (OSError, ValueError, SafetensorError) as error:  # ValueError: weights that are not finite
            shutil.rmtree(fresh, ignore_errors=True)
            older = next((path for path in self.checkpoints if path != target), None)
            good = f"{older.name} stays as it was" if older else "there is no earlier one"
            raise CheckpointError(
                f"the checkpoint after step {step} cannot be written to {self.path} ({error}); {good}."
            ) from error
        # One of a later step is damaged, or the run would have gone on from there: it must not count as kept.
        for old in [path for path in self.checkpoints if path.name <= target.name][config.keep_checkpoints :]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append a line to the curve; numbers that are not finite are left out."""
        rounded = {name: float(f"{value:.6g}") for name, value in numbers.items() if math.isfinite(value)}
        with (self.path / CURVE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **rounded}) + "\n")

    def cut_curve(self, step: int) -> None:
        """Drop the lines of steps that a stopped process took after a checkpoint's step; all of them for step 0."""
        path = self.path / CURVE
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines() if step else []
            with replacing(path) as temporary:
                kept = "".join(f"{line}\n" for line in lines if _step_of(line) <= step)
                temporary.write_text(kept, encoding="utf-8")

    def check_settings(self, config: TrainingConfig, found: Path) -> None:
        """Refuse to go on with other settings than those of a checkpoint's folder, apart from those in `FREE`.

        Raises:
            ValueError: naming the settings that differ.
        """
        before = TrainingConfig.from_file(found / CONFIG)
        old, new = before.model_dump(), config.model_dump()
        changed = sorted(name for name in new if name not in FREE and old[name] != new[name])
        # How often is free, but whether at all decides which rows are kept for it.
        if bool(before.validate_every) != bool(config.validate_every):
            changed.append("validate_every")
        # The cosine ends at the last step, so its length is part of what every step computes.
        if config.lr_schedule == "cosine" and before.steps != config.steps:
            changed.append("steps")
        if changed:
            pairs = ", ".join(f"{name} (was {old[name]!r}, now {new[name]!r})" for name in changed)
            raise ValueError(f"output {self.path} holds a run with other settings: {pairs}. Choose another output.")

    def check_inputs(
        self, found: Checkpoint, config: TrainingConfig, adapter: EliteAdapter, trained: Container[str], rows: str
    ) -> None:
        """Refuse to go on with other data or another adapter: folders may move, but what they hold may not change.

        Args:
            found: where the run goes on.
            config: its settings, which name the folders.
            adapter: as it was loaded now.
            trained: names of the weights that the stage trains.
            rows: what `caching.rows_digest` gives for the data as it is now.

        Raises:
            ValueError: for data with other objects, or another adapter.
        """
        if found.extra.get("rows") not in (None, rows):
            raise ValueError(f"data {config.data} holds other objects than when {self.path} began.")
        before = found.adapter.state_dict()
        for name, parameter in adapter.named_parameters():
            if name not in trained and not torch.equal(parameter.cpu(), before[name].to(parameter.dtype)):
                raise ValueError(f"adapter {config.adapter} is not the one that {self.path} began with: {name}.")


def _step_of(line: str) -> int:
    """The step of a line of the curve; a line that was cut off belongs to no step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62


def _flush(folder: Path) -> None:
    """Force everything to disk before the rename, or a power cut could leave a named but empty checkpoint."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
