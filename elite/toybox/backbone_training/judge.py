"""Trains the judge on rendered pictures: class, scene and accessory, under blur, noise and shifts.

The augmentation keeps the judge fair to generated pictures, which are a little softer than rendered ones.
"""

from __future__ import annotations

from pathlib import Path

import torch
import typer
from torch import Tensor
from torch.nn import functional as F
from transformers import ResNetForImageClassification

from elite.toybox.backbone_training import options
from elite.toybox.backbone_training.fit import Fit, FitSettings
from elite.toybox.backbone_training.pictures import PictureSet, to_float
from elite.toybox.backbone_training.shapes import build_judge
from elite.toybox.judge import NOTHING, QUESTIONS, Judge

FACT_OF = {"class": "class_name", "scene": "scene", "accessory": "accessory"}


def judge_labels(pictures: PictureSet) -> list[str]:
    """Every answer that occurs in the pictures, as ``"question: answer"``, in a fixed order."""
    labels = []
    for question in QUESTIONS:
        answers = {facts[FACT_OF[question]] or NOTHING for facts in pictures.facts}
        labels += [f"{question}: {answer}" for answer in sorted(answers)]
    return labels


def judge_targets(judge: Judge, pictures: PictureSet) -> dict[str, Tensor]:
    """Positions of the right answers, for each question (N,); -1 where the judge has no such answer."""
    targets = {}
    for question in QUESTIONS:
        place = {answer: index for index, answer in enumerate(judge.answers(question))}
        names = [facts[FACT_OF[question]] or NOTHING for facts in pictures.facts]
        targets[question] = torch.tensor([place.get(name, -1) for name in names])
    return targets


def soften(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random shifts by up to 4 pixels, blur, noise and contrast on images (B, 3, 64, 64) in [-1, 1]."""
    size = len(images)
    padded = F.pad(images, (4, 4, 4, 4), mode="replicate")
    rows = torch.randint(0, 9, (2,), generator=generator).tolist()
    images = padded[..., rows[0] : rows[0] + images.shape[-2], rows[1] : rows[1] + images.shape[-1]]
    amount = torch.rand(size, 1, 1, 1, generator=generator)
    amount = amount * (torch.rand(size, 1, 1, 1, generator=generator) < 0.5)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = images.lerp(blurred, amount)
    noise = torch.randn(images.shape, generator=generator)
    images = images + noise * 0.12 * torch.rand(size, 1, 1, 1, generator=generator)
    contrast = 0.85 + 0.3 * torch.rand(size, 1, 1, 1, generator=generator)
    return (images * contrast).clamp(-1, 1)


def train_judge(
    data: Path, out: Path, fit_settings: FitSettings, batch: int = 64, init_from: Path | None = None
) -> None:
    """Train on ``data``/train and write the averaged weights to ``out``/judge."""
    train, validation = PictureSet(data / "train"), PictureSet(data / "validation")
    network = build_judge(judge_labels(train))
    if init_from is not None:
        start = ResNetForImageClassification.from_pretrained(init_from / "judge", dtype=torch.float32)
        network.resnet.load_state_dict(start.resnet.state_dict())
        if start.config.id2label == network.config.id2label:  # other pictures may have other answers
            network.classifier.load_state_dict(start.classifier.state_dict())
    judge = Judge(network)
    targets, expected = judge_targets(judge, train), judge_targets(judge, validation)

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = torch.randint(len(train), (batch,), generator=generator)
        images = soften(to_float(train.images[chosen.numpy()]), generator)
        return judge.losses(images, {question: target[chosen] for question, target in targets.items()})

    def evaluate() -> dict[str, float]:
        right = dict.fromkeys(QUESTIONS, 0.0)
        count = min(1000, len(validation))
        for first in range(0, count, 100):
            scores = judge.logits(to_float(validation.images[first : first + 100]))
            for question in QUESTIONS:
                hits = scores[question].argmax(1) == expected[question][first : first + 100]
                right[question] += float(hits.sum()) / count
        return {f"validation_{question}": value for question, value in right.items()}

    fit = Fit(judge, out, fit_settings, evaluate)
    fit.run(step)
    with fit.averaged():
        network.save_pretrained(out / "judge")


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
    rate: options.Rate = 2e-3,
    init_from: options.InitFrom = None,
    stop_file: options.StopFile = None,
    bfloat16: options.BFloat16 = None,
) -> None:
    """Train the judge."""
    options.start(threads, seed)
    train_judge(data, out, options.settings(steps, minutes, rate, seed, stop_file, bfloat16), batch, init_from)


if __name__ == "__main__":
    app()
