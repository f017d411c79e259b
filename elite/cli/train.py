"""``elite train global`` and ``elite train local``: both stages, on one process or many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import check_writable, one_sentence

if TYPE_CHECKING:
    from elite.training.config import TrainingConfig

app = typer.Typer(help="Train the stages of ELITE.", no_args_is_help=True)

Config = Annotated[str, typer.Option(help="A preset (sd14-global, toybox-local, …) or a YAML file.")]
Model = Annotated[str | None, typer.Option(help="Base model: toybox, sd14, or a folder.")]
Data = Annotated[Path | None, typer.Option(help="Folder of a download, or of an unpacked export of the toybox.")]
Output = Annotated[Path | None, typer.Option(help="Folder of the run; the same again continues it.")]
Adapter = Annotated[str | None, typer.Option(help="Begin with: init, own, an adapter's folder, or another run's.")]
Steps = Annotated[int | None, typer.Option(help="Optimiser steps in all.")]
Batch = Annotated[int | None, typer.Option(help="Samples of a step, over all processes.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate.")]
Precision = Annotated[str | None, typer.Option(help="no, fp16, bf16, or auto: bf16 where it is quick.")]
Seed = Annotated[int | None, typer.Option(help="Of fresh weights and every draw.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any other setting, as NAME=VALUE; may be repeated.")]
Resume = Annotated[bool, typer.Option(help="Go on from the newest whole checkpoint of the output folder.")]
Progress = Annotated[bool, typer.Option(help="Show progress bars.")]


@app.callback()
def options() -> None:
    """Train the stages of ELITE."""


@app.command("global")
def global_stage(
    config: Config = "toybox-global",
    model: Model = None,
    data: Data = None,
    output: Output = None,
    adapter: Adapter = None,
    steps: Steps = None,
    batch_size: Batch = None,
    learning_rate: Rate = None,
    mixed_precision: Precision = None,
    seed: Seed = None,
    changes: Set = None,
    resume: Resume = True,
    progress: Progress = True,
) -> None:
    """Train M^g, K^g and V^g (Eq. 4): pictures become words.

    Example, on the toybox:

        python -m elite.toybox.export --output data/toybox-export --folder data/toybox

        elite train global --data data/toybox --output runs/toy --steps 1000

    With Stable Diffusion v1-4, on one GPU or four:

        elite download open-images --split test --limit 20000 --output data/open-images

        elite train global --config sd14-global --data data/open-images --output runs/global

        accelerate launch --multi_gpu --num_processes 4 -m elite.cli train global --config sd14-global
    """
    given = _given(model, data, output, adapter, steps, batch_size, learning_rate, mixed_precision, seed)
    _train("global", config, given, changes, resume, progress)


@app.command("local")
def local_stage(
    config: Config = "toybox-local",
    model: Model = None,
    data: Data = None,
    output: Output = None,
    adapter: Adapter = None,
    steps: Steps = None,
    batch_size: Batch = None,
    learning_rate: Rate = None,
    mixed_precision: Precision = None,
    seed: Seed = None,
    changes: Set = None,
    resume: Resume = True,
    progress: Progress = True,
) -> None:
    """Train M^l, K^l and V^l (Eq. 7), after the global stage: pictures become details.

    Example, on the toybox and with Stable Diffusion v1-4:

        elite train local --data data/toybox --adapter runs/toy --output runs/toy-local --steps 1000

        elite train local --config sd14-local --data data/open-images --adapter runs/global --output runs/local

        elite train local --config my-settings.yaml --set fusion_weight=1.0 --set ema_decay=0.999
    """
    given = _given(model, data, output, adapter, steps, batch_size, learning_rate, mixed_precision, seed)
    _train("local", config, given, changes, resume, progress)


def _given(
    model: str | None,
    data: Path | None,
    output: Path | None,
    adapter: str | None,
    steps: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    mixed_precision: str | None,
    seed: int | None,
) -> dict[str, Any]:
    """The settings that were named on the command line."""
    values = {
        "model": model,
        "data": None if data is None else str(data),
        "output": None if output is None else str(output),
        "adapter": adapter,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "mixed_precision": mixed_precision,
        "seed": seed,
    }
    return {name: value for name, value in values.items() if value is not None}


def parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE texts as settings; values are read as YAML.

    Raises:
        ValueError: for a text without "=", or a value that is not YAML.
    """
    import yaml

    parsed: dict[str, Any] = {}
    for change in changes or []:
        name, equals, value = change.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--set must be NAME=VALUE, such as --set ema_decay=0.999, got {change!r}.")
        try:
            parsed[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {change!r} has a value that cannot be read: {error}") from error
    return parsed


def load_settings(stage: str, config: str, changes: dict[str, Any]) -> TrainingConfig:
    """The settings of a preset or file with changes.

    Raises:
        ValueError: when they are those of the other stage, or one is wrong.
    """
    from elite.training.presets import load_config

    settings = load_config(config, **changes)
    if settings.stage != stage:
        raise ValueError(f"config {config} is for the {settings.stage} stage; use elite train {settings.stage}.")
    return settings


def _train(
    stage: str, config: str, given: dict[str, Any], changes: list[str] | None, resume: bool, progress: bool
) -> None:
    with one_sentence():
        settings = load_settings(stage, config, {**given, **parse_changes(changes)})
        check_writable(Path(settings.output))
        from elite.training.loop import train

        try:
            result = train(settings, resume=resume, progress=progress)
        except FloatingPointError as error:
            raise RuntimeError(f"{error} The last checkpoint in {settings.output} is good.") from error
    for step, loss in result.validation:
        typer.echo(f"step {step}: validation loss {loss:.4f}")
    if result.skipped:
        typer.echo(f"{result.skipped} samples had broken files and were replaced by their neighbours")
    typer.echo(f"{result.step} steps taken; checkpoints, curve and pictures are in {settings.output}")
