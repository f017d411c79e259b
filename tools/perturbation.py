"""A rehearsal of other devices: results of linear layers, convolutions and attention are moved by a little noise.

`make test-perturbed` runs all chapters with it (see ``conftest.py``). Devices, thread counts and versions of a library
differ by far less in full precision, so a stored line that survives this holds on all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

RELATIVE = 1e-5
TWO_WAYS = "two-ways"  # tag of cells that compare two ways of computing the same
_PRODUCTS = ("linear", "conv1d", "conv2d", "conv_transpose2d", "scaled_dot_product_attention", "multi_head_attention")
_PRODUCTS += ("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum")


class Noise(TorchFunctionMode):
    """Within this context every product of matrices comes out a little wrong, each time in another way.

    Args:
        relative: standard deviation of the noise, relative to the root of the mean square along a result's channels.
            What is zero throughout, as behind a mask, stays zero.
        seed: of the noise, which comes from a generator of its own.
    """

    def __init__(self, relative: float = RELATIVE, seed: int = 0) -> None:
        super().__init__()
        self.relative = relative
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in _PRODUCTS or not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        return self._moved(result, channels=1 if name.startswith("conv") and result.ndim > 2 else -1)

    def _moved(self, result: Tensor, channels: int) -> Tensor:
        if result.ndim == 0 or result.numel() == 0:
            return result
        size = result.detach().square().mean(dim=channels, keepdim=True).sqrt()
        draw = torch.randn(result.shape, generator=self._generator).to(result)
        return result + self.relative * size * draw


def start(shell: Any, relative: float = RELATIVE, seed: int = 0) -> Noise:
    """Let every cell of an IPython shell run within `Noise`, apart from those whose first line is ``# two-ways``."""
    noise = Noise(relative, seed)
    entered: list[Noise] = []

    def before(info: Any) -> None:
        if not info.raw_cell.startswith(f"# {TWO_WAYS}\n"):
            entered.append(noise.__enter__())

    def after(result: Any) -> None:
        if entered:
            entered.pop().__exit__(None, None, None)

    shell.events.register("pre_run_cell", before)
    shell.events.register("post_run_cell", after)
    return noise
