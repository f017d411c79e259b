"""One cross attention layer with ELITE's two branches: reweighting (Eq. 8), fusion (Eq. 6), and the processor.

`install` installs these processors in a UNet and puts a conditioning in force.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .conditioning import Conditioning
from .recording import AttentionRecord


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


@dataclass
class Active:
    """A conditioning in force: its local keys and values (B, p², inner), by processor."""

    conditioning: Conditioning
    local: dict[EliteAttnProcessor, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _heads: dict[EliteAttnProcessor, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _marks: dict[tuple, Tensor] = field(default_factory=dict)
    _constant: set[EliteAttnProcessor] = field(default_factory=set)  # projected without gradients

    def local_of(self, processor: EliteAttnProcessor, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """K^l and V^l of one layer, projected on first use and kept; once more when gradients were off before."""
        needs_gradients = torch.is_grad_enabled()
        if processor not in self.local or (needs_gradients and processor in self._constant):
            self.local[processor] = processor.project_local(self.conditioning.patch_embeddings, device)
            (self._constant.discard if needs_gradients else self._constant.add)(processor)
        return self.local[processor]

    def local_heads(self, processor: EliteAttnProcessor, attn: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
        """The same as (B, h, p², c) beside a query, kept too when no gradient needs to find its way back."""
        if processor in self._heads and not torch.is_grad_enabled():
            return self._heads[processor]
        key, value = self.local_of(processor, like.device)
        heads = _heads(attn, key.to(like.dtype), attn.norm_k), _heads(attn, value.to(like.dtype))
        if not torch.is_grad_enabled():
            self._heads[processor] = heads
        return heads

    def mark(self, value: Tensor) -> Tensor:
        """Eight more value columns (B, h, L, 8): the first is 1 at each sample's word, the others are 0."""
        batch, heads, length, _ = value.shape
        key = (batch, length, value.device, value.dtype)
        if key not in self._marks:
            at_word = self.conditioning.word_index.to(value.device).unsqueeze(1)  # (rows, 1)
            at_word = at_word == torch.arange(length, device=value.device)  # (rows, L)
            before = self.conditioning.first_row(batch)
            # Zeros for the unconditional half in front, and for the seven columns behind.
            marks = F.pad(at_word.to(value.dtype).view(-1, 1, length, 1), (0, 7, 0, 0, 0, 0, before, 0))
            self._marks[key] = marks
        return self._marks[key].expand(-1, heads, -1, -1)


class ConditionedText(NamedTuple):
    """Text features (B, L, d) with the conditioning of their samples: what a conditioned UNet call hands to attn2."""

    hidden_states: Tensor
    active: Active


class EliteAttnProcessor(nn.Module):
    """The global and local keys and values of one cross attention layer, and the fusion of their attention (Eq. 6).

    Args:
        context_dim: width d of the text features.
        inner_dim: width of keys and values over all heads.
        base: the layer's processor when no conditioning is in force.
        device: where to make the weights.
        dtype: their type.
    """

    def __init__(
        self,
        context_dim: int,
        inner_dim: int,
        base: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made = {"bias": False, "device": device, "dtype": dtype}
        self.to_k_global = nn.Linear(context_dim, inner_dim, **made)
        self.to_v_global = nn.Linear(context_dim, inner_dim, **made)
        self.to_k_local = nn.Linear(context_dim, inner_dim, **made)
        self.to_v_local = nn.Linear(context_dim, inner_dim, **made)
        self.base = base
        self.recorder: tuple[AttentionRecord, str] | None = None  # set by record_attention

    def copy_base_weights(self, attn: nn.Module) -> None:
        """Start all keys and values from those of the layer."""
        key, value = base_layer(attn.to_k).weight, base_layer(attn.to_v).weight
        with torch.no_grad():
            for mine, theirs in (
                (self.to_k_global, key),
                (self.to_v_global, value),
                (self.to_k_local, key),
                (self.to_v_local, value),
            ):
                mine.weight.copy_(theirs)

    def project_local(self, patch_embeddings: Tensor, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """K^l and V^l of Eq. 6, (B, p², inner) each, from patch embeddings (B, p², d)."""
        weight = self.to_k_local.weight
        patches = patch_embeddings.to(device or weight.device, weight.dtype)
        return self.to_k_local(patches), self.to_v_local(patches)

    def forward(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | ConditionedText | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """One cross attention layer; the body around the attention is diffusers' own (``AttnProcessor2_0``).

        Args:
            attn: the layer.
            hidden_states: (B, Q, C) or (B, C, H, W).
            encoder_hidden_states: text (B, L, d), with its conditioning when one is in force.
            attention_mask: as in diffusers.
            temb: as in diffusers.

        Returns:
            Same shape as ``hidden_states``.
        """
        if not isinstance(encoder_hidden_states, ConditionedText):
            if self.recorder is None:
                more = {} if temb is None else {"temb": temb}  # sliced attention does not know this argument
                return self.base(attn, hidden_states, encoder_hidden_states, attention_mask, **more)
            encoder_hidden_states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            text, active = encoder_hidden_states, None
        else:
            text, active = encoder_hidden_states

        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        input_shape = hidden_states.shape
        if len(input_shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # (B, H·W, C)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, text.shape[1], text.shape[0])
            attention_mask = attention_mask.view(text.shape[0], attn.heads, -1, attention_mask.shape[-1])
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)

        query = _heads(attn, attn.to_q(hidden_states), attn.norm_q)  # (B, h, Q, c)
        if active is None:
            key, value = attn.to_k(text), attn.to_v(text)
        else:
            own = text.to(self.to_k_global.weight.dtype)  # training may keep these weights in float32
            key = self.to_k_global(own) + _lora(attn.to_k, text)
            value = self.to_v_global(own) + _lora(attn.to_v, text)
        key = _heads(attn, key.to(query.dtype), attn.norm_k)  # (B, h, L, c)
        value = _heads(attn, value.to(query.dtype))  # (B, h, L, c)

        if self.recorder is not None:
            out = self._recorded(attn, query, key, value, attention_mask, active)
        elif active is None or not active.conditioning.has_local:
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        else:
            out = self._fused(attn, query, key, value, attention_mask, active)

        out = out.transpose(1, 2).flatten(2).to(query.dtype)  # (B, Q, inner)
        out = attn.to_out[1](attn.to_out[0](out))
        if len(input_shape) == 4:
            out = out.transpose(1, 2).reshape(input_shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor

    def _fused(
        self, attn: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, active: Active
    ) -> Tensor:
        """Global + λ · local (Eq. 6) without ever holding an attention map: (B, h, Q, c)."""
        asked, start = active.conditioning, active.conditioning.first_row(query.shape[0])
        local = F.scaled_dot_product_attention(query[start:], *active.local_heads(self, attn, query))
        weight = _per_sample(asked.fusion_weight, query)
        if asked.reweighting:
            out, word_map = _attend_and_map(query, key, value, active.mark(value), mask)
            # Eq. 8 scales whole rows of A^l, so it may as well scale rows of A^l V^l.
            weight = relative_map(word_map[start:], asked.batchwide_maximum).unsqueeze(-1) * weight
        else:
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        if start and not torch.is_grad_enabled():
            out[start:].addcmul_(local, weight)  # in place: the unconditional half need not be copied
            return out
        fused = torch.addcmul(out[start:], local, weight)
        return torch.cat([out[:start], fused]) if start else fused

    def _recorded(
        self, attn: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, active: Active | None
    ) -> Tensor:
        """The same result by explicit softmax, with the maps handed to the recorder: (B, h, Q, c)."""
        record, name = self.recorder
        probs = _probabilities(query, key, mask)  # (B, h, Q, L)
        out, local_probs = probs @ value, None
        start = 0 if active is None else active.conditioning.first_row(query.shape[0])
        if active is not None and active.conditioning.has_local:
            asked = active.conditioning
            local_key, local_value = active.local_heads(self, attn, query)
            local_probs = _probabilities(query[start:], local_key)  # (rows, h, Q, p²)
            if asked.reweighting:
                word_map = _column(probs[start:], asked.word_index)
                local_probs = reweight(local_probs, word_map, asked.batchwide_maximum)
            local = local_probs @ local_value
            out = torch.cat([out[:start], out[start:] + _per_sample(asked.fusion_weight, query) * local])
        record.add(name, probs, local_probs, first_row=start)
        return out


def base_layer(linear: nn.Module) -> nn.Module:
    """The linear layer under a LoRA layer, or the layer itself."""
    return getattr(linear, "base_layer", linear)


def _lora(linear: nn.Module, text: Tensor) -> Tensor | float:
    """What a LoRA adds to a base projection: it counts for ELITE's projections too, fused or not."""
    base = base_layer(linear)
    if base is linear:
        return 0.0
    if getattr(linear, "merged", False):  # its update is in the base weight, which ELITE's projections do not see
        return sum(F.linear(text, linear.get_delta_weight(name).to(text)) for name in linear.merged_adapters)
    return linear(text) - base(text)


def _heads(attn: nn.Module, tensor: Tensor, norm: nn.Module | None = None) -> Tensor:
    """(B, L, inner) -> (B, h, L, c)."""
    split = tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    return split if norm is None else norm(split)


def _per_sample(weight: float | Tensor, like: Tensor) -> Tensor:
    """λ as (B, 1, 1, 1), or (1, 1, 1, 1) when it is one number."""
    if isinstance(weight, Tensor):
        return weight.to(like).view(-1, 1, 1, 1)
    return like.new_full((1, 1, 1, 1), weight)


def _column(probs: Tensor, index: Tensor) -> Tensor:
    """One column of the map for each sample: (B, h, Q, L), (B,) -> (B, h, Q)."""
    where = index.to(probs.device).view(-1, 1, 1, 1).expand(*probs.shape[:3], 1)
    return probs.gather(-1, where).squeeze(-1)


def _probabilities(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax(Q Kᵀ / √d′) of Eq. 2: (B, h, Q, L)."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return (scores if mask is None else scores + mask).softmax(dim=-1)


def _attend_and_map(
    query: Tensor, key: Tensor, value: Tensor, mark: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention output (B, h, Q, c) and the word's column of the map (B, h, Q), by one fused call.

    One more value column that is 1 at the word and 0 elsewhere comes out as the word's probability. Queries and keys
    are widened by zeros, which no score notices; eight columns keep the widths the fused kernels like.
    """
    width = query.shape[-1]
    both = F.scaled_dot_product_attention(
        F.pad(query, (0, 8)),
        F.pad(key, (0, 8)),
        torch.cat([value, mark], dim=-1),
        attn_mask=mask,
        scale=width**-0.5,
    )
    return both[..., :width], both[..., width]
