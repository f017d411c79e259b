"""No step waits for the device: nothing in it looks at a tensor's values, and nothing is sized by them."""

from __future__ import annotations

import pytest
import torch

from bench.operations import Operations
from elite.attention import Conditioning, condition
from elite.losses import diffusion_loss
from elite.prompts import select_words
from elite.training.steps import StageModule
from tests.helpers import LENGTH, WIDTH, draw

ROWS = 3


def batch_of(stage: str, module: StageModule) -> dict:
    tokens = module.tokenize(["a photo of a S*", "the S*", "a dark photo of the S*"])
    batch = {
        "pixel_values": draw(ROWS, 3, 16, 16).clamp(-1, 1),
        "pixel_values_clip": draw(ROWS, 3, 16, 16, seed=1),
        "input_ids": tokens.input_ids,
        "word_index": tokens.word_index,
    }
    if stage == "local":
        batch["pixel_values_object"] = draw(ROWS, 3, 16, 16, seed=2)
        batch["mask"] = (draw(ROWS, 1, 16, 16, seed=3) > 0).float()
        batch["loss_mask"] = torch.ones(ROWS, 1, 8, 8)
    return batch


@pytest.mark.parametrize("stage", ["global", "local"])
def test_training_step_fetches_no_value(fresh, stage):
    module = StageModule(fresh, stage, snr_gamma=5.0)
    batch, noise, timesteps = batch_of(stage, module), draw(ROWS, 4, 8, 8, seed=4), torch.tensor([3, 500, 999])
    with Operations() as operations:
        module(batch, noise, timesteps, draw(ROWS, 4, 8, 8, seed=5))["loss"].backward()
    assert operations.work["convolution.default"] and operations.work["convolution_backward.default"]
    assert not operations.waits


@pytest.mark.parametrize("fusion_weight", [0.8, torch.tensor([0.2, 0.8])])
@pytest.mark.parametrize("gradients", [True, False])
def test_unet_with_a_concept_fetches_no_value(tiny, fusion_weight, gradients):
    asked = Conditioning(draw(2, 16, WIDTH), torch.tensor([3, 5]), fusion_weight)
    latents, text, timestep = draw(4, 4, 8, 8), draw(4, LENGTH, WIDTH), torch.tensor(3)
    with torch.set_grad_enabled(gradients), condition(tiny.unet, asked), Operations() as operations:
        tiny.unet(latents, timestep, encoder_hidden_states=text)
    assert not operations.waits


@pytest.mark.parametrize("which", ["w0", "all", (0, 2), (2, 0), (1, 2), (2, 2)])
def test_words_are_chosen_without_an_index_tensor(which):
    words = draw(2, 3, 4)
    with Operations() as operations:
        chosen = select_words(words, which)
    indexes = {"w0": [0], "all": [0, 1, 2]}.get(which, which)
    assert torch.equal(chosen, torch.stack([words[:, i] for i in indexes], dim=1))
    assert not operations.waits


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: bool(x.any()),
        lambda x: x[[0, 1]],
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.new_zeros(2).masked_fill(torch.tensor([True, False]), 1),
    ],
)
def test_counter_knows_what_waits(waiting):
    with Operations() as operations:
        waiting(draw(3))
    assert operations.waits


def test_empty_mask_is_refused_before_it_is_moved(fresh):
    module = StageModule(fresh, "local")
    batch = batch_of("local", module)
    batch["loss_mask"] = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(-1, -1, 8, 8)
    with pytest.raises(ValueError, match="mask is empty"):
        module(batch, draw(ROWS, 4, 8, 8), torch.tensor([3, 500, 999]))


def test_empty_mask_where_nobody_looks_makes_the_loss_nan(monkeypatch):
    monkeypatch.setattr("elite.losses.visible", lambda tensor: False)
    assert diffusion_loss(draw(1, 4, 2, 2), draw(1, 4, 2, 2, seed=1), torch.zeros(1, 1, 2, 2)).isnan()
