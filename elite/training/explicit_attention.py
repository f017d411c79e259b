"""Attention as training computes it on a CPU in bf16: explicit softmax in place of PyTorch's fused kernel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LONGEST = 1024  # keys and queries; beyond, the maps would take too much memory


class ExplicitAttention(TorchFunctionMode):
    """Within this context ``scaled_dot_product_attention`` computes Softmax(Q Kᵀ / √d′) V of Eq. 2 step by step.

    On CPUs the backward pass of the fused kernel takes several times longer in bf16 than these four operations. They
    give the same up to rounding. Calls they do not cover (float32, long sequences, dropout, grouped queries) stay with
    the fused kernel. (``sdpa_kernel(SDPBackend.MATH)``, PyTorch's own explicit way, takes up to twice as long.)

    Not for gradient checkpointing: what that computes again in the backward pass is outside this context.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and _covers(*args, **kwargs):
            return explicit_attention(*args, **kwargs)
        return func(*args, **kwargs)


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Eq. 2 with the arguments of ``scaled_dot_product_attention``, for what `ExplicitAttention` covers.

    Args:
        query: (B, h, Q, c).
        key: (B, h, L, c).
        value: (B, h, L, c′).
        attn_mask: added to the scores, or true where they count; broadcast to (B, h, Q, L).
        dropout_p, enable_gqa: must be 0 and False.
        is_causal: a query sees the keys up to its own position.
        scale: 1 / √c when left out.

    Returns:
        (B, h, Q, c′).
    """
    batch, heads, queries, width = query.shape
    scale = width**-0.5 if scale is None else scale
    if is_causal:
        attn_mask = torch.ones(queries, key.shape[2], dtype=torch.bool, device=query.device).tril()
    start = query.new_zeros(1)
    if attn_mask is not None:
        if attn_mask.dtype is torch.bool:
            attn_mask = query.new_zeros(attn_mask.shape).masked_fill(~attn_mask, float("-inf"))
        start = attn_mask.to(query.dtype).expand(batch, heads, queries, key.shape[2]).flatten(0, 1)
    scores = torch.baddbmm(  # (B·h, Q, L), scaled and masked as it is written
        start, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=scale
    )
    return (scores.softmax(dim=-1) @ value.flatten(0, 1)).unflatten(0, (batch, heads))


def _covers(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> bool:
    plain = dropout_p == 0 and not enable_gqa and query.ndim == 4 and query.shape[:2] == key.shape[:2]
    short = max(query.shape[-2], key.shape[-2]) <= LONGEST
    return plain and short and query.device.type == "cpu" and query.dtype is torch.bfloat16


def training_attention(device: torch.device, gradient_checkpointing: bool) -> AbstractContextManager:
    """The context in which forward and backward passes on a device are fastest."""
    explicit = device.type == "cpu" and not gradient_checkpointing
    return ExplicitAttention() if explicit else nullcontext()
