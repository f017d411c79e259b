"""ELITE's processors in a UNet: put in, looked for, taken out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from .active import base_layer
from .processor import EliteAttnProcessor

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention


def cross_attention_layers(unet: UNet2DConditionModel) -> dict[str, Attention]:
    """Every attn2 layer of a UNet by module name, in the order of its modules (that of the published files)."""
    layers = {name: module for name, module in unet.named_modules() if name.endswith("attn2")}
    if not layers:
        raise ValueError("unet has no cross attention layers (attn2): ELITE needs a text-conditioned UNet.")
    return layers


def install_processors(
    unet: UNet2DConditionModel, processors: Mapping[str, EliteAttnProcessor] | None = None
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


def remove_processors(unet: UNet2DConditionModel) -> dict[str, EliteAttnProcessor]:
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


def restore_processors(unet: UNet2DConditionModel, removed: Mapping[str, EliteAttnProcessor]) -> None:
    """Put back what `remove_processors` removed."""
    for name, processor in removed.items():
        unet.get_submodule(name).set_processor(processor)


def check_processors(unet: UNet2DConditionModel) -> dict[str, EliteAttnProcessor]:
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
