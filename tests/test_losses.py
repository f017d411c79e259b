"""Eq. 1, 4 and 7 against plain loops."""

from __future__ import annotations

import pytest
import torch

from elite.losses import (
    diffusion_loss,
    global_loss,
    global_loss_parts,
    local_loss,
    local_loss_parts,
    min_snr_weights,
)
from tests.helpers import draw

NOISE, PREDICTION = draw(2, 4, 3, 3, seed=1), draw(2, 4, 3, 3, seed=2)


def test_diffusion_loss_is_the_mean_squared_error():
    torch.testing.assert_close(diffusion_loss(PREDICTION, NOISE), torch.nn.functional.mse_loss(PREDICTION, NOISE))


def test_masked_loss_sums_channels_and_averages_positions_per_sample():
    mask = (draw(2, 1, 3, 3, seed=3) > 0).float()
    mask[1, :, 1:] = 0
    mask[:, :, 0, 0] = 1
    expected = 0.0
    for b in range(2):
        error = sum(
            mask[b, 0, y, x] * (PREDICTION[b, c, y, x] - NOISE[b, c, y, x]) ** 2
            for c in range(4)
            for y in range(3)
            for x in range(3)
        )
        expected += error / mask[b].sum() / 2
    torch.testing.assert_close(diffusion_loss(PREDICTION, NOISE, mask), expected)
    full = torch.ones(2, 1, 3, 3)
    torch.testing.assert_close(diffusion_loss(PREDICTION, NOISE, full), 4 * diffusion_loss(PREDICTION, NOISE))


def test_global_loss_adds_a_hundredth_of_the_mean_absolute_word():
    words = draw(2, 5, 6)
    expected = diffusion_loss(PREDICTION, NOISE) + 0.01 * words.abs().mean()
    torch.testing.assert_close(global_loss(PREDICTION, NOISE, words), expected)


def test_local_loss_averages_layers_whatever_their_width():
    mask, values = torch.ones(2, 1, 3, 3), [draw(2, 4, 8), 3 * draw(2, 4, 16)]
    expected = diffusion_loss(PREDICTION, NOISE, mask) + 1e-4 * (values[0].abs().mean() + values[1].abs().mean()) / 2
    torch.testing.assert_close(local_loss(PREDICTION, NOISE, mask, values), expected)


def test_parts_of_the_losses_are_what_the_totals_are_made_of():
    mask, words, values = torch.ones(2, 1, 3, 3), draw(2, 5, 6), [draw(2, 4, 8), 3 * draw(2, 4, 16)]
    for parts, total, weight, diffusion, regularizer in (
        (global_loss_parts(PREDICTION, NOISE, words), global_loss(PREDICTION, NOISE, words), 0.01,
         diffusion_loss(PREDICTION, NOISE), sum(abs(v) for v in words.flatten().tolist()) / 60),
        (local_loss_parts(PREDICTION, NOISE, mask, values), local_loss(PREDICTION, NOISE, mask, values), 1e-4,
         diffusion_loss(PREDICTION, NOISE, mask), (values[0].abs().mean() + values[1].abs().mean()) / 2),
    ):  # fmt: skip
        torch.testing.assert_close(parts.loss, total)
        torch.testing.assert_close(parts.diffusion, diffusion)
        torch.testing.assert_close(parts.regularizer, torch.as_tensor(regularizer))
        torch.testing.assert_close(parts.loss, parts.diffusion + weight * parts.regularizer)


def test_weights_of_samples_scale_their_errors():
    weights, mask = torch.tensor([0.25, 2.0]), torch.ones(2, 1, 3, 3)
    one, other = (diffusion_loss(PREDICTION[i : i + 1], NOISE[i : i + 1]) for i in range(2))
    expected = (0.25 * one + 2 * other) / 2
    torch.testing.assert_close(diffusion_loss(PREDICTION, NOISE, sample_weights=weights), expected)
    torch.testing.assert_close(diffusion_loss(PREDICTION, NOISE, mask, weights), 4 * expected)
    words, values = draw(2, 5, 6), [draw(2, 4, 8)]
    penalty = 0.01 * words.abs().mean()
    torch.testing.assert_close(global_loss(PREDICTION, NOISE, words, sample_weights=weights), expected + penalty)
    penalty = 1e-4 * values[0].abs().mean()
    found = local_loss(PREDICTION, NOISE, mask, values, sample_weights=weights)
    torch.testing.assert_close(found, 4 * expected + penalty)


def test_min_snr_weights_agree_with_the_librarys_signal_to_noise_ratio():
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    times = torch.arange(0, 1000, 37)
    snr = compute_snr(schedule, times)
    expected = torch.stack([snr, torch.full_like(snr, 0.5)], dim=1).min(dim=1).values / snr
    torch.testing.assert_close(min_snr_weights(schedule.alphas_cumprod, times, 0.5), expected)


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(ValueError, match="sample_weights must be"):
        diffusion_loss(PREDICTION, NOISE, sample_weights=torch.ones(3))
    with pytest.raises(ValueError, match="must both be"):
        diffusion_loss(PREDICTION, NOISE[:1])
    with pytest.raises(ValueError, match="mask must be"):
        diffusion_loss(PREDICTION, NOISE, torch.ones(2, 4, 3, 3))
    empty = torch.ones(2, 1, 3, 3)
    empty[1] = 0
    with pytest.raises(ValueError, match="mask is empty"):
        diffusion_loss(PREDICTION, NOISE, empty)
    with pytest.raises(ValueError, match="values_local is empty"):
        local_loss(PREDICTION, NOISE, empty, [])
