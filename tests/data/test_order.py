"""The order of the data is a function of the step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elite.data.order import StepBatches, indices_at


@given(length=st.integers(1, 30), batch=st.integers(1, 12), seed=st.integers(0, 99))
def test_every_row_comes_once_an_epoch(length, batch, seed):
    stream = [row for step in range(3 * length // batch + 1) for row in indices_at(step, batch, length, seed)]
    for epoch in range(3):
        assert sorted(stream[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_epochs_and_seeds_differ():
    first, second, other = indices_at(0, 50, 50), indices_at(1, 50, 50), indices_at(0, 50, 50, seed=1)
    assert first != second and first != other


def test_a_run_that_starts_later_gets_the_rest_of_the_same_batches():
    whole = list(StepBatches(length=17, batch_size=4, stop=20, seed=3))
    assert list(StepBatches(length=17, batch_size=4, start=7, stop=20, seed=3)) == whole[7:]
    assert [step for _, step in whole[9]] == [9] * 4
    assert len(StepBatches(length=17, batch_size=4, start=7, stop=20)) == 13


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batch_of_one(processes):
    one = list(StepBatches(length=17, batch_size=8, stop=5))
    parts = [list(StepBatches(17, 8, 5, process=p, processes=processes)) for p in range(processes)]
    assert [[pair for part in batch for pair in part] for batch in zip(*parts, strict=True)] == one


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="multiple of processes"):
        StepBatches(length=5, batch_size=3, stop=1, processes=2)
    with pytest.raises(ValueError, match="length"):
        indices_at(0, 1, 0)
