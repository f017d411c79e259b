"""Puts the finished parts of a run, with their curves, into a weights folder; other parts stay as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    ResNetForImageClassification,
    ViTModel,
)

from elite.toybox.backbone_training import options
from elite.toybox.backbone_training.curves import copy_curves, curves_of_run
from elite.toybox.backbone_training.judge import judge_labels
from elite.toybox.backbone_training.pictures import PictureSet
from elite.toybox.bundle import random_weights, update_weights


def finished_parts(runs: Path) -> dict[str, nn.Module | object]:
    """The parts that the programs have written below ``runs``, in float32, by their names in a weights folder."""
    readers = {
        "tokenizer": (runs / "tokenizer", lambda path: CLIPTokenizer.from_pretrained(path)),
        "text_encoder": (runs / "clip" / "text_encoder", lambda path: CLIPTextModel.from_pretrained(path)),
        "image_encoder": (runs / "clip" / "image_encoder", lambda p: CLIPVisionModelWithProjection.from_pretrained(p)),
        "vae": (runs / "vae" / "vae", lambda path: AutoencoderKL.from_pretrained(path)),
        "unet": (runs / "unet" / "unet", lambda path: UNet2DConditionModel.from_pretrained(path)),
        "judge": (runs / "judge" / "judge", lambda path: ResNetForImageClassification.from_pretrained(path)),
        "identity_encoder": (
            runs / "identity" / "identity_encoder",
            lambda path: ViTModel.from_pretrained(path, add_pooling_layer=False),
        ),
    }
    parts = {name: read(path) for name, (path, read) in readers.items() if path.exists()}
    latents = runs / "latents" / "train.pt"
    if "vae" in parts and latents.exists():
        factor = torch.load(latents, weights_only=True, mmap=True)["factor"]
        parts["vae"].register_to_config(scaling_factor=round(factor, 5))
    return parts


def assemble(runs: Path, out: Path, data: Path, seed: int = 0) -> list[str]:
    """Write what is finished below ``runs`` into the weights folder ``out``, which is made if it is not there.

    Parts are written in half precision; the thinned curves of training stand beside them.

    Returns:
        The names of the parts written.
    """
    parts = finished_parts(runs)
    if not (out / "model_index.json").exists():
        random_weights(out, parts["tokenizer"], judge_labels(PictureSet(data / "train")), seed)
    head = runs / "clip" / "clip_head.safetensors"
    update_weights(out, parts, load_file(head) if head.exists() else None)
    copy_curves(curves_of_run(runs), out)
    return sorted(parts)


app = typer.Typer(add_completion=False)


@app.command()
def main(
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")],
    out: options.Out,
    data: options.Data,
    seed: options.Seed = 0,
) -> None:
    """Assemble a weights folder from a run."""
    typer.echo(" ".join(assemble(runs, out, data, seed)))


if __name__ == "__main__":
    app()
