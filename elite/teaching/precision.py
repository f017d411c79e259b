"""The same digits on every device: full float32 precision in the chapters."""

from __future__ import annotations

import torch


def full_precision() -> None:
    """From here on matrix products and convolutions of float32 tensors are computed in float32 everywhere.

    GPUs otherwise round the factors of convolutions to ten bits (TensorFloat-32, torch's default), which is quicker and
    good enough to draw with, but shows in the fourth digit, where the chapters compare two ways of computing the same.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
