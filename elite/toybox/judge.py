"""The judge: a classifier of class, scene, accessory, main colour and pattern, trained on rendered pictures and on nothing else.

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

QUESTIONS = ("class", "scene", "accessory", "color", "pattern")
NOTHING = "none"  # the answer where a picture has no accessory, no scene, or a subject without a pattern


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in each of B pictures: one name a picture and question."""

    class_name: list[str]
    scene: list[str]
    accessory: list[str]
    color: list[str]
    pattern: list[str]


def split_labels(labels: list[str]) -> dict[str, slice]:
    """Where each question's answers stand among labels such as ``"class: dog"``, each question's side by side."""
    slices = {}
    for question in QUESTIONS:
        places = [place for place, label in enumerate(labels) if label.startswith(f"{question}: ")]
        if not places or places != list(range(places[0], places[-1] + 1)):
            raise ValueError(f"labels must hold the answers to {question!r} side by side, got {labels}.")
        slices[question] = slice(places[0], places[-1] + 1)
    return slices


class Judge(nn.Module):
    """Wraps the network, whose outputs are the answers to all questions side by side."""

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
        """Scores of images (B, 3, 128, 128) in [-1, 1]: for each question (B, answers)."""
        scores = self.network(images).logits
        return {question: scores[:, where] for question, where in self.positions.items()}

    def losses(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy of each question; ``targets`` hold positions among its answers, (B,), -1 for "do not ask"."""
        logits = self.logits(images)
        losses = {q: F.cross_entropy(logits[q], targets[q], ignore_index=-1) for q in QUESTIONS}
        return {"loss": sum(losses.values()), **losses}

    def answers(self, question: str) -> list[str]:
        """The names that the judge can answer to a question."""
        return [label.removeprefix(f"{question}: ") for label in self.labels[self.positions[question]]]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Verdict:
        """The most likely answers about images (B, 3, 128, 128) in [-1, 1]."""
        names = {}
        for question, scores in self.logits(images).items():
            answers = self.answers(question)
            names[question] = [answers[index] for index in scores.argmax(1).tolist()]
        return Verdict(names.pop("class"), **names)
