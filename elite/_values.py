"""Which tensors can be looked at for free."""

from __future__ import annotations

import torch
from torch import Tensor


def visible(tensor: Tensor) -> bool:
    """Whether checks may read a tensor's values.

    On the CPU they cost nothing. On another device the CPU would wait until everything queued there is done, and a
    CUDA graph or ``torch.compile`` could not take the step at all: values are checked where they are made, before they
    are moved.
    """
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
