"""``elite train CONFIG``: the stage that the settings name, on one process or many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import check_writable, one_sentence

STAGES = ("global", "local")  # `elite train global --config …`, as 0.1 had it


def train(
    context: typer.Context,
    config: Annotated[str, typer.Argument(help="A preset (sd14-global, toybox-local, …) or a YAML file.")],
    model: Annotated[str | None, typer.Option(help="Base model: toybox, sd14, or a folder.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder of a download, or of an unpacked export.")] = None,
    output: Annotated[str | None, typer.Option(help="Folder of the run; the same again continues it.")] = None,
    adapter: Annotated[str | None, typer.Option(help="init, own, an adapter's folder, or another run's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps in all.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples of a step, over all processes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    mixed_precision: Annotated[str | None, typer.Option(help="no, fp16, bf16, or auto.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of fresh weights and every draw.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, as NAME=VALUE.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest whole checkpoint of the output.")] = True,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
    named: Annotated[str | None, typer.Option("--config", hidden=True)] = None,
) -> None:
    """Train a stage: M^g, K^g and V^g (Eq. 4), or, after it, M^l, K^l and V^l (Eq. 7).

    `elite train schema` prints the JSON schema of the YAML files, for editors.

    Example, on the toybox:

        python -m elite.toybox.export --output data/toybox-export --folder data/toybox

        elite train toybox-global --data data/toybox --output runs/toy --steps 1000

        elite train toybox-local --data data/toybox --adapter runs/toy --output runs/toy-local --steps 1000

    With Stable Diffusion v1-4, on one GPU or four:

        elite download open-images --split test --limit 20000 --output data/open-images

        elite train sd14-global --data data/open-images --output runs/global

        accelerate launch --multi_gpu --num_processes 4 -m elite.cli train sd14-global

        elite train my-settings.yaml --set fusion_weight=1.0 --set ema_decay=0.999
    """
    with one_sentence():
        from elite.training.config import TrainingConfig
        from elite.training.presets import load_config

        if config == "schema":
            typer.echo(json.dumps(TrainingConfig.model_json_schema(), indent=2))
            return
        given = {k: v for k, v in context.params.items() if k in TrainingConfig.model_fields and v is not None}
        source = (named or f"toybox-{config}") if config in STAGES else config
        settings = load_config(source, **given, **parse_changes(changes))
        if config in STAGES and settings.stage != config:
            raise ValueError(f"config {source} is for the {settings.stage} stage; use elite train {source}.")
        check_writable(Path(settings.output))
        from elite.training.loop import train as run

        try:
            result = run(settings, resume=resume, progress=progress)
        except FloatingPointError as error:
            raise RuntimeError(f"{error} The last checkpoint in {settings.output} is good.") from error
    for step, loss in result.validation:
        typer.echo(f"step {step}: validation loss {loss:.4f}")
    if result.skipped:
        typer.echo(f"{result.skipped} samples had broken files and were replaced by their neighbours")
    typer.echo(f"{result.step} steps taken; checkpoints, curve and pictures are in {settings.output}")


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
