"""What a training step draws: noise, timesteps, and the noise of the latents.

Every sample has a random stream of its own, keyed by (seed, step, row): a batch split over processes, or accumulated in
pieces, draws what one process draws for the whole, and a resumed run needs no record of random states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

# The first numbers of the streams. The data's are 0 and 1 (the stages) and 2 (the order).
_NOISE, _POSTERIOR = 3, 4


def noise_and_timesteps(
    rows: Sequence[int] | Tensor, step: int, seed: int, shape: Sequence[int], num_train_timesteps: int = 1000
) -> tuple[Tensor, Tensor]:
    """The noise to predict and how much of it there is (ε and t of Eq. 1), for each sample on its own.

    Args:
        rows: numbers that identify the samples of this step, such as their rows in the data set, (B,).
        step: number of the step, from 0.
        seed: of the run.
        shape: (C, h, w) of one latent.
        num_train_timesteps: length T of the noise schedule.

    Returns:
        noise (B, C, h, w), float32, standard normal; timesteps (B,), long, in 0 to T - 1. Both on the CPU.

    Raises:
        ValueError: no rows, a negative number among row, step and seed, or no timesteps.
    """
    if num_train_timesteps < 1:
        raise ValueError(f"num_train_timesteps must be at least 1, got {num_train_timesteps}.")
    noise, timesteps = [], []
    for stream in _streams(_NOISE, rows, step, seed):
        timesteps.append(int(stream.integers(num_train_timesteps)))
        noise.append(_normal(stream, shape))
    return torch.stack(noise), torch.tensor(timesteps)


def weighted_timesteps(timesteps: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Turn uniform draws of timesteps into draws that are as frequent as the timesteps' weights.

    The t-th of T equal parts of [0, 1) becomes the timestep in whose share of the weights its middle falls, so a loss
    averages as it would with uniform timesteps and ``weights``, but no sample is drawn that hardly counts.

    Args:
        timesteps: uniform draws (B,), long, in 0 to T - 1.
        weights: of the timesteps, (T,), not negative, not all zero.

    Returns:
        timesteps (B,), long; and the new weights of the samples, (B,): the mean weight, the same for all.

    >>> weighted_timesteps(torch.tensor([0, 1, 2, 3]), torch.tensor([0.0, 0.0, 1.0, 1.0]))
    (tensor([2, 2, 3, 3]), tensor([0.5000, 0.5000, 0.5000, 0.5000]))
    """
    cumulated = weights.double().cumsum(0) / weights.double().sum()
    middles = (timesteps.double() + 0.5) / len(weights)
    found = torch.searchsorted(cumulated, middles).clamp(max=len(weights) - 1)
    return found, weights.mean().expand(len(found))


def posterior_noise(rows: Sequence[int] | Tensor, step: int, seed: int, shape: Sequence[int]) -> Tensor:
    """Standard normal values that turn the autoencoder's moments into latents; arguments as `noise_and_timesteps`.

    Returns:
        (B, C, h, w), float32, on the CPU; independent of the noise of the same samples.

    Raises:
        ValueError: no rows, or a negative number among row, step and seed.
    """
    return torch.stack([_normal(stream, shape) for stream in _streams(_POSTERIOR, rows, step, seed)])


def _streams(kind: int, rows: Sequence[int] | Tensor, step: int, seed: int) -> Iterator[np.random.Generator]:
    numbers = [int(row) for row in rows]
    if not numbers:
        raise ValueError("rows must hold at least one number, got none.")
    if min(*numbers, step, seed) < 0:
        raise ValueError(f"rows, step and seed must not be negative, got {numbers}, {step}, {seed}.")
    return (np.random.default_rng([seed, kind, step, row]) for row in numbers)


def _normal(stream: np.random.Generator, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(stream.standard_normal(tuple(shape), dtype=np.float32))
