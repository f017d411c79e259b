"""The paper's attention on given tensors: Eq. 2, 6 and 8 by explicit softmax, with their maps.

`EliteAttnProcessor` computes the same with fused kernels, which never hold a map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def attention_probs(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax(Q Kᵀ / √d′), the attention map of Eq. 2.

    Args:
        query: Q, (batch, heads, queries, d′).
        key: K, (batch, heads, keys, d′).
        mask: added to the scores; it broadcasts to (batch, heads, queries, keys).

    Returns:
        (batch, heads, queries, keys), rows sum to 1.
    """
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return (scores if mask is None else scores + mask).softmax(dim=-1)


def relative_map(word_map: Tensor, batchwide_maximum: bool = False) -> Tensor:
    """The word map over its maximum (the factor of Eq. 8).

    Args:
        word_map: attention to the primary word, (batch, heads, queries), in [0, 1].
        batchwide_maximum: take the maximum over the whole batch, as the authors' code does; by default it is taken
            over the heads and positions of each sample, so that a result does not depend on its neighbours.

    Returns:
        Same shape, in [0, 1].
    """
    over = (0, 1, 2) if batchwide_maximum else (1, 2)
    peak = word_map.amax(dim=over, keepdim=True)  # (batch, 1, 1), or (1, 1, 1) across the batch
    # In fp16 a word that nothing looks at has a map of zeros: the factor is then 0, not 0 / 0.
    return word_map / peak.clamp_min(torch.finfo(word_map.dtype).tiny)


def reweight(local_probs: Tensor, word_map: Tensor, batchwide_maximum: bool = False) -> Tensor:
    """Keep local attention where the primary word looks (Eq. 8).

    Args:
        local_probs: attention over patches, (batch, heads, queries, patches), rows sum to 1.
        word_map: attention to the primary word, (batch, heads, queries), in [0, 1].
        batchwide_maximum: see `relative_map`.

    Returns:
        ``local_probs`` scaled per query, same shape.

    Raises:
        ValueError: when the shapes do not belong together.
    """
    if local_probs.ndim != 4 or word_map.shape != local_probs.shape[:3]:
        raise ValueError(
            "local_probs must be (batch, heads, queries, patches) and word_map its first three dimensions, "
            f"got {tuple(local_probs.shape)} and {tuple(word_map.shape)}."
        )
    return local_probs * relative_map(word_map, batchwide_maximum).unsqueeze(-1)


class FusedAttention(NamedTuple):
    """What `fused_attention` returns.

    Attributes:
        out: Out of Eq. 6, (batch, heads, queries, d′).
        global_probs: A^g, (batch, heads, queries, keys).
        local_probs: A^l, (batch, heads, queries, patches), scaled by Eq. 8 when reweighting is on.
    """

    out: Tensor
    global_probs: Tensor
    local_probs: Tensor


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    local_key: Tensor,
    local_value: Tensor,
    word_index: Tensor,
    fusion_weight: float | Tensor = 1.0,
    reweighting: bool = True,
    batchwide_maximum: bool = False,
    mask: Tensor | None = None,
) -> FusedAttention:
    """Attention(Q, K^g, V^g) + λ Attention(Q, K^l, V^l), Eq. 6, with the local map reweighted by Eq. 8.

    Args:
        query: Q, (batch, heads, queries, d′).
        key: K^g, (batch, heads, keys, d′).
        value: V^g, (batch, heads, keys, d′).
        local_key: K^l, (batch, heads, patches, d′).
        local_value: V^l, (batch, heads, patches, d′).
        word_index: position of the primary word among the keys, (batch,), long.
        fusion_weight: λ: a number, or one for each sample (batch,).
        reweighting: whether Eq. 8 is in force.
        batchwide_maximum: see `relative_map`.
        mask: added to the scores of the global branch.

    Returns:
        See `FusedAttention`.
    """
    probs = attention_probs(query, key, mask)
    local_probs = attention_probs(query, local_key)
    if reweighting:
        where = word_index.to(probs.device).view(-1, 1, 1, 1).expand(*probs.shape[:3], 1)
        local_probs = reweight(local_probs, probs.gather(-1, where).squeeze(-1), batchwide_maximum)
    if isinstance(fusion_weight, Tensor):
        fusion_weight = fusion_weight.to(query).view(-1, 1, 1, 1)
    return FusedAttention(probs @ value + fusion_weight * (local_probs @ local_value), probs, local_probs)
