"""The noise that stands for other devices reaches what it should, is as large as it says, and spares what it should."""

from __future__ import annotations

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from torch.nn import functional as F

from tests.helpers import draw
from tools.perturbation import Noise, start

X, WEIGHT, KERNEL = draw(4, 6, 32), draw(32, 32, seed=1), draw(8, 4, 3, 3, seed=2)
PRODUCTS = {
    "linear": lambda: F.linear(X, WEIGHT),
    "module": torch.nn.Linear(32, 32).requires_grad_(False).__call__,
    "convolution": lambda: F.conv2d(draw(2, 4, 9, 9), KERNEL),
    "attention": lambda: F.scaled_dot_product_attention(X, X, X),
    "matrix product": lambda: X @ WEIGHT,
    "batched": lambda: torch.bmm(X, X.mT),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_results_are_moved_by_the_relative_noise(name):
    product = PRODUCTS[name] if name != "module" else lambda: PRODUCTS["module"](X)
    exact = product()
    with Noise(1e-3):
        moved = product()
    size = (moved - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 0.8e-3 < size < 1.2e-3


def test_every_call_is_moved_in_another_way_and_a_seed_repeats_them():
    runs = []
    for seed in (0, 0, 1):
        with Noise(seed=seed):
            runs.append([X @ WEIGHT, X @ WEIGHT])
    assert not torch.equal(*runs[0])
    assert all(map(torch.equal, runs[0], runs[1]))
    assert not torch.equal(runs[0][0], runs[2][0])


def test_other_operations_zeros_and_integers_are_left_alone():
    with Noise():
        assert torch.equal(X.exp() + X, X.exp() + X)
        assert torch.equal(torch.zeros(3, 4) @ draw(4, 4), torch.zeros(3, 4))
        assert torch.eye(2, dtype=torch.long).matmul(torch.tensor([1, 2])).tolist() == [1, 2]


def test_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with Noise():
        _ = X @ WEIGHT
    assert torch.equal(torch.rand(3), expected)


def test_gradients_pass():
    weight = WEIGHT.clone().requires_grad_()
    with Noise(1e-3):
        (X @ weight).sum().backward()
    assert torch.allclose(weight.grad, X.sum(dim=(0, 1))[:, None].expand(32, 32), rtol=0.1, atol=0.05)


def test_cells_are_run_with_noise_but_for_those_that_compare_two_ways():
    shell = InteractiveShell()
    start(shell, relative=1e-3)
    shell.user_ns.update(X=X, WEIGHT=WEIGHT)
    for cell in ("moved = X @ WEIGHT", "# two-ways\nexact = X @ WEIGHT", "1 / 0", "again = X @ WEIGHT"):
        shell.run_cell(cell)
    assert torch.equal(shell.user_ns["exact"], X @ WEIGHT)
    for name in ("moved", "again"):
        difference = (shell.user_ns[name] - X @ WEIGHT).abs().max()
        assert 0 < difference < 0.2
