"""Checks for the exercises on training (chapter 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from elite.teaching.exercises._judge import attempt, fail, judge, noise


def check_local_loss(loss: Callable[[Tensor, Tensor, Tensor, Sequence[Tensor], float], Tensor]) -> None:
    """Check the loss of the local stage with the authors' normalisation (Eq. 7).

    Args:
        loss: takes predicted noise (B, C, h, w), noise (B, C, h, w), the picture mask (B, 1, h, w) in {0, 1}, the
            local values of each layer, each (B, p², inner), and λ_local; returns a scalar. For each sample the squared
            error is summed over channels and averaged over the positions in the mask.
    """
    predicted, true = noise(2, 4, 6, 6, seed=80), noise(2, 4, 6, 6, seed=81)
    mask = torch.zeros(2, 1, 6, 6)
    mask[0, :, :2, :3], mask[1, :, 1:, :] = 1, 1  # very different areas
    values = [noise(2, 9, 8, seed=82), 2 * noise(2, 9, 4, seed=83)]
    weight = 0.3
    squared = (predicted - true).square() * mask
    per_sample = squared.sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))
    error, penalty = per_sample.mean(), torch.stack([value.abs().mean() for value in values]).mean()
    judge(
        "local loss",
        loss,
        {"predicted": predicted, "noise": true, "mask": mask, "values": values, "weight": weight},
        error + weight * penalty,
        mistakes={
            "the mask is not used: positions outside the picture must not count.": lambda: (
                (predicted - true).square().mean() + weight * penalty
            ),
            "the error is divided by all positions, also those outside the mask: a small picture would count "
            "less.": lambda: squared.mean() + weight * penalty,
            "the division is by the mask of the whole batch; each sample is divided by its own.": lambda: (
                squared.sum() / mask.sum() + weight * penalty
            ),
            "the channels are averaged. The authors sum them: four channels give four times the mean.": lambda: (
                error / 4 + weight * penalty
            ),
            "the regulariser is missing: λ times the mean over the layers of mean |V|.": lambda: error,
            "λ is missing before the regulariser.": lambda: error + penalty,
            "the local values are squared; Eq. 7 takes absolute values.": lambda: (
                error + weight * torch.stack([value.square().mean() for value in values]).mean()
            ),
            "the layers are summed; take their mean.": lambda: error + weight * 2 * penalty,
            "large layers count more: take the mean of each layer, then the mean over the layers.": lambda: (
                error + weight * torch.cat([value.abs().flatten() for value in values]).mean()
            ),
            "the samples are summed; take their mean.": lambda: per_sample.sum() + weight * penalty,
        },
        shape="a scalar",
        praise="every sample counts the same, however small its picture.",
    )


def check_distance(distance: Callable[[int, int], str]) -> None:
    """Check which caption a resized object gets.

    Args:
        distance: takes the side of the resized object crop and the side of the frame, in pixels; returns "far" when
            the crop covers less than 0.6 of the side, "near" when it is larger than the frame, otherwise "plain".
    """
    name = "distance"
    cases = [
        (20, 64, "far"),
        (38, 64, "far"),
        (39, 64, "plain"),
        (64, 64, "plain"),
        (80, 64, "near"),
        (400, 512, "plain"),
    ]
    cases += [(200, 512, "far"), (700, 512, "near")]
    answers, stopped = attempt(lambda: [distance(scale, size) for scale, size, _ in cases])
    if stopped:
        return fail(name, stopped)
    if all(answer is None for answer in answers):
        return fail(name, 'your function returns nothing yet. Return "far", "near" or "plain".')
    swapped = {"far": "near", "near": "far", "plain": "plain"}
    if answers == [swapped[want] for _, _, want in cases]:
        return fail(name, "far and near are swapped: a crop smaller than the frame looks far away.")
    absolute = [want for (_, size, want), answer in zip(cases, answers, strict=True) if size == 64 and answer == want]
    if len(absolute) == 5 and answers != [want for *_, want in cases]:
        return fail(name, "right for a frame of 64, wrong for 512: compare the crop with the frame, not with pixels.")
    for (scale, size, want), answer in zip(cases, answers, strict=True):
        if answer != want:
            share = f"{scale / size:.2f} of the frame"
            return fail(name, f'a crop of {scale} in a frame of {size} is {share}: "{want}", yours says {answer!r}.')
    print(f"✓ {name}: the caption says what the picture shows, so the word need not carry the size.")
    return None


def check_learning_rate(learning_rate: Callable[[float, int, int, int], float]) -> None:
    """Check the learning rate that both stages really use.

    Args:
        learning_rate: takes the base rate, the batch size, the gradient accumulation steps and the number of
            processes; returns the rate given to the optimiser, proportional to the samples in one update.
    """
    base, batch, accumulation, processes = 1e-6, 16, 2, 4
    judge(
        "learning rate",
        learning_rate,
        {"base": base, "batch": batch, "accumulation": accumulation, "processes": processes},
        torch.tensor(base * batch * accumulation * processes, dtype=torch.float64),
        mistakes={
            "this is the base rate; both stages multiply it by the samples in one update.": lambda: torch.tensor(base),
            "the processes are left out: each adds its own batch to the update.": lambda: torch.tensor(
                base * batch * accumulation
            ),
            "the accumulation steps are left out: they belong to one update.": lambda: torch.tensor(
                base * batch * processes
            ),
            "the batch size is left out.": lambda: torch.tensor(base * accumulation * processes),
            "the rate grows with the root of the samples; the authors' grows in proportion.": lambda: torch.tensor(
                base * (batch * accumulation * processes) ** 0.5
            ),
            "the rate is divided by the samples; it is multiplied.": lambda: torch.tensor(
                base / (batch * accumulation * processes)
            ),
        },
        shape="a number",
        praise="proportional to the samples of one update.",
    )


def check_draws(draws: Callable[[Sequence[int], int, int, Sequence[int]], Tensor]) -> None:
    """Check noise that depends on nothing but the run, the step and the row, so that a stopped run can go on.

    Args:
        draws: takes rows, the step, the seed of the run and the shape of one latent (C, h, w); returns standard normal
            noise (B, C, h, w) in which each row's part depends on nothing drawn before or beside it.
    """
    name, rows, shape = "draws", [3, 8, 5], (4, 16, 16)
    torch_state, numpy_state = torch.get_rng_state(), _numpy_state()
    noise, stopped = attempt(lambda: draws(rows, 2, 0, shape))
    if stopped:
        return fail(name, stopped)
    if noise is None:
        return fail(name, "your function returns nothing yet. Fill in its body and return the noise.")
    if not isinstance(noise, Tensor) or noise.shape != (3, *shape):
        got = tuple(noise.shape) if isinstance(noise, Tensor) else type(noise).__name__
        return fail(name, f"your function returns {got}; it should be a tensor (3, 4, 16, 16), (rows, C, h, w).")
    touched = not torch.equal(torch_state, torch.get_rng_state())
    touched |= not np.array_equal(numpy_state, _numpy_state())
    answers, stopped = attempt(
        lambda: {
            "again": draws(rows, 2, 0, shape),
            "alone": draws([8], 2, 0, shape),
            "later": draws(rows, 7, 0, shape),
            "other run": draws(rows, 2, 1, shape),
            "swapped": draws([2], 3, 0, shape),
        }
    )
    if stopped:
        return fail(name, stopped)
    faults = [
        (not torch.equal(answers["again"], noise),
         "the same rows of the same step got other noise the second time: the generator has moved on. A resumed run "
         "would need its state. Make a new generator from the seed, the step and the row."),
        (torch.equal(noise[0], noise[1]), "all rows get the same noise: the row is not among the generator's numbers."),
        (not torch.equal(answers["alone"][0], noise[1]),
         "row 8 gets other noise when it is alone than between its neighbours: then two processes would not draw what "
         "one draws. Make a generator for each row."),
        (torch.equal(answers["later"], noise), "every step gets the same noise: the step is not among the numbers."),
        (torch.equal(answers["other run"], noise), "the seed of the run is not used."),
        (torch.equal(answers["swapped"][0], noise[0]),
         "row 3 of step 2 and row 2 of step 3 get the same noise: the numbers are added up. Give the generator a list "
         "of them."),
        (abs(float(noise.mean())) > 0.2 or abs(float(noise.std()) - 1) > 0.2,
         f"the noise has mean {float(noise.mean()):.1f} and standard deviation {float(noise.std()):.1f}; standard "
         "normal noise has 0 and 1."),
        (touched, "the values are right, but your function sets the seed of a generator that others use: make your "
                  "own."),
    ]  # fmt: skip
    for found, message in faults:
        if found:
            return fail(name, message)
    print(f"✓ {name}: each row's noise is a function of seed, step and row. Nothing has to be remembered.")
    return None


def _numpy_state() -> np.ndarray:
    return np.random.get_state(legacy=False)["state"]["key"].copy()
