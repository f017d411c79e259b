"""CLIP-I, CLIP-T, DINO-I and retrieval: cosines of embeddings, how they are averaged, and how sure they are.

The averages are those of DreamBooth's evaluation, which the paper follows: over all pairs of a generated and a
reference picture, then over the prompts of a subject, then over the subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from PIL.Image import Image

Scores = Sequence[Sequence[Sequence[float | None]]]  # [subject][prompt][picture]; None where a score means nothing
ImageEncoder = Callable[[Sequence["Image"]], Tensor]  # P pictures -> embeddings (P, D)
TextEncoder = Callable[[Sequence[str]], Tensor]  # P texts -> embeddings (P, D)


class Estimate(NamedTuple):
    """A mean over subjects with its bootstrap interval; `low` and `high` equal it where there is one subject alone."""

    mean: float
    low: float
    high: float
    subjects: int


def image_likeness(generated: Tensor, references: Tensor) -> Tensor:
    """Mean cosine of each generated picture to all references: CLIP-I or DINO-I, by the embeddings given.

    Args:
        generated: embeddings of G generated pictures, (G, D), of any length.
        references: embeddings of R pictures of the subject, (R, D).

    Returns:
        (G,) in [-1, 1], 1 where all pictures are the same.

    Raises:
        ValueError: when there is no reference, or the shapes do not fit.
    """
    _check("references", references, generated.shape[-1])
    # The mean of dot products is the dot product with the mean; in double precision, so that no order counts.
    mean = F.normalize(references.double(), dim=-1).mean(0)
    return (F.normalize(generated.double(), dim=-1) @ mean).float()


def text_likeness(generated: Tensor, texts: Tensor) -> Tensor:
    """Cosine of each generated picture to its text: CLIP-T.

    Args:
        generated: CLIP embeddings of G pictures, (G, D).
        texts: CLIP embeddings of their texts, (G, D).

    Returns:
        (G,) in [-1, 1].

    Raises:
        ValueError: when there is not one text for each picture.
    """
    if generated.shape != texts.shape:
        raise ValueError(
            f"texts must be one for each picture, {tuple(generated.shape)}, got {tuple(texts.shape)} embeddings."
        )
    return torch.cosine_similarity(generated.double(), texts.double(), dim=-1).float()


def is_nearest(generated: Tensor, own: Tensor, lookalikes: Tensor) -> Tensor:
    """Whether each picture is nearer to its own subject than to every look-alike (rank 1).

    Args:
        generated: embeddings of G pictures of a subject, (G, D).
        own: embeddings of K pictures of that subject, (K, D).
        lookalikes: embeddings of K pictures each of L other subjects of its class, (L, K, D).

    Returns:
        (G,) of bool; a draw is no success.

    Raises:
        ValueError: when there is no picture to compare with, or the shapes do not fit.
    """
    _check("own", own, generated.shape[-1])
    if lookalikes.ndim != 3 or not lookalikes.numel() or lookalikes.shape[-1] != generated.shape[-1]:
        raise ValueError(f"lookalikes must be (subjects, pictures, width), got {tuple(lookalikes.shape)}.")
    rivals = torch.stack([image_likeness(generated, one) for one in lookalikes])  # (L, G)
    return image_likeness(generated, own) > rivals.amax(0)


def clip_i(generated: Sequence[Image], references: Sequence[Image], encoder: ImageEncoder) -> float:
    """CLIP-I of pictures; with DINO's encoder DINO-I. Mean cosine over all pairs, in [-1, 1]."""
    return float(image_likeness(encoder(generated), encoder(references)).mean())


def clip_t(generated: Sequence[Image], texts: Sequence[str], encoder: ImageEncoder, text_encoder: TextEncoder) -> float:
    """CLIP-T of pictures and their texts, one each, in which the class name stands for the subject, in [-1, 1]."""
    return float(text_likeness(encoder(generated), text_encoder(texts)).mean())


def subject_means(scores: Scores) -> list[float]:
    """Of each subject: the mean over pictures, then over prompts. Subjects without any score are left out."""
    means = []
    for prompts in scores:
        kept = [[value for value in pictures if value is not None] for pictures in prompts]
        of_prompts = [sum(values) / len(values) for values in kept if values]
        if of_prompts:
            means.append(sum(of_prompts) / len(of_prompts))
    return means


def estimate(scores: Scores, resamples: int = 2000, seed: int = 0) -> Estimate | None:
    """Mean over pictures, prompts and subjects, with a 95 % bootstrap interval over subjects.

    Args:
        scores: by subject, prompt and picture.
        resamples: how often subjects are drawn anew, with replacement.
        seed: of those draws.

    Returns:
        The estimate, or None where nothing was scored.
    """
    means = np.asarray(subject_means(scores), dtype=np.float64)
    if not len(means):
        return None
    drawn = np.random.default_rng(seed).integers(0, len(means), (resamples, len(means)))
    low, high = np.percentile(means[drawn].mean(axis=1), [2.5, 97.5])
    return Estimate(float(means.mean()), float(low), float(high), len(means))


def _check(name: str, embeddings: Tensor, width: int) -> None:
    if embeddings.ndim != 2 or not len(embeddings) or embeddings.shape[1] != width:
        raise ValueError(
            f"{name} must be (pictures, {width}) with at least one picture, got {tuple(embeddings.shape)}."
        )
