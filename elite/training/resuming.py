"""What has to be as it was for a run to go on: settings, rows, the weights it does not train, one folder for all."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from elite.adapter import EliteAdapter
from elite.io.files import replacing
from elite.training.checkpoint import CONFIG, Checkpoint
from elite.training.config import TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

# Settings that may change between two parts of one run: they do not change what a step computes.
FREE = frozenset(
    {"data", "output", "adapter", "num_workers", "checkpoint_every", "keep_checkpoints", "trackers"}
    | {"gradient_checkpointing", "gradient_accumulation_steps", "steps", "validate_every"}
)


def check_same_run(config: TrainingConfig, folder: Path) -> None:
    """Refuse to go on with other settings than a checkpoint's, apart from those in `FREE`.

    Raises:
        ValueError: naming the settings that differ.
    """
    before = TrainingConfig.from_file(folder / CONFIG)
    changed = sorted(
        name for name, value in config.to_dict().items() if name not in FREE and before.to_dict()[name] != value
    )
    # How often is free, but whether at all decides which rows are kept for it.
    if bool(before.validate_every) != bool(config.validate_every):
        changed.append("validate_every")
    # The cosine ends at the last step, so its length is part of what every step computes.
    if config.lr_schedule == "cosine" and before.steps != config.steps:
        changed.append("steps")
    if changed:
        pairs = ", ".join(f"{n} (was {getattr(before, n)!r}, now {getattr(config, n)!r})" for n in changed)
        raise ValueError(f"output {folder.parent} holds a run with other settings: {pairs}. Choose another output.")


def check_shared(accelerator: Accelerator, output: Path | None, found: Checkpoint | None) -> None:
    """All processes have to go on from one checkpoint; on machines without a common disk they would not.

    Raises:
        ValueError: when they found different ones.
    """
    step = torch.tensor([-1 if found is None else found.step], device=accelerator.device)
    steps = accelerator.gather(step).tolist()
    if len(set(steps)) > 1:
        raise ValueError(f"output {output} must be a folder that all processes share; they found checkpoints {steps}.")


def check_same_inputs(
    found: Checkpoint, config: TrainingConfig, adapter: EliteAdapter, trained: Container[str], rows: str
) -> None:
    """Folders may move between two parts of a run; what they hold may not change.

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
        raise ValueError(f"data {config.data} holds other objects than when {config.output} began.")
    before = found.adapter.state_dict()
    for name, parameter in adapter.named_parameters():
        if name not in trained and not torch.equal(parameter.cpu(), before[name].to(parameter.dtype)):
            raise ValueError(f"adapter {config.adapter} is not the one that {config.output} began with: {name}.")


def cut_curve(path: Path, step: int) -> None:
    """Drop the lines of steps that a stopped process took after its last checkpoint: they are taken again.

    Args:
        path: the run's curve; it need not exist.
        step: the checkpoint's; 0 drops all.
    """
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines() if step else []
        lines = [line for line in lines if _step_of(line) <= step]
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _step_of(line: str) -> int:
    """The step of a line of the curve; a line that was cut off belongs to no step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62
