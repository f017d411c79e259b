"""Draws of a training step belong to its samples, not to their places."""

from __future__ import annotations

import pytest
import torch

from elite.training.draws import noise_and_timesteps, posterior_noise, weighted_timesteps

SHAPE = (4, 8, 8)


def test_any_split_of_a_batch_draws_the_same():
    """Two processes, or accumulated pieces, draw what one process draws for the whole batch."""
    rows = [5, 17, 3, 8]
    noise, timesteps = noise_and_timesteps(rows, 9, 1, SHAPE)
    for part in (slice(0, 2), slice(2, 4), slice(1, 2)):
        some, some_timesteps = noise_and_timesteps(torch.tensor(rows[part]), 9, 1, SHAPE)
        assert torch.equal(some, noise[part])
        assert torch.equal(some_timesteps, timesteps[part])
        assert torch.equal(posterior_noise(rows[part], 9, 1, SHAPE), posterior_noise(rows, 9, 1, SHAPE)[part])


def test_step_row_and_seed_each_change_the_draw():
    first = noise_and_timesteps([2], 3, 4, SHAPE)[0]
    for other in ((([3], 3, 4)), ([2], 4, 4), ([2], 3, 5), ([3], 2, 4)):
        assert (noise_and_timesteps(*other, SHAPE)[0] - first).abs().max() > 1


def test_noise_and_posterior_noise_are_independent():
    noise = noise_and_timesteps(range(64), 0, 0, SHAPE)[0].flatten()
    posterior = posterior_noise(range(64), 0, 0, SHAPE).flatten()
    for values in (noise, posterior):
        assert abs(float(values.mean())) < 0.03
        assert abs(float(values.std()) - 1) < 0.03
    assert abs(float((noise * posterior).mean())) < 0.03


def test_timesteps_are_uniform_over_the_schedule():
    timesteps = torch.cat([noise_and_timesteps(range(200), step, 0, (1, 1, 1), 10)[1] for step in range(5)])
    counts = torch.bincount(timesteps, minlength=10)
    assert len(counts) == 10
    assert float(((counts - 100.0) ** 2 / 100).sum()) < 27.9  # χ² with 9 degrees of freedom, 99.9 %


@pytest.mark.parametrize("arguments", [([], 0, 0), ([-1], 0, 0), ([0], -1, 0), ([0], 0, -1)])
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match="rows"):
        noise_and_timesteps(*arguments, SHAPE)


def test_weighted_timesteps_average_as_uniform_ones_with_weights():
    generator = torch.Generator().manual_seed(0)
    weights = torch.linspace(0, 1, 1000) ** 3  # most timesteps hardly count
    error = torch.rand(40, generator=generator).repeat_interleave(25)  # some function of the timestep
    every = torch.arange(1000)
    chosen, weight = weighted_timesteps(every, weights)
    assert chosen.min() > 100  # nothing is drawn that weighs 0.001
    torch.testing.assert_close((weight * error[chosen]).mean(), (weights * error).mean(), rtol=5e-3, atol=0)
    counts = torch.bincount(chosen, minlength=1000).float()
    torch.testing.assert_close(counts.cumsum(0), (weights / weights.mean()).cumsum(0), rtol=0, atol=1.0)


def test_equal_weights_leave_timesteps_as_they_are():
    timesteps = torch.tensor([0, 3, 7, 9])
    chosen, weight = weighted_timesteps(timesteps, torch.full((10,), 0.7))
    assert torch.equal(chosen, timesteps)
    torch.testing.assert_close(weight, torch.full((4,), 0.7))
