"""Trains the toybox's own ELITE adapter and puts it among its weights: ``python -m elite.toybox.train_elite``.

Both stages run as ``elite train global`` and ``elite train local`` run them, with the presets "toybox-global" and
"toybox-local", on an export of the toybox world. Each goes on where it was interrupted.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import torch
import typer

from elite.io.checksums import SUMS
from elite.toybox import WEIGHTS
from elite.toybox.backbone_training import options
from elite.toybox.backbone_training.curves import copy_curves
from elite.toybox.bundle import ADAPTER_FOLDER, update_adapter
from elite.training.config import TrainingConfig
from elite.training.loop import train
from elite.training.presets import PRESETS

STAGES = ("global", "local")


def backbone_id(weights: Path) -> str:
    """Eight digits that tell weights folders apart, whatever adapter they hold.

    Raises:
        FileNotFoundError: if it is no weights folder.
    """
    sums = Path(weights) / SUMS
    if not sums.is_file():
        raise FileNotFoundError(f"weights {weights} is no weights folder: it has no {SUMS}.")
    lines = sums.read_text(encoding="utf-8").splitlines()
    backbone = [line for line in lines if not line.partition("  ")[2].startswith(f"{ADAPTER_FOLDER}/")]
    return hashlib.sha256("\n".join(backbone).encode()).hexdigest()[:8]


def stage_config(
    stage: str, weights: Path, data: Path, runs: Path, seed: int = 0, steps: int | None = None
) -> TrainingConfig:
    """The toybox's preset of a stage, for these weights, data and folder of runs; ``steps`` in place of its own."""
    preset = PRESETS[f"toybox-{stage}"]
    steps = preset.steps if steps is None else steps
    changes = {"adapter": str(runs / "global")} if stage == "local" else {}
    return preset.with_changes(
        model=str(weights),
        data=str(data),
        output=str(runs / stage),
        seed=seed,
        steps=steps,
        warmup=min(preset.warmup, steps),
        **changes,
    )


def train_adapter(
    weights: Path, data: Path, runs: Path, seed: int = 0, steps: tuple[int | None, int | None] = (None, None)
) -> Path:
    """Train both stages and bundle the adapter.

    Args:
        weights: weights folder; its part ``elite/`` is replaced when both stages are done.
        data: training folder, as `export.training_folder` makes it.
        runs: both stages keep their checkpoints, curves and pictures in a folder of it, named after the backbone.
        seed: of fresh weights and of every draw.
        steps: of each stage; the presets' where left out.

    Returns:
        The folder of the runs.

    Raises:
        FileNotFoundError: if ``weights`` is no weights folder.
    """
    runs = Path(runs) / f"elite-{backbone_id(weights)}-{seed}"
    chosen = zip(STAGES, steps, strict=True)
    for config in [stage_config(stage, weights, data, runs, seed, count) for stage, count in chosen]:
        result = train(config)
    update_adapter(weights, result.adapter)
    copy_curves({f"elite_{stage}": runs / stage / "curve.jsonl" for stage in STAGES}, Path(weights))
    return runs


app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="Training folder (see the export program).")],
    weights: Annotated[Path, typer.Option(help="Weights folder to train for and to bundle into.")] = WEIGHTS,
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs.")] = None,
    seed: options.Seed = 0,
    global_steps: Annotated[int | None, typer.Option(help="Steps of the global stage; the preset's.")] = None,
    local_steps: Annotated[int | None, typer.Option(help="Steps of the local stage; the preset's.")] = None,
    threads: options.Threads = 2,
) -> None:
    """Train both stages and bundle the adapter."""
    torch.set_num_threads(threads)
    folder = train_adapter(weights, data, runs or options.cache() / "run", seed, (global_steps, local_steps))
    typer.echo(f"trained in {folder}, bundled in {weights / ADAPTER_FOLDER}")


if __name__ == "__main__":
    app()
