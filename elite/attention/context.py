"""What holds for the calls of a UNet within a ``with`` block: a conditioning, or the recording of attention maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .active import Active, ConditionedText
from .conditioning import Conditioning
from .install import check_processors
from .processor import EliteAttnProcessor
from .recording import AttentionRecord, recording

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention


@contextmanager
def condition(
    unet: UNet2DConditionModel, conditioning: Conditioning, guided: bool | Callable[[], bool] | None = None
) -> Iterator[Active]:
    """Within this context, calls of ``unet`` use ELITE's global and local branches.

    Keys and values of the patches are projected once, with gradients when these are on; those of the text once for
    each text tensor while gradients are off.

    Args:
        unet: a UNet with processors (not a wrapper around it).
        conditioning: what the samples are conditioned on.
        guided: whether batches are [unconditional; conditional], of which only the second half gets the local branch:
            a fact, or a function that tells it for every call. When left out a batch twice as large as the
            conditioning is taken for one.

    Yields:
        The conditioning in force: its ``local_values()`` are what Eq. 7 penalises.

    Raises:
        RuntimeError: when the processors were replaced.
        ValueError: when the patch embeddings have another width than the layers.
    """
    processors = check_processors(unet)
    active = Active(conditioning, processors, guided)
    patches, width = conditioning.patch_embeddings, next(iter(processors.values())).to_k_local.in_features
    if conditioning.has_local and patches is not None and patches.shape[-1] != width:
        raise ValueError(
            f"patch_embeddings must have width {width}, that of this UNet's text features, got {patches.shape[-1]}."
        )

    def attach(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if conditioning.has_local and torch.is_grad_enabled():
            # Outside every checkpointed block, so that its second pass finds the same tensors. Without gradients each
            # layer projects at its first call instead: by then an offloaded UNet is where it computes.
            active.project_local()
        if "encoder_hidden_states" in kwargs:
            return args, {**kwargs, "encoder_hidden_states": _with(kwargs["encoder_hidden_states"], active)}
        return (*args[:2], _with(args[2], active), *args[3:]), kwargs

    handle = unet.register_forward_pre_hook(attach, with_kwargs=True, prepend=True)
    for processor in processors.values():
        processor.in_force.append(active)
    try:
        yield active
    finally:
        handle.remove()
        for processor in processors.values():
            processor.in_force.remove(active)


def _with(text: Tensor | ConditionedText, active: Active) -> ConditionedText:
    # Of nested contexts the inner one holds: its hook runs first.
    if isinstance(text, Tensor):
        active.first_row(text.shape[0])  # raises before the UNet starts
    return text if isinstance(text, ConditionedText) else ConditionedText(text, active)


def local_values(unet: UNet2DConditionModel) -> list[Tensor]:
    """V^l of every layer, (B, p², inner) each, in module order: ``local_values()`` of the `condition` around the call.

    Raises:
        RuntimeError: outside `condition`, or when that has no patch embeddings.
    """
    in_force = next(iter(check_processors(unet).values())).in_force
    if not in_force:
        raise RuntimeError("local_values needs to be called within condition(unet, ...) with patch_embeddings.")
    return in_force[-1].local_values()


@contextmanager
def record_attention(unet: UNet2DConditionModel) -> Iterator[AttentionRecord]:
    """Within this context, calls of ``unet`` compute attention maps explicitly and keep them.

    Args:
        unet: a UNet with processors; it may be conditioned or not.

    Yields:
        An `AttentionRecord`, filled by the calls.

    Raises:
        RuntimeError: when the processors were replaced.
    """
    with recording(unet, check_processors(unet)) as record:
        yield record


class LayerAttention(NamedTuple):
    """What `cross_attention` returns.

    Attributes:
        hidden_states: the layer's output, of the shape of its input.
        global_probs: A^g, (B, heads, queries, L).
        local_probs: A^l, (B, heads, queries, p²), scaled by Eq. 8 when reweighting is on; None without local branch.
    """

    hidden_states: Tensor
    global_probs: Tensor
    local_probs: Tensor | None


def cross_attention(
    attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, conditioning: Conditioning | None = None
) -> LayerAttention:
    """One cross attention layer alone, by explicit softmax: its output and maps (Eq. 2, 6, 8).

    Args:
        attn: a layer with ELITE's processor, one of `cross_attention_layers`.
        hidden_states: (B, queries, C).
        encoder_hidden_states: text features (B, L, d).
        conditioning: of the B samples; with None the layer computes what its base model does.

    Returns:
        See `LayerAttention`; the maps carry no gradient.

    Raises:
        RuntimeError: when the layer has another processor.
        ValueError: for shapes that do not fit.
    """
    processor = attn.processor
    if not isinstance(processor, EliteAttnProcessor):
        raise RuntimeError(f"attn has the processor {type(processor).__name__} instead of ELITE's.")
    text: Tensor | ConditionedText = encoder_hidden_states
    if conditioning is not None:
        active = Active(conditioning, {"": processor}, guided=False)
        active.first_row(encoder_hidden_states.shape[0])  # raises for another number of rows
        text = ConditionedText(encoder_hidden_states, active)
    record, before = AttentionRecord(), processor.recorder
    record.start_call((hidden_states.shape[1], 1))
    processor.recorder = (record, "")
    try:
        out = attn(hidden_states, encoder_hidden_states=text)
    finally:
        processor.recorder = before
    maps = record.calls[0][""]
    return LayerAttention(out, maps.global_probs, maps.local_probs)
