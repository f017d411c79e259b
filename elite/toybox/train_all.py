"""Trains the whole toybox backbone in order: ``python -m elite.toybox.train_all``.

Pictures, tokenizer, the CLIP pair beside the autoencoder, the judge and the identity encoder, latents, and last the
noise predictor. Every part resumes where it was; a part that is complete is not trained again. The minutes are for two
cores; each part's programs can be run on their own to train it for longer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from elite.toybox.backbone_training import options

PROGRAMS = "elite.toybox.backbone_training"
# glibc gives large blocks back to the system and takes them again every step unless it is told to keep them.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "17179869184",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
}
SHARES = {
    "clip": 0.3,
    "vae": 0.3,
    "judge": 0.05,
    "identity": 0.05,
    "unet": 0.6,
}  # of the minutes; pairs run side by side


def launch(program: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Start one training program on one thread a process."""
    environment = os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"{PROGRAMS}.{program}", *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, env=environment)


def finish(programs: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for all the programs.

    Raises:
        RuntimeError: if one failed; the others are ended then.
    """
    try:
        for program in programs:
            if program.wait() != 0:
                raise RuntimeError(f"{program.args[2]} ended with status {program.returncode}: see its output above.")
    finally:
        for program in programs:
            if program.poll() is None:
                program.terminate()


def chain(
    data: Path,
    runs: Path,
    weights: Path,
    minutes: float,
    pictures: int,
    seed: int,
    classes: str,
    init_from: Path | None,
) -> None:
    """Run every program, two at a time where they do not need each other."""
    init = ["--init-from", init_from] if init_from else []

    def length(part: str) -> tuple[object, ...]:
        return ("--minutes", round(minutes * SHARES[part], 2), "--seed", seed, *init)

    finish([launch("pictures", "--out", data, "--count", pictures, "--classes", classes)])
    if init_from:  # embeddings belong to the numbers of their tokens
        shutil.copytree(init_from / "tokenizer", runs / "tokenizer", dirs_exist_ok=True)
    else:
        finish([launch("tokenizer", "--out", runs / "tokenizer")])
    clip = ("--data", data, "--out", runs / "clip", "--tokenizer", runs / "tokenizer", *length("clip"))
    finish([launch("clip", *clip), launch("vae", "--data", data, "--out", runs / "vae", *length("vae"))])
    beside = [
        launch("judge", "--data", data, "--out", runs / "judge", *length("judge")),
        launch("identity", "--data", data, "--out", runs / "identity", *length("identity")),
    ]
    finish(beside)
    finish([launch("assemble", "--runs", runs, "--out", weights, "--data", data, "--seed", seed)])
    finish([launch("latents", "--data", data, "--weights", weights, "--out", runs / "latents")])
    finish([launch("unet", "--cached", runs / "latents", "--out", runs / "unet", *length("unet"))])
    finish([launch("assemble", "--runs", runs, "--out", weights, "--data", data, "--seed", seed)])


app = typer.Typer(add_completion=False)


@app.command()
def main(
    minutes: Annotated[float, typer.Option(help="Of training in all, on two cores.")] = 600.0,
    pictures: Annotated[int, typer.Option(help="Training pictures.")] = 40_000,
    classes: Annotated[str, typer.Option(help="v0 (twelve classes) or all.")] = "v0",
    weights: Annotated[Path, typer.Option(help="Weights folder to write.")] = Path("build/toybox/weights"),
    seed: options.Seed = 0,
    init_from: options.InitFrom = None,
) -> None:
    """Train everything from a seed, or go on from a weights folder."""
    data, runs = options.cache() / classes, options.cache() / f"run-{classes}-{seed}"
    chain(data, runs, weights, minutes, pictures, seed, classes, init_from)


if __name__ == "__main__":
    app()
