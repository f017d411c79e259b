"""Trains the variants of the adapter that the paper's tables compare: ``python -m tools.toybox.variants``.

Each is trained like the bundled adapter but shorter, all equally long and from the same seed: they are compared with
one another alone. It needs a run whose backbone is trained (`tools.toybox.train`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from elite.training.steps import CLASS_WORD
from tools.toybox.fit import OutOfTimeError, say
from tools.toybox.recipe import load_recipe
from tools.toybox.train import UNFINISHED, Run, default_folder, train_both

HIDDEN_DIM = 192  # narrower than the bundled adapter: all of them are bundled too
DEEPEST = 6


@dataclass(frozen=True)
class Variant:
    """What tells one from the normal training.

    Attributes:
        layers: of the image encoder, in the order of the words.
        stages: that are trained.
        changes: see `train.train_both`.
    """

    layers: tuple[int, ...] = (DEEPEST, 1, 2, 3, 4)
    stages: tuple[str, ...] = ("global",)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)


VARIANTS = {
    "control": Variant(stages=("global", "local")),  # its global half is the "first" of Table 4
    "single-word": Variant(layers=(DEEPEST,)),
    "single-layer": Variant(layers=(DEEPEST,) * 5),
    "middle": Variant(layers=(1, 2, DEEPEST, 3, 4)),
    "last": Variant(layers=(1, 2, 3, 4, DEEPEST)),
    "no-global": Variant(stages=("local",), changes={"local": {"words": CLASS_WORD}}),  # Fig. 17
}

app = typer.Typer(add_completion=False)


@app.command()
def main(
    folder: Annotated[Path | None, typer.Option(help="Of the run.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for an adapter of each variant.")] = Path("build/toybox/variants"),
    share: Annotated[float, typer.Option(help="Share of the recipe, as the run was trained.")] = 1.0,
    minutes: Annotated[float, typer.Option(help="Stop after so many minutes; call again to go on.")] = math.inf,
    backbone_from: Annotated[Path | None, typer.Option(help="Weights folder whose backbone is kept.")] = None,
) -> None:
    """Train every variant that is not there yet."""
    recipe = load_recipe()
    run = Run(folder or default_folder(), recipe if share == 1 else recipe.shortened(share), True, minutes)
    try:
        parts = run.parts(backbone_from)
        source = run.object_source()
        latents = source.latents(parts["vae"])
        for name, variant in VARIANTS.items():
            if (out / name / "config.json").exists():
                continue
            say(f"variant {name}")
            pipeline = run.elite_pipeline(parts, layers=variant.layers, hidden_dim=HIDDEN_DIM)
            train_both(
                run, pipeline, source, f"-{name}",
                changes=variant.changes, latents=latents, part="variant", which=variant.stages,
            )  # fmt: skip
            adapter = pipeline.adapter.detach()
            adapter.to(torch.float16).save_pretrained(out / name)
    except OutOfTimeError as stopped:
        say(f"{stopped}; call again to go on.")
        raise typer.Exit(UNFINISHED) from None


if __name__ == "__main__":
    app()
