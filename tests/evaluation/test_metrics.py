"""Metrics against naive loops, scipy and torchmetrics' arithmetic, and what must hold of any of them."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import bootstrap

from elite.evaluation.metrics import (
    clip_i,
    clip_t,
    estimate,
    image_likeness,
    is_nearest,
    subject_means,
    text_likeness,
)
from tests.evaluation.worlds import projected, texts
from tests.helpers import draw, picture


def cosine(a, b) -> float:
    """By the schoolbook."""
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


def test_image_likeness_is_the_mean_cosine_of_all_pairs():
    generated, references = 3 * draw(5, 7, seed=1), draw(4, 7, seed=2)
    found = image_likeness(generated, references)
    for row, one in zip(found, generated, strict=True):
        assert float(row) == pytest.approx(sum(cosine(one, other) for other in references) / 4, abs=1e-6)
    by_scipy = 1 - cdist(generated.numpy(), references.numpy(), "cosine")
    assert found.numpy() == pytest.approx(by_scipy.mean(axis=1), abs=1e-6)


def test_text_likeness_is_a_hundredth_of_clipscore():
    """torchmetrics' CLIPScore: 100 × the cosine of unit embeddings, summed over the feature, before it is clamped."""
    pictures, sentences = draw(6, 7, seed=3), draw(6, 7, seed=4)
    unit = [value / value.norm(p=2, dim=-1, keepdim=True) for value in (pictures, sentences)]
    clipscore = 100 * (unit[0] * unit[1]).sum(dim=-1)
    torch.testing.assert_close(100 * text_likeness(pictures, sentences), clipscore, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="texts must be one for each picture"):
        text_likeness(pictures, sentences[:5])


def test_identical_pictures_give_one():
    same = [picture(1)] * 3
    assert clip_i(same, same[:1], projected(1)) == pytest.approx(1, abs=1e-6)
    assert clip_i(same, [picture(2)], projected(1)) < 0.999
    assert clip_t(same, ["a dog"] * 3, lambda images: texts(["a dog"] * len(images)), texts) == pytest.approx(
        1, abs=1e-6
    )


def test_neither_order_nor_batches_count():
    generated, references = draw(9, 7, seed=5), draw(6, 7, seed=6)
    whole = image_likeness(generated, references)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(image_likeness(generated[order], references), whole[order])
    torch.testing.assert_close(image_likeness(generated, references.flip(0)), whole, rtol=0, atol=1e-7)
    parts = torch.cat([image_likeness(part, references) for part in generated.split(2)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-7)


def test_nearest_means_nearer_than_every_lookalike():
    own = draw(1, 7, seed=7) + 0.3 * draw(2, 7, seed=10)
    lookalikes = draw(5, 1, 7, seed=8) + 0.3 * draw(5, 2, 7, seed=11)
    generated = torch.cat([own, lookalikes[3], draw(20, 7, seed=9)])
    found = is_nearest(generated, own, lookalikes)
    for row, one in zip(found, generated, strict=True):
        mine = sum(cosine(one, other) for other in own) / 2
        theirs = [sum(cosine(one, other) for other in group) / 2 for group in lookalikes]
        assert bool(row) == (mine > max(theirs))
    assert bool(found[:2].all()) and not bool(found[2:4].any())
    assert not bool(is_nearest(generated, own, own[None]).any())  # a draw is no success
    with pytest.raises(ValueError, match="lookalikes must be"):
        is_nearest(generated, own, lookalikes[:, :0])


def test_means_go_over_pictures_then_prompts_then_subjects():
    """Another order would let a subject with more pictures, or more prompts with a score, weigh more."""
    scores = [[[1.0, 0.0], [None, 1.0]], [[0.0, None, None], [None]], [[None]]]
    assert subject_means(scores) == [0.75, 0.0]
    assert estimate(scores).mean == 0.375
    assert estimate(scores).subjects == 2
    assert estimate([[[None]]]) is None


def test_the_interval_is_scipys_percentile_bootstrap_over_subjects():
    draws = np.random.default_rng(3).normal(0.6, 0.1, 20)
    found = estimate([[[value]] for value in draws], resamples=20_000)
    theirs = bootstrap((draws,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=2e-3)
    assert found.high == pytest.approx(theirs.high, abs=2e-3)
    # Many pictures of few subjects make it no surer.
    assert estimate([[[value] * 50] for value in draws], resamples=20_000) == pytest.approx(found, abs=1e-12)


def test_of_one_subject_there_is_no_interval():
    found = estimate([[[0.25, 0.75]]])
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


def test_the_mean_does_not_depend_on_the_subjects_order():
    values = [[[random.Random(i).random()]] for i in range(30)]
    assert estimate(values).mean == pytest.approx(estimate(values[::-1]).mean, abs=1e-12)


@pytest.mark.parametrize("references", [torch.zeros(0, 7), torch.zeros(3, 6)])
def test_nothing_to_compare_with_is_said(references):
    with pytest.raises(ValueError, match=r"references must be \(pictures, 7\) with at least one"):
        image_likeness(draw(2, 7), references)
