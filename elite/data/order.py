"""Which samples make up a step: a function of (seed, step) alone, so resuming is nothing but starting later."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 2, epoch]).permutation(length)  # 2: apart from the stages' 0 and 1


def indices_at(step: int, batch_size: int, length: int, seed: int = 0) -> list[int]:
    """The rows of the batch at ``step``: every row once per epoch, in a new order in each epoch.

    Batches continue across the end of an epoch, so none is short and no row is left out.

    Args:
        step: number of the step, from 0.
        batch_size: rows per step, over all processes.
        length: rows of the data set.
        seed: decides the order.

    Raises:
        ValueError: a negative step, or an empty batch or data set.
    """
    if step < 0 or batch_size < 1 or length < 1:
        raise ValueError(
            f"step, batch_size, length are {step}, {batch_size}, {length}; use step >= 0, the others >= 1."
        )
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [int(_permutation(length, seed, position // length)[position % length]) for position in positions]


class StepBatches:
    """A batch sampler for ``DataLoader(batch_sampler=…)``: lists of (row, step) for the steps start … stop - 1.

    With several processes each takes its own contiguous part of every batch, so that the global batch is the same
    for any number of processes.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        stop: int,
        start: int = 0,
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        """``batch_size`` counts all processes; raises ValueError when it cannot be shared out evenly."""
        if batch_size % processes or not 0 <= process < processes:
            raise ValueError(
                f"batch_size, process, processes are {batch_size}, {process}, {processes}; "
                "batch_size must be a multiple of processes, and 0 <= process < processes."
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.start, self.stop = start, stop
        share = batch_size // processes
        self.part = slice(process * share, (process + 1) * share)

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.stop):
            rows = indices_at(step, self.batch_size, self.length, self.seed)
            yield [(row, step) for row in rows[self.part]]
