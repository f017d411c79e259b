"""Fixtures for all tests."""

from __future__ import annotations

import copy
import os

import hypothesis
import pytest
import torch
from diffusers import StableDiffusionPipeline

from elite.attention import remove_processors
from tests.helpers import draw, half_mask, picture, tiny_pipeline

torch.set_num_threads(1)

# The same examples in every run; HYPOTHESIS_PROFILE=default looks for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def tiny():
    """A tiny `ElitePipeline` with a trained-like adapter; tests leave it as they find it."""
    return tiny_pipeline(seed=0)


@pytest.fixture
def fresh():
    """A tiny `ElitePipeline` of this test's own, to be changed at will."""
    return tiny_pipeline(seed=0)


@pytest.fixture(scope="session")
def concept(tiny):
    """A subject on the left half of a random picture."""
    return tiny.encode_concept(picture(1), half_mask())


@pytest.fixture
def noise():
    """Latents of one sample for the tiny UNet, (1, 4, 8, 8)."""
    return draw(1, 4, 8, 8, seed=3)


@pytest.fixture(scope="session")
def stock(tiny):
    """The base class on the same parts, with the UNet's own processors."""
    parts = {**tiny.components, "unet": copy.deepcopy(tiny.unet)}
    del parts["adapter"]
    remove_processors(parts["unet"])
    pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe
