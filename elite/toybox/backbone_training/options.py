"""Command-line options that every training program shares, and where the programs keep their files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from elite.io.files import cache_folder
from elite.toybox.backbone_training.fit import FitSettings

Steps = Annotated[int | None, typer.Option(help="Optimiser steps in all.")]
Minutes = Annotated[float | None, typer.Option(help="Wall-clock minutes in all, resumed runs included.")]
Threads = Annotated[int, typer.Option(help="CPU threads.")]
Seed = Annotated[int, typer.Option(help="Seed of the weights and of every draw.")]
InitFrom = Annotated[Path | None, typer.Option(help="Weights folder to start from instead of random weights.")]
Data = Annotated[Path, typer.Option(help="Folder of rendered pictures (see the pictures program).")]
Out = Annotated[Path, typer.Option(help="Folder of the run: checkpoint, curve, finished part.")]
Batch = Annotated[int, typer.Option(help="Pictures a step.")]
Rate = Annotated[float, typer.Option(help="Peak learning rate.")]
StopFile = Annotated[Path | None, typer.Option(help="Checkpoint and end when this file exists.")]
BFloat16 = Annotated[
    bool | None,
    typer.Option(help="Run steps in bfloat16; left out, where the processor has it. Other digits, not other pictures."),
]
Workers = Annotated[int, typer.Option(help="Processes.")]


def cache() -> Path:
    """The toybox's part of the cache: ``$ELITE_CACHE/toybox``, by default ``~/.cache/elite/toybox``."""
    return cache_folder("toybox")


def settings(
    steps: int | None,
    minutes: float | None,
    rate: float,
    seed: int,
    stop_file: Path | None = None,
    bfloat16: bool | None = None,
    **others: float,
) -> FitSettings:
    """Fit settings of the shared options; ``minutes`` is 10 when neither limit is given."""
    if steps is None and minutes is None:
        minutes = 10.0
    if bfloat16 is None:
        bfloat16 = torch.cpu._is_avx512_bf16_supported()
    return FitSettings(
        steps=steps,
        minutes=minutes,
        learning_rate=rate,
        seed=seed,
        stop_file=stop_file,
        bfloat16=bfloat16,
        **others,
    )


def start(threads: int, seed: int) -> None:
    """Set the threads and the seed that the initial weights are drawn from."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
