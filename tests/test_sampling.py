"""Guidance and LMS sampling against the formulas, with timesteps that are never rounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elite.attention import Conditioning, condition
from elite.sampling import guided_noise_prediction, sample_lms
from tests.helpers import LENGTH, WIDTH, draw

TEXT, NEGATIVE = draw(1, LENGTH, WIDTH, seed=1), draw(1, LENGTH, WIDTH, seed=2)


@pytest.fixture
def asked(concept):
    return Conditioning(concept.patch_embeddings[None], torch.tensor([4]), 0.8)


def test_guidance_in_one_pass_equals_two(tiny, asked, noise):
    unet = tiny.unet
    with torch.no_grad():
        got = guided_noise_prediction(unet, noise, 700.5, TEXT, NEGATIVE, asked, guidance_scale=5.0)
        with condition(unet, Conditioning(None, asked.word_index)):
            unconditional = unet(noise, 700.5, encoder_hidden_states=NEGATIVE).sample
        with condition(unet, asked):
            conditional = unet(noise, 700.5, encoder_hidden_states=TEXT).sample
    expected = unconditional + 5 * (conditional - unconditional)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


def test_each_sample_may_have_its_own_timestep(tiny, noise):
    rows = (torch.cat([noise, noise]), torch.cat([TEXT, TEXT]), torch.cat([NEGATIVE, NEGATIVE]))
    with torch.no_grad():
        both = guided_noise_prediction(tiny.unet, rows[0], torch.tensor([700.5, 30.0]), *rows[1:])
        for row, t in zip(both, (700.5, 30.0), strict=True):
            alone = guided_noise_prediction(tiny.unet, noise, t, TEXT, NEGATIVE)[0]
            torch.testing.assert_close(row, alone, atol=2e-5, rtol=0)


def test_without_conditioning_it_is_the_base_model(tiny, noise):
    with torch.no_grad():
        got = guided_noise_prediction(tiny.unet, noise, 10, TEXT)
        assert torch.equal(got, tiny.unet(noise, 10, encoder_hidden_states=TEXT).sample)


def lagrange_integral(sigmas, order, step, j):
    """∫ of the j-th Lagrange polynomial over one step, exactly, as a polynomial."""
    poly = np.poly1d([1.0])
    for k in range(order):
        if k != j:
            node, other = sigmas[step - j], sigmas[step - k]
            poly *= np.poly1d([1.0, -other]) / (node - other)
    integral = poly.integ()
    return integral(sigmas[step + 1]) - integral(sigmas[step])


def test_lms_follows_its_formulas_with_timesteps_that_are_not_rounded(tiny, asked, noise):
    steps, scale = 7, 5.0
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    cumulative = np.cumprod(1 - betas)
    timesteps = np.linspace(0, 999, steps)[::-1]
    sigmas = np.append(np.interp(timesteps, np.arange(1000), ((1 - cumulative) / cumulative) ** 0.5), 0.0)
    assert not np.allclose(timesteps, timesteps.round())
    seen = []
    got = sample_lms(
        tiny.unet, noise, TEXT, NEGATIVE, asked, steps, scale, callback=lambda i, t, latents: seen.append(t)
    )
    np.testing.assert_allclose(seen, timesteps, rtol=1e-6)

    latents, slopes = noise * sigmas.max(), []
    for i, t in enumerate(timesteps):
        model_input = latents / (sigmas[i] ** 2 + 1) ** 0.5
        with torch.no_grad():
            slopes.append(guided_noise_prediction(tiny.unet, model_input, float(t), TEXT, NEGATIVE, asked, scale))
        order = min(i + 1, 4)
        for j in range(order):
            latents = latents + lagrange_integral(sigmas, order, i, j) * slopes[i - j]
    torch.testing.assert_close(got, latents.float(), atol=5e-4, rtol=1e-4)


def test_wrong_arguments_are_refused_before_the_unet_runs(noise):
    with pytest.raises(ValueError, match="num_inference_steps must be at least 1, got -3"):
        sample_lms(None, noise, TEXT, num_inference_steps=-3)
    with pytest.raises(ValueError, match="negative has 2 rows"):
        guided_noise_prediction(None, noise, 10, TEXT, NEGATIVE.repeat(2, 1, 1))
