"""A conditioning in force: what a layer computes from text and patches alone, computed once and kept for all steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .conditioning import Conditioning

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

    from .processor import EliteAttnProcessor

COLUMNS = 8  # more columns of a marked value: the fused kernels like widths that are multiples of eight


class ConditionedText(NamedTuple):
    """Text features (B, L, d) with the conditioning of their samples: what a conditioned UNet call hands to attn2."""

    hidden_states: Tensor
    active: Active


class _Kept(NamedTuple):
    """Tensors, and what they were made from."""

    source: Any
    state: tuple
    tensors: tuple[Tensor, Tensor]


class Active:
    """A conditioning in force in a UNet; `elite.attention.condition` makes it.

    Args:
        conditioning: what the samples are conditioned on.
        processors: the UNet's, by layer name.
        guided: whether a batch is [unconditional; conditional]: a fact, a function that tells it for every call, or
            None where it is read off the batch, which then has one or two rows for each sample.
    """

    def __init__(
        self,
        conditioning: Conditioning,
        processors: Mapping[str, EliteAttnProcessor] | None = None,
        guided: bool | Callable[[], bool] | None = None,
    ) -> None:
        self.conditioning, self.processors, self.guided = conditioning, dict(processors or {}), guided
        self._local: dict[EliteAttnProcessor, tuple[Tensor, Tensor]] = {}
        self._constant: set[EliteAttnProcessor] = set()  # projected without gradients
        self._local_heads: dict[EliteAttnProcessor, tuple[Tensor, Tensor]] = {}
        self._text_heads: dict[EliteAttnProcessor, _Kept] = {}
        self._widened: dict[EliteAttnProcessor, _Kept] = {}
        self._marks: dict[tuple, Tensor] = {}

    def first_row(self, batch: int) -> int:
        """Where the conditioned samples start in a batch: 0, or B with the unconditional half first.

        Raises:
            ValueError: when the batch has another size.
        """
        rows = self.conditioning.rows
        guided = self.guided() if callable(self.guided) else self.guided
        if guided is None:
            guided = batch == 2 * rows
        if batch != rows * (1 + guided):
            raise ValueError(
                f"the UNet got a batch of {batch}, but its conditioning is for {rows} samples: give {rows}, "
                f"or {2 * rows} with the unconditional half first."
            )
        return batch - rows

    def local_values(self) -> list[Tensor]:
        """V^l of every layer, (B, p², inner) each, in module order: what Eq. 7 penalises.

        Raises:
            RuntimeError: when the conditioning has no patch embeddings, or λ is 0.
        """
        if not self.conditioning.has_local:
            raise RuntimeError("local_values needs to be called within condition(unet, ...) with patch_embeddings.")
        return [value for _, value in self.project_local()]

    def project_local(self) -> list[tuple[Tensor, Tensor]]:
        """K^l and V^l of every layer, (B, p², inner) each, in module order."""
        return [self.local_of(processor) for processor in self.processors.values()]

    def local_of(self, processor: EliteAttnProcessor, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """K^l and V^l of one layer, projected on first use and kept; once more when gradients were off before."""
        needs_gradients = torch.is_grad_enabled()
        if processor not in self._local or (needs_gradients and processor in self._constant):
            self._local[processor] = processor.project_local(cast(Tensor, self.conditioning.patch_embeddings), device)
            (self._constant.discard if needs_gradients else self._constant.add)(processor)
        return self._local[processor]

    def local_heads(self, processor: EliteAttnProcessor, attn: Attention, like: Tensor) -> tuple[Tensor, Tensor]:
        """K^l and λ V^l beside a query, (B, h, p², c) each, kept too when no gradient needs to find its way back."""
        if processor in self._local_heads and not torch.is_grad_enabled():
            return self._local_heads[processor]
        key, value = self.local_of(processor, like.device)
        weight = self.conditioning.fusion_weight
        if isinstance(weight, Tensor):
            weight = weight.to(like).view(-1, 1, 1)
        value = value.to(like.dtype)
        value = value if isinstance(weight, float) and weight == 1 else value * weight
        found = heads(attn, key.to(like.dtype), attn.norm_k), heads(attn, value)
        if not torch.is_grad_enabled():
            self._local_heads[processor] = found
        return found

    def text_heads(
        self, processor: EliteAttnProcessor, attn: Attention, text: Tensor, like: Tensor, marked: bool
    ) -> tuple[Tensor, Tensor]:
        """K^g and V^g beside a query, (B, h, L, c) each, or `COLUMNS` wider with the marks of `_mark`.

        They are kept as long as the text is the same tensor, unchanged, and a LoRA counts as before. In inference mode
        torch does not notice changes of a tensor: there they are computed at every call.
        """
        if not _may_keep() or text.is_inference():
            return self._make_text_heads(processor, attn, text, like, marked)
        state = (text._version, like.dtype, marked, *_state(processor.to_k_global), *_state(processor.to_v_global))
        state += (*_state(attn.to_k), *_state(attn.to_v))
        kept = self._text_heads.get(processor)
        if kept is None or kept.source is not text or kept.state != state:
            kept = _Kept(text, state, self._make_text_heads(processor, attn, text, like, marked))
            self._text_heads[processor] = kept
        return kept.tensors

    def _make_text_heads(
        self, processor: EliteAttnProcessor, attn: Attention, text: Tensor, like: Tensor, marked: bool
    ) -> tuple[Tensor, Tensor]:
        if attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        key, value = processor.project_text(attn, text)
        key, value = heads(attn, key.to(like.dtype), attn.norm_k), heads(attn, value.to(like.dtype))
        if not marked:
            return key, value
        return F.pad(key, (0, COLUMNS)), torch.cat([value, self._mark(value)], dim=-1)

    def _mark(self, value: Tensor) -> Tensor:
        """More value columns (B, h, L, 8): 1 at each sample's word, then a number just above 0, then zeros.

        A query's probabilities come out of the first as the word's, and out of the second as the least that the
        maximum in Eq. 8 may be: a word that nothing looks at has the factor 0, not 0 / 0.
        """
        batch, count, length, _ = value.shape
        key = (batch, length, value.device, value.dtype)
        if key not in self._marks:
            at_word = self.conditioning.word_index.to(value.device).unsqueeze(1)  # (rows, 1)
            at_word = (at_word == torch.arange(length, device=value.device)).to(value.dtype)  # (rows, L)
            least = max(torch.finfo(value.dtype).tiny, 1e-30)
            columns = torch.stack([at_word, torch.full_like(at_word, least)], dim=-1)  # (rows, L, 2)
            marks = F.pad(columns, (0, COLUMNS - 2, 0, 0, self.first_row(batch), 0))  # (batch, L, 8)
            self._marks[key] = marks.unsqueeze(1)
        return self._marks[key].expand(-1, count, -1, -1)

    def widened(self, processor: EliteAttnProcessor, attn: Attention, like: Tensor) -> tuple[Tensor, ...] | None:
        """Weights of to_q and to_out for heads that are `COLUMNS` wider, so that no query or result is copied.

        Returns:
            Q's weight (h (c + 8), C) and the output's (C, h (c + 8)); None where the layers are more than a product
            with their weight (a LoRA, offloading, a hook), or gradients are on.
        """
        if not _may_keep():
            return None
        q, out = attn.to_q, attn.to_out[0]
        plain = _is_plain(q, like) and _is_plain(out, like) and q.bias is None and attn.norm_q is None
        if not plain:
            return None
        kept, source, state = self._widened.get(processor), (q.weight, out.weight), (*_state(q), *_state(out))
        if kept is None or any(a is not b for a, b in zip(kept.source, source, strict=True)) or kept.state != state:
            wide_q = F.pad(q.weight.unflatten(0, (attn.heads, -1)), (0, 0, 0, COLUMNS)).flatten(0, 1)
            wide_out = F.pad(out.weight.unflatten(1, (attn.heads, -1)), (0, COLUMNS)).flatten(1)
            kept = self._widened[processor] = _Kept(source, state, (wide_q, wide_out))
        return kept.tensors


def heads(attn: Attention, tensor: Tensor, norm: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """(B, L, inner) -> (B, h, L, c)."""
    split = tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    return split if norm is None else norm(split)


def base_layer(linear: Any) -> nn.Linear:
    """The linear layer under a LoRA layer, or the layer itself."""
    return getattr(linear, "base_layer", linear)


def _may_keep() -> bool:
    """Whether what a layer computes may be kept beside it: a compiled graph and a gradient want to see it computed."""
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _is_plain(linear: Any, like: Tensor) -> bool:
    """Whether a layer does nothing but multiply by its weight, which is where it is needed."""
    if type(linear) is not nn.Linear or linear._forward_hooks or linear._forward_pre_hooks:
        return False
    weight = linear._parameters["weight"]
    return type(weight) is nn.Parameter and "forward" not in linear.__dict__ and weight.device == like.device


def _state(linear: Any) -> tuple:
    """What a projection depends on beside its input: versions of its weights, and how a LoRA counts."""
    if type(linear) is nn.Linear:  # nearly always, and asked at every call of every layer: `parameters` is slow
        weight, bias = linear._parameters["weight"], linear._parameters["bias"]
        return (_version(weight),) if bias is None else (_version(weight), _version(bias))
    versions = tuple(_version(p) for p in linear.parameters())
    if base_layer(linear) is linear:
        return versions
    names = ("disable_adapters", "merged_adapters", "active_adapters", "scaling")
    return (*versions, *(repr(getattr(linear, name, None)) for name in names))


def _version(weight: Tensor | None) -> int:
    return 0 if weight is None or weight.is_inference() else weight._version
