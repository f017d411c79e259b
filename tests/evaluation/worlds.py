"""A small evaluation: subjects of random pictures, and encoders that are nothing but fixed projections of pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from elite.evaluation.encoders import Encoders
from elite.evaluation.subjects import EvaluationSubject, Example
from tests.helpers import draw, half_mask, picture

PROMPTS = ("a {} in the snow", "a red {}", "a {} on the beach")


def subject(number: int, class_name: str = "dog", prompts: Sequence[str] = PROMPTS) -> EvaluationSubject:
    """A subject of three random pictures, with four look-alikes of two pictures each."""
    base = 100 * (number + 1)
    groups = tuple((picture(base + 10 * i), picture(base + 10 * i + 1)) for i in range(1, 5))
    return EvaluationSubject(
        f"{class_name}{number}",
        class_name,
        Example(picture(base), half_mask()),
        (picture(base + 1), picture(base + 2)),
        tuple(prompts),
        lambda: groups,
        lambda prompt, seed: picture(base + len(prompt)),
        lambda prompt, seed: picture(base + 50 + len(prompt)),
    )


def pixels(images: Sequence[Image.Image]) -> Tensor:
    """(P, 192): pictures brought to 8 × 8 pixels, less their mean: what is left tells even dull pictures apart."""
    small = [np.asarray(image.convert("RGB").resize((8, 8)), dtype=np.float32) / 255 for image in images]
    values = torch.from_numpy(np.stack(small)).flatten(1)
    return values - values.mean(1, keepdim=True)


def projected(seed: int):
    weight = draw(192, 7, seed=seed)
    return lambda images: pixels(images) @ weight


def texts(given: Sequence[str]) -> Tensor:
    """(P, 7): of the letters of each text."""
    return torch.stack([sum(draw(7, seed=ord(letter)) for letter in text) for text in given])


def encoders(**changes) -> Encoders:
    parts = {"clip_image": projected(1), "clip_text": texts, "dino": projected(2), "models": {"random": "1"}}
    return Encoders("random", **{**parts, **changes})
