"""Trains the identity encoder without captions: two renderings of one subject attract, those of others repel.

The two views of a training example are two pictures of one training subject in different scenes; half of each batch
comes from one class, because telling two dogs apart is the point and telling a dog from a mug is easy.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch
import typer
from torch import Tensor
from torch.nn import functional as F
from transformers import ViTModel

from elite.toybox.backbone_training import options
from elite.toybox.backbone_training.fit import Fit, FitSettings
from elite.toybox.backbone_training.judge import soften
from elite.toybox.backbone_training.matrices import hidden_matrices
from elite.toybox.backbone_training.pictures import PictureSet, to_float
from elite.toybox.backbone_training.shapes import build_identity_encoder
from elite.toybox.identity import IdentityEncoder
from elite.toybox.metrics import triplet_accuracy

TEMPERATURE = 0.1


def pairs_by_class(pictures: PictureSet) -> list[Tensor]:
    """Numbers of the pictures of each subject that has two or more: for each class (subjects, 2)."""
    of_subject: dict[str, list[int]] = defaultdict(list)
    for index, facts in enumerate(pictures.facts):
        of_subject[facts["subject"]].append(index)
    of_class: dict[str, list[list[int]]] = defaultdict(list)
    for numbers in of_subject.values():
        if len(numbers) >= 2:
            of_class[pictures.facts[numbers[0]]["class_name"]].append(numbers[:2])
    return [torch.tensor(of_class[name]) for name in sorted(of_class)]


def info_nce(first: Tensor, second: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """NT-Xent (SimCLR): each of the 2B unit features (B, D) finds its partner among the 2B - 1 others."""
    features = torch.cat([first, second])
    likeness = features @ features.T / temperature
    likeness.fill_diagonal_(float("-inf"))
    size = len(first)
    partner = torch.arange(2 * size).roll(size)
    return F.cross_entropy(likeness, partner)


def train_identity(
    data: Path, out: Path, fit_settings: FitSettings, batch: int = 64, init_from: Path | None = None
) -> None:
    """Train on ``data``/train and write the averaged weights to ``out``/identity_encoder."""
    train, validation = PictureSet(data / "train"), PictureSet(data / "validation")
    if init_from is not None:
        network = ViTModel.from_pretrained(init_from / "identity_encoder", add_pooling_layer=False, dtype=torch.float32)
    else:
        network = build_identity_encoder()
    network.set_attn_implementation("eager")  # a short sequence: the fused kernel's backward pass is slower on CPUs
    encoder = IdentityEncoder(network)
    classes = pairs_by_class(train)
    everything = torch.cat(classes)
    unseen = torch.cat(pairs_by_class(validation))
    names = [validation.facts[int(index)]["class_name"] for index in unseen[:, 0]]

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        one = classes[int(torch.randint(len(classes), (1,), generator=generator))]
        alike = one[torch.randperm(len(one), generator=generator)[: batch // 2]]
        mixed = everything[torch.randint(len(everything), (batch - len(alike),), generator=generator)]
        chosen = torch.unique(torch.cat([alike, mixed]), dim=0)  # a subject twice would repel itself
        views = [soften(to_float(train.images[chosen[:, view].numpy()]), generator) for view in (0, 1)]
        for view in views:
            flipped = torch.rand(len(view), generator=generator) < 0.5
            view[flipped] = view[flipped].flip(-1)
        features = encoder(torch.cat(views))
        return {"loss": info_nce(*features.chunk(2))}

    def evaluate() -> dict[str, float]:
        count = min(500, len(unseen))
        first, second = (
            torch.cat([encoder(to_float(validation.images[part.numpy()])) for part in unseen[:count, view].split(100)])
            for view in (0, 1)
        )
        return {"validation_triplets": triplet_accuracy(first, second, names[:count])}

    fit = Fit(encoder, out, fit_settings, evaluate, hidden_matrices(network.layers))
    fit.run(step)
    with fit.averaged():
        network.save_pretrained(out / "identity_encoder")


app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: options.Data,
    out: options.Out,
    steps: options.Steps = None,
    minutes: options.Minutes = None,
    threads: options.Threads = 1,
    seed: options.Seed = 0,
    batch: options.Batch = 64,
    rate: options.Rate = 1e-3,
    init_from: options.InitFrom = None,
    stop_file: options.StopFile = None,
    bfloat16: options.BFloat16 = None,
) -> None:
    """Train the identity encoder."""
    options.start(threads, seed)
    train_identity(data, out, options.settings(steps, minutes, rate, seed, stop_file, bfloat16), batch, init_from)


if __name__ == "__main__":
    app()
