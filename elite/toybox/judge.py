"""The judge: a classifier of class, scene and accessory, trained on rendered pictures and on nothing else.

It shares no weights, captions or features with the CLIP pair, so it can say whether generated pictures show what their
prompts asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetForImageClassification

QUESTIONS = ("class", "scene", "accessory")
NOTHING = "none"  # the answer where a picture has no accessory, or no scene


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in each of B pictures: one name a picture and question."""

    class_name: list[str]
    scene: list[str]
    accessory: list[str]


def split_labels(labels: list[str]) -> dict[str, list[int]]:
    """Positions of each question's answers among labels such as ``"class: dog"``."""
    return {q: [i for i, label in enumerate(labels) if label.startswith(f"{q}: ")] for q in QUESTIONS}


class Judge(nn.Module):
    """Wraps the network, whose outputs are the answers to all three questions side by side."""

    def __init__(self, network: ResNetForImageClassification) -> None:
        super().__init__()
        self.network = network
        self.labels = [network.config.id2label[index] for index in range(network.config.num_labels)]
        self.positions = split_labels(self.labels)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Judge:
        """Load in float32 and evaluation mode."""
        return cls(ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32)).eval()

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """Scores of images (B, 3, 64, 64) in [-1, 1]: for each question (B, answers)."""
        scores = self.network(images).logits
        return {question: scores[:, positions] for question, positions in self.positions.items()}

    def losses(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy of each question; ``targets`` hold positions among its answers, (B,), -1 for "do not ask"."""
        logits = self.logits(images)
        losses = {q: F.cross_entropy(logits[q], targets[q], ignore_index=-1) for q in QUESTIONS}
        return {"loss": sum(losses.values()), **losses}

    def answers(self, question: str) -> list[str]:
        """The names that the judge can answer to a question."""
        return [self.labels[position].removeprefix(f"{question}: ") for position in self.positions[question]]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Verdict:
        """The most likely class, scene and accessory of images (B, 3, 64, 64) in [-1, 1]."""
        names = {}
        for question, scores in self.logits(images).items():
            answers = self.answers(question)
            names[question] = [answers[index] for index in scores.argmax(1).tolist()]
        return Verdict(names["class"], names["scene"], names["accessory"])
