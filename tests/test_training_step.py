"""One training step of each stage by the public functions, as the docstring of elite.sampling shows it."""

from __future__ import annotations

import pytest
import torch

from elite.attention import Conditioning, condition, local_values
from elite.features import clip_features, patch_mask
from elite.losses import global_loss, local_loss
from elite.prompts import encode_prompts, select_words, tokenize
from tests.helpers import draw

PIXELS, NOISE, NOISY = draw(2, 3, 16, 16, seed=1), draw(2, 4, 8, 8, seed=2), draw(2, 4, 8, 8, seed=3)
T = torch.tensor([600, 40])


@pytest.fixture
def parts(fresh):
    fresh.adapter.requires_grad_(True)
    with torch.no_grad():
        features = clip_features(fresh.image_encoder, PIXELS)
    return fresh, fresh.adapter, features


def global_step(pipe, adapter, features):
    words = adapter.global_mapper(features)
    prompts = tokenize(pipe.tokenizer, ["a photo of a S*", "the S*"], num_words=5)
    text = encode_prompts(pipe.text_encoder, prompts, words)
    with condition(pipe.unet, Conditioning(None, prompts.word_index)):
        prediction = pipe.unet(NOISY, T, encoder_hidden_states=text).sample
    return global_loss(prediction, NOISE, words)


def local_step(pipe, adapter, features):
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., :8] = 1
    with torch.no_grad():
        words = select_words(adapter.global_mapper(features), "w0")
        prompts = tokenize(pipe.tokenizer, ["a photo of a S*", "the S*"])
        text = encode_prompts(pipe.text_encoder, prompts, words)
    patches = adapter.local_mapper(features, patch_mask(mask, 4))
    with condition(pipe.unet, Conditioning(patches, prompts.word_index)):
        prediction = pipe.unet(NOISY, T, encoder_hidden_states=text).sample
        return local_loss(prediction, NOISE, torch.ones(2, 1, 8, 8), local_values(pipe.unet))


@pytest.mark.parametrize("stage", ["global", "local"])
def test_a_stage_reaches_all_of_its_own_weights_and_a_step_lowers_the_loss(parts, stage):
    pipe, adapter, features = parts
    step = global_step if stage == "global" else local_step
    trained = adapter.global_parameters() if stage == "global" else adapter.local_parameters()
    loss = step(pipe, adapter, features)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    if stage == "local":  # the global branch only gives the map and the words: these come without gradient
        assert all(p.grad is None for p in adapter.global_mapper.parameters())
    with torch.no_grad():
        for parameter in trained:
            parameter -= 1e-3 * parameter.grad
        assert step(pipe, adapter, features) < loss


def test_gradient_passes_through_the_word_map_and_its_maximum(parts):
    """Nothing is detached: numerical differences along one direction of K^g agree with the gradient."""
    pipe, adapter, features = parts
    for part in (pipe.unet, pipe.text_encoder, adapter):
        part.double()
    features = tuple(feature.double() for feature in features)
    key = adapter.processors["mid_block_attentions_0_transformer_blocks_0_attn2"].to_k_global.weight
    direction = draw(*key.shape, seed=5).double()

    analytic = torch.autograd.grad(local_step_double(pipe, adapter, features), key)[0].mul(direction).sum()
    losses = []
    with torch.no_grad():
        start = key.clone()
        for offset in (1e-5, -1e-5):
            key.copy_(start + offset * direction)
            losses.append(local_step_double(pipe, adapter, features))
    numeric = (losses[0] - losses[1]) / 2e-5
    torch.testing.assert_close(analytic, numeric, rtol=1e-3, atol=1e-7)


def local_step_double(pipe, adapter, features):
    words = select_words(adapter.global_mapper(features), "w0")
    prompts = tokenize(pipe.tokenizer, ["a photo of a S*", "the S*"])
    text = encode_prompts(pipe.text_encoder, prompts, words)
    patches = adapter.local_mapper(features)
    with condition(pipe.unet, Conditioning(patches, prompts.word_index)):
        prediction = pipe.unet(NOISY.double(), T, encoder_hidden_states=text).sample
    return (prediction - NOISE.double()).square().mean()
