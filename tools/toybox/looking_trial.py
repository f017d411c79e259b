"""What the looking loss does: ``python -m tools.toybox.looking_trial``.

From one noise predictor that never saw the loss, three go on: with it, with a tenth of it, and without; each gets an
adapter of its own. Measured are the overlap of the word's map with the subject, and identity and scenes with Eq. 8 and
without it, on the selection subjects.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from tools.toybox import backbone
from tools.toybox.fit import OutOfTimeError, say
from tools.toybox.looks import ConceptLook, UNetLook
from tools.toybox.recipe import load_recipe
from tools.toybox.train import UNFINISHED, Run, default_folder, train_both

WEIGHTS = {"with": 1.0, "tenth": 0.1, "without": 0.0}  # times the recipe's


def trial(run: Run, out: Path) -> dict[str, dict[str, float]]:
    """Train and measure the three; what is measured is kept in ``out`` as it comes."""
    parts = run.backbone()
    recipe, pictures, texts = run.recipe, run.pictures, run.texts
    common = backbone.train_unet(pictures, texts, run.fitter("trial_start", "trial"), 0.0, recipe.snr_gamma["unet"])
    start = common.state_dict()
    source = run.object_source()
    latents = source.latents(parts["vae"])
    concepts = ConceptLook(parts["identity_encoder"], parts["judge"])
    results: dict[str, dict[str, float]] = json.loads(out.read_text()) if out.exists() else {}
    for name, factor in WEIGHTS.items():
        if name in results:
            continue
        fitter = run.fitter(f"unet-{name}", "trial", "trial_unet")
        unet = backbone.train_unet(
            pictures, texts, fitter, factor * recipe.looking, recipe.snr_gamma["unet"], start=start
        )
        numbers = UNetLook(lambda unet: run.plain_pipeline(parts | {"unet": unet}), parts["judge"])(unet)
        pipeline = run.elite_pipeline(parts | {"unet": unet})
        train_both(run, pipeline, source, f"-trial-{name}", latents=latents, part="trial_stage")
        numbers |= concepts(pipeline)
        numbers |= concepts.reweighting(pipeline) | {"word_map_iou": concepts.word_map_iou(pipeline)}
        results[name] = numbers
        say(name, json.dumps(numbers))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2) + "\n")
    return results


app = typer.Typer(add_completion=False)


@app.command()
def main(
    folder: Annotated[Path | None, typer.Option(help="Of the run.")] = None,
    out: Annotated[Path, typer.Option(help="File of the numbers.")] = Path("build/toybox/looking.json"),
    share: Annotated[float, typer.Option(help="Share of the recipe, as the run was trained.")] = 1.0,
    minutes: Annotated[float, typer.Option(help="Stop after so many minutes; call again to go on.")] = math.inf,
) -> None:
    """Train and measure what is not measured yet."""
    recipe = load_recipe()
    run = Run(folder or default_folder(), recipe if share == 1 else recipe.shortened(share), True, minutes)
    try:
        run.start_rendering()
        trial(run, out)
    except OutOfTimeError as stopped:
        say(f"{stopped}; call again to go on.")
        raise typer.Exit(UNFINISHED) from None


if __name__ == "__main__":
    app()
