"""The numbers of the toybox report, each a plain function of tensors or names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def psnr(reconstruction: Tensor, images: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB.

    Args:
        reconstruction, images: (B, 3, H, W) in [-1, 1]; the reconstruction is clamped to that range.
        mask: (B, 1, H, W) in {0, 1}; the error is then the mean over its pixels only.

    Returns:
        (B,).
    """
    error = ((reconstruction.clamp(-1, 1) - images) / 2).square().mean(1, keepdim=True)  # (B, 1, H, W), peak 1
    weight = torch.ones_like(error) if mask is None else mask.to(error.dtype)
    mean = (error * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1)
    return -10 * mean.clamp_min(1e-10).log10()


def accuracy(answers: Sequence[str], expected: Sequence[str | None]) -> float:
    """Share of right answers among those that expect something; NaN if none does."""
    asked = [(answer, right) for answer, right in zip(answers, expected, strict=True) if right is not None]
    return sum(answer == right for answer, right in asked) / len(asked) if asked else float("nan")


def top1_true(similarity: Tensor, truth: Tensor) -> float:
    """Share of pictures whose most similar caption is true of them.

    Args:
        similarity: (P pictures, C captions).
        truth: (P, C) of bool.
    """
    best = similarity.argmax(1, keepdim=True)
    return float(truth.gather(1, best).float().mean())


def triplet_accuracy(first: Tensor, second: Tensor, class_names: Sequence[str]) -> float:
    """How often a subject's two pictures are closer than the first is to another subject of the same class.

    Args:
        first, second: unit features of two pictures of each subject, (S, D).
        class_names: the subjects' classes; every same-class pair of different subjects makes a triple.

    Returns:
        The share of triples; NaN if no class has two subjects.
    """
    same = (first * second).sum(1, keepdim=True)  # (S, 1)
    other = first @ second.T  # (S, S)
    rivals = torch.tensor([[a == b and i != j for j, b in enumerate(class_names)] for i, a in enumerate(class_names)])
    return float((same > other)[rivals].float().mean()) if rivals.any() else float("nan")
