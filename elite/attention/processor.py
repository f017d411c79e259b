"""One cross attention layer with ELITE's two branches (Eq. 6), by PyTorch's fused attention.

`install` installs these processors in a UNet, `context` puts a conditioning in force, and `equations` has what they
compute written out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .active import COLUMNS, Active, ConditionedText, base_layer, heads
from .equations import attention_probs, fused_attention
from .recording import AttentionRecord

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


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
        made: dict[str, Any] = {"bias": False, "device": device, "dtype": dtype}
        self.to_k_global = nn.Linear(context_dim, inner_dim, **made)
        self.to_v_global = nn.Linear(context_dim, inner_dim, **made)
        self.to_k_local = nn.Linear(context_dim, inner_dim, **made)
        self.to_v_local = nn.Linear(context_dim, inner_dim, **made)
        self.base = base
        self.recorder: tuple[AttentionRecord, str] | None = None  # set by record_attention
        self.in_force: list[Active] = []  # the contexts of `condition` around its UNet, the inner one last

    def copy_base_weights(self, attn: Attention) -> None:
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

    def project_text(self, attn: Attention, text: Tensor) -> tuple[Tensor, Tensor]:
        """K^g and V^g of Eq. 6, (B, L, inner) each, from text features (B, L, d); a LoRA of the layer counts too."""
        own = text.to(self.to_k_global.weight.dtype)  # training may keep these weights in float32
        key, value = self.to_k_global(own), self.to_v_global(own)
        if base_layer(attn.to_k) is not attn.to_k:
            key = key + _lora(attn.to_k, text)
        if base_layer(attn.to_v) is not attn.to_v:
            value = value + _lora(attn.to_v, text)
        return key, value

    def forward(
        self,
        attn: Attention,
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
        if active is not None and active.conditioning.has_local and self.recorder is None:
            out = self._fused(attn, hidden_states, text, attention_mask, active)
        else:
            query = heads(attn, attn.to_q(hidden_states), attn.norm_q)  # (B, h, Q, c)
            key, value = self._text_heads(attn, text, query, active)  # (B, h, L, c)
            if self.recorder is None:
                out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
            else:
                out = self._recorded(attn, query, key, value, attention_mask, active)
            out = attn.to_out[0](out.transpose(1, 2).flatten(2).to(query.dtype))  # (B, Q, inner) -> (B, Q, C)

        out = attn.to_out[1](out)
        if len(input_shape) == 4:
            out = out.transpose(1, 2).reshape(input_shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor

    def _text_heads(self, attn: Attention, text: Tensor, query: Tensor, active: Active | None) -> tuple[Tensor, Tensor]:
        if active is not None:
            return active.text_heads(self, attn, text, query, marked=False)
        text = attn.norm_encoder_hidden_states(text) if attn.norm_cross else text
        return heads(attn, attn.to_k(text), attn.norm_k), heads(attn, attn.to_v(text))

    def _fused(
        self, attn: Attention, hidden_states: Tensor, text: Tensor, mask: Tensor | None, active: Active
    ) -> Tensor:
        """Global + λ · local (Eq. 6) without ever holding an attention map: (B, Q, C), after to_out.

        For Eq. 8 the values have one more column that is 1 at the word and 0 elsewhere: it comes out as the word's
        probability. Queries and keys are widened by zeros, which no score notices.
        """
        asked, start = active.conditioning, active.first_row(hidden_states.shape[0])
        wide = active.widened(self, attn, hidden_states) if asked.reweighting else None
        query = heads(attn, attn.to_q(hidden_states) if wide is None else F.linear(hidden_states, wide[0]), attn.norm_q)
        if asked.reweighting and wide is None:
            query = F.pad(query, (0, COLUMNS))
        width = query.shape[-1] - (COLUMNS if asked.reweighting else 0)
        key, value = active.text_heads(self, attn, text, query, marked=asked.reweighting)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=width**-0.5)  # (B, h, Q, c + 8)
        local_key, local_value = active.local_heads(self, attn, query)  # λ is in the value
        local = F.scaled_dot_product_attention(query[start:, ..., :width], local_key, local_value)  # (rows, h, Q, c)
        rows = out[start:, ..., :width]
        if asked.reweighting:
            over = (0, 1, 2, 3) if asked.batchwide_maximum else (1, 2, 3)
            peak = out[start:, ..., width : width + 2].amax(dim=over, keepdim=True)
            factor = out[start:, ..., width : width + 1] / peak  # (rows, h, Q, 1)
            # Eq. 8 scales whole rows of A^l, so it may as well scale rows of A^l V^l.
            if not torch.is_grad_enabled():
                rows.addcmul_(local, factor)  # in place: the unconditional half need not be copied
                if wide is not None:
                    return F.linear(out.transpose(1, 2).flatten(2).to(query.dtype), wide[1], attn.to_out[0].bias)
            else:
                rows = torch.addcmul(rows, local, factor)
        elif not torch.is_grad_enabled():
            rows.add_(local)
        else:
            rows = rows + local
        if torch.is_grad_enabled():
            out = torch.cat([out[:start, ..., :width], rows]) if start else rows
        return attn.to_out[0](out[..., :width].transpose(1, 2).flatten(2).to(query.dtype))

    def _recorded(
        self, attn: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, active: Active | None
    ) -> Tensor:
        """The same by explicit softmax, before to_out, with the maps handed to the recorder: (B, h, Q, c)."""
        record, name = cast("tuple[AttentionRecord, str]", self.recorder)
        start = 0 if active is None else active.first_row(query.shape[0])
        if active is None or not active.conditioning.has_local:
            probs = attention_probs(query, key, mask)  # (B, h, Q, L)
            record.add(name, probs, None, first_row=start)
            return probs @ value
        asked = active.conditioning
        before = attention_probs(query[:start], key[:start], None if mask is None else mask[:start])
        found = fused_attention(
            query[start:],
            key[start:],
            value[start:],
            *active.local_heads(self, attn, query),  # λ is in the value
            asked.word_index,
            reweighting=asked.reweighting,
            batchwide_maximum=asked.batchwide_maximum,
            mask=None if mask is None else mask[start:],
        )
        record.add(name, torch.cat([before, found.global_probs]), found.local_probs, first_row=start)
        return torch.cat([before @ value[:start], found.out])


def _lora(linear: Any, text: Tensor) -> Tensor:
    """What a LoRA adds to a base projection: it counts for ELITE's projections too, fused or not."""
    if getattr(linear, "merged", False):  # its update is in the base weight, which ELITE's projections do not see
        deltas = [F.linear(text, linear.get_delta_weight(name).to(text)) for name in linear.merged_adapters]
        return sum(deltas[1:], start=deltas[0])
    return linear(text) - base_layer(linear)(text)
