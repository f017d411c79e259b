"""Trains the whole toybox in order: ``python -m elite.toybox.train_all``.

Pictures, tokenizer, the CLIP pair beside the autoencoder, the judge and the identity encoder, latents, the noise
predictor, and last both stages of ELITE, on an export in Open Images' layout. Every part resumes where it was; a part
that is complete is not trained again. The minutes are for two cores; each part's programs can be run on their own to
train it for longer.
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
    """Start one program, of `PROGRAMS` or by its whole name, on one thread a process."""
    environment = os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1"}
    module = program if "." in program else f"{PROGRAMS}.{program}"
    command = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
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
    export_pictures: int,
    elite_steps: tuple[int | None, int | None],
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
    chain_elite(runs, weights, export_pictures, seed, classes, elite_steps)


def chain_elite(
    runs: Path, weights: Path, pictures: int, seed: int, classes: str, steps: tuple[int | None, int | None]
) -> None:
    """Export the world as Open Images lies, train both stages of ELITE on it, and bundle the adapter."""
    export, folder = runs / "export", runs / "open-images"
    where = ("--output", export, "--folder", folder)
    finish([launch("elite.toybox.export", *where, "--count", pictures, "--seed", seed, "--classes", classes)])
    arguments = [("--weights", weights), ("--data", folder), ("--runs", runs), ("--seed", seed)]
    for name, count in zip(("--global-steps", "--local-steps"), steps, strict=True):
        arguments += [(name, count)] if count is not None else []
    finish([launch("elite.toybox.train_elite", *(part for option in arguments for part in option))])


app = typer.Typer(add_completion=False)


@app.command()
def main(
    minutes: Annotated[float, typer.Option(help="Of training the backbone in all, on two cores.")] = 600.0,
    pictures: Annotated[int, typer.Option(help="Training pictures.")] = 40_000,
    classes: Annotated[str, typer.Option(help="v0 (twelve classes) or all.")] = "all",
    weights: Annotated[Path, typer.Option(help="Weights folder to write.")] = Path("build/toybox/weights"),
    seed: options.Seed = 0,
    init_from: options.InitFrom = None,
    export_pictures: Annotated[int, typer.Option(help="Pictures that ELITE is trained on.")] = 24_000,
    global_steps: Annotated[int | None, typer.Option(help="Of ELITE's global stage; the preset's.")] = None,
    local_steps: Annotated[int | None, typer.Option(help="Of ELITE's local stage; the preset's.")] = None,
) -> None:
    """Train everything from a seed, or go on from a weights folder."""
    data, runs = options.cache() / classes, options.cache() / f"run-{classes}-{seed}"
    elite_steps = global_steps, local_steps
    chain(data, runs, weights, minutes, pictures, seed, classes, init_from, export_pictures, elite_steps)


if __name__ == "__main__":
    app()
