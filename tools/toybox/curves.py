"""Puts thinned curves of training beside the weights, where the book draws them from.

``python -m elite.toybox.backbone_training.curves --weights FOLDER unet=runs/unet/curve.jsonl``
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from elite.io.checksums import CURVES
from elite.toybox.record import to_line, write_text

LIMIT = 100  # lines a part: all parts together stay below 50 kB
LEFT_OUT = {"gradient", "learning_rate", "steps_per_s"}  # of the optimiser and the machine, not of what was learned
PARTS = ("clip", "vae", "judge", "identity", "unet")


def thin_curve(lines: Sequence[Mapping[str, float]], limit: int = LIMIT) -> list[dict[str, float]]:
    """At most ``limit`` lines of a curve.

    Lines with a ``loss`` are training: neighbours become their mean, at the step of the last of them. The others are
    validation, at most a quarter of the lines: some are left out, evenly, but neither the first nor the last.

    A run that was stopped resumes at its checkpoint and repeats steps; only the last pass over a step counts.

    Args:
        lines: as `Fit` logs them, each with ``step``.
        limit: at least 8.

    Raises:
        ValueError: if ``limit`` is below 8.
    """
    if limit < 8:
        raise ValueError(f"`limit` is {limit}: pass at least 8, so that both ends of the curve fit.")
    training: list[dict[str, float]] = []
    validation: list[dict[str, float]] = []
    for line in lines:
        kept = training if "loss" in line else validation
        while kept and kept[-1]["step"] >= line["step"]:
            kept.pop()
        kept.append({key: value for key, value in line.items() if key not in LEFT_OUT})
    tested = _evenly(validation, limit // 4)
    lines = sorted(tested + _means(training, limit - len(tested)), key=lambda line: line["step"])
    return [{key: _short(value) for key, value in line.items()} for line in lines]


def copy_curves(sources: Mapping[str, Path], folder: Path) -> list[str]:
    """Write the curves that exist, thinned, into ``folder``/curves, each all at once; others there stay.

    Args:
        sources: the ``curve.jsonl`` of each part.
        folder: the weights.

    Returns:
        The names of the parts written.
    """
    written = []
    for part, path in sources.items():
        if path.is_file():
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            write_text(folder / CURVES / f"{part}.jsonl", "".join(map(to_line, thin_curve(lines))))
            written.append(part)
    return written


def curves_of_run(runs: Path) -> dict[str, Path]:
    """Where a run below ``runs`` logs the curve of each part."""
    return {part: runs / part / "curve.jsonl" for part in PARTS}


def _short(value: float) -> float:
    """Four significant digits; whole numbers stay whole."""
    return value if isinstance(value, int) else float(f"{value:.4g}")


def _evenly(lines: list[dict[str, float]], count: int) -> list[dict[str, float]]:
    if len(lines) <= count:
        return lines
    return [lines[round(place * (len(lines) - 1) / (count - 1))] for place in range(count)]


def _means(lines: list[dict[str, float]], count: int) -> list[dict[str, float]]:
    """``count`` or fewer lines, each the mean of as many neighbours as any other, give or take one."""
    count = min(count, len(lines))
    cuts = [round(place * len(lines) / count) for place in range(count + 1)] if count else []
    parts = [lines[first:end] for first, end in pairwise(cuts)]
    when = ("step", "minutes")
    return [
        {key: value if key in when else fmean(line.get(key, value) for line in part) for key, value in part[-1].items()}
        for part in parts
    ]


app = typer.Typer(add_completion=False)


@app.command()
def main(
    curves: Annotated[list[str], typer.Argument(help="PART=curve.jsonl, one a part.")],
    weights: Annotated[Path, typer.Option(help="Weights folder.")],
) -> None:
    """Put thinned curves beside the weights."""
    sources = {part: Path(path) for part, _, path in (curve.partition("=") for curve in curves)}
    for part, path in sources.items():
        if not part or not path.is_file():
            raise typer.BadParameter(f"{part}={path} must be PART=FILE with an existing file.")
    typer.echo(" ".join(copy_curves(sources, weights)))


if __name__ == "__main__":
    app()
