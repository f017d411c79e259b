"""Cross attention with ELITE's two branches (Eq. 2, 6, 8), as diffusers attention processors.

`install_processors` puts one `EliteAttnProcessor` in every cross attention layer of a UNet. Alone it changes nothing;
within `condition(unet, Conditioning(...))` the layers use the global and local keys and values. What a call needs
travels with its text features, so it survives gradient checkpointing and two UNets never disturb each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .conditioning import Conditioning
from .processor import Active, ConditionedText, EliteAttnProcessor, base_layer
from .recording import AttentionRecord, recording

_ACTIVE: WeakKeyDictionary[nn.Module, Active] = WeakKeyDictionary()


def cross_attention_layers(unet: nn.Module) -> dict[str, nn.Module]:
    """Every attn2 layer of a UNet by module name, in the order of its modules (that of the published files)."""
    layers = {name: module for name, module in unet.named_modules() if name.endswith("attn2")}
    if not layers:
        raise ValueError("unet has no cross attention layers (attn2): ELITE needs a text-conditioned UNet.")
    return layers


def install_processors(
    unet: nn.Module, processors: Mapping[str, EliteAttnProcessor] | None = None
) -> dict[str, EliteAttnProcessor]:
    """Put a processor in every cross attention layer.

    Args:
        unet: a ``UNet2DConditionModel``.
        processors: by layer name; when left out they are made, starting from the layers' own keys and values.

    Returns:
        The processors by layer name, in module order.

    Raises:
        ValueError: when a layer is missing from ``processors``, has other widths, or already has a processor with
            weights of its own (an IP-Adapter, another ELITE adapter).
    """
    layers = cross_attention_layers(unet)
    if processors is not None and set(processors) != set(layers):
        odd = min(set(processors) ^ set(layers))
        raise ValueError(f"processors must name exactly the {len(layers)} attn2 layers of this UNet; {odd!r} differs.")
    ready: dict[str, EliteAttnProcessor] = {}
    for name, attn in layers.items():
        if isinstance(attn.processor, nn.Module) and attn.processor is not (processors or {}).get(name):
            raise ValueError(
                f"{name} already has a processor with weights ({type(attn.processor).__name__}); "
                "remove it before ELITE's is installed."
            )
        weight = base_layer(attn.to_k).weight
        if processors is None:
            processor = EliteAttnProcessor(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
            processor.copy_base_weights(attn)
        else:
            processor = processors[name]
            if processor.to_k_global.weight.shape != weight.shape:
                raise ValueError(
                    f"{name} has keys of shape {tuple(weight.shape)}, but the adapter's are "
                    f"{tuple(processor.to_k_global.weight.shape)}: it was made for another base model."
                )
        ready[name] = processor
    for name, processor in ready.items():  # nothing is changed before everything is known to fit
        attn = layers[name]
        if attn.processor is not processor:
            processor.base = attn.processor
            attn.set_processor(processor)
    return ready


def remove_processors(unet: nn.Module) -> dict[str, EliteAttnProcessor]:
    """Give every cross attention layer its own processor back.

    Returns:
        What was removed, by layer name, for `restore_processors`.
    """
    removed = {}
    for name, attn in cross_attention_layers(unet).items():
        if isinstance(attn.processor, EliteAttnProcessor):
            removed[name] = attn.processor
            attn.set_processor(attn.processor.base)
    return removed


def restore_processors(unet: nn.Module, removed: Mapping[str, EliteAttnProcessor]) -> None:
    """Put back what `remove_processors` removed."""
    for name, processor in removed.items():
        unet.get_submodule(name).set_processor(processor)


def check_processors(unet: nn.Module) -> dict[str, EliteAttnProcessor]:
    """The installed processors by layer name.

    Raises:
        RuntimeError: when a layer has another processor, as after ``enable_attention_slicing`` or
            ``set_attn_processor``.
    """
    found = {name: attn.processor for name, attn in cross_attention_layers(unet).items()}
    for name, processor in found.items():
        if not isinstance(processor, EliteAttnProcessor):
            raise RuntimeError(
                f"{name} has the processor {type(processor).__name__} instead of ELITE's: a call such as "
                "enable_attention_slicing, enable_xformers_memory_efficient_attention, set_attn_processor or "
                "fuse_qkv_projections replaced it; call adapter.attach(unet) to put it back."
            )
    return found


@contextmanager
def condition(unet: nn.Module, conditioning: Conditioning) -> Iterator[nn.Module]:
    """Within this context, calls of ``unet`` use ELITE's global and local branches.

    Local keys and values are projected once, with gradients when these are on. A batch twice as large as the
    conditioning is [unconditional; conditional], and its first half gets no local branch.

    Args:
        unet: a UNet with processors (not a wrapper around it).
        conditioning: what the samples are conditioned on.

    Yields:
        The UNet, for `local_values`.

    Raises:
        RuntimeError: when the processors were replaced.
        ValueError: when the patch embeddings have another width than the layers.
    """
    processors = check_processors(unet)
    active = Active(conditioning)
    if conditioning.has_local:
        width = next(iter(processors.values())).to_k_local.in_features
        if conditioning.patch_embeddings.shape[-1] != width:
            raise ValueError(
                f"patch_embeddings must have width {width}, that of this UNet's text features, "
                f"got {conditioning.patch_embeddings.shape[-1]}."
            )

    def attach(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if conditioning.has_local and torch.is_grad_enabled():
            # Outside every checkpointed block, so that its second pass finds the same tensors. Without gradients each
            # layer projects at its first call instead: by then an offloaded UNet is where it computes.
            _project_all(active, processors)
        if "encoder_hidden_states" in kwargs:
            return args, {**kwargs, "encoder_hidden_states": _with(kwargs["encoder_hidden_states"], active)}
        return (*args[:2], _with(args[2], active), *args[3:]), kwargs

    outer = _ACTIVE.get(unet)
    _ACTIVE[unet] = active
    handle = unet.register_forward_pre_hook(attach, with_kwargs=True, prepend=True)
    try:
        yield unet
    finally:
        handle.remove()
        _ACTIVE.pop(unet)
        if outer is not None:
            _ACTIVE[unet] = outer


def _project_all(active: Active, processors: Mapping[str, EliteAttnProcessor]) -> list[tuple[Tensor, Tensor]]:
    return [active.local_of(processor) for processor in processors.values()]


def _with(text: Tensor | ConditionedText, active: Active) -> ConditionedText:
    # Of nested contexts the inner one holds: its hook runs first.
    if isinstance(text, Tensor):
        active.conditioning.first_row(text.shape[0])  # raises before the UNet starts
    return text if isinstance(text, ConditionedText) else ConditionedText(text, active)


def local_values(unet: nn.Module) -> list[Tensor]:
    """V^l of every layer, (B, p², inner) each, in module order: what Eq. 7 penalises.

    Raises:
        RuntimeError: outside `condition`, or when that has no patch embeddings.
    """
    active = _ACTIVE.get(unet)
    if active is None or not active.conditioning.has_local:
        raise RuntimeError("local_values needs to be called within condition(unet, ...) with patch_embeddings.")
    return [value for _, value in _project_all(active, check_processors(unet))]


@contextmanager
def record_attention(unet: nn.Module) -> Iterator[AttentionRecord]:
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
