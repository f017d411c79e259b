"""Models saved by the libraries of 2022 (diffusers 0.11, transformers 4.26), built with today's.

Two things changed since: in those UNet configurations ``attention_head_dim`` is the *number* of heads (today's class
still reads it so), and CLIP's state dicts hold buffers and prefixes that some newer releases dropped.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from elite.io.tensors import check_names_and_shapes

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPVisionModel


def load_unet(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> UNet2DConditionModel:
    """A UNet from a diffusers 0.11 configuration and state dict.

    Args:
        config: as in ``unet/config.json``; ``attention_head_dim`` is the number of heads.
        state_dict: base weights, without ELITE's.

    Returns:
        The UNet, in evaluation mode.

    Raises:
        ValueError: when weights are missing, unknown or of another shape.
    """
    from diffusers import UNet2DConditionModel

    known = set(inspect.signature(UNet2DConditionModel.__init__).parameters) - {"self"}
    unet = UNet2DConditionModel(**{key: value for key, value in config.items() if key in known})
    _load(unet, dict(state_dict), "unet")
    return unet.eval()


def load_text_encoder(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> CLIPTextModel:
    """A CLIP text encoder from a transformers 4.26 configuration and state dict (``text_model.…`` names).

    Raises:
        ValueError: when weights are missing, unknown or of another shape.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    model = CLIPTextModel(CLIPTextConfig(**config))
    _load(model, _clip_names(model, state_dict, "text_model."), "text encoder")
    return model.eval()


def load_vision_encoder(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> CLIPVisionModel:
    """A CLIP image encoder from a transformers 4.26 configuration and state dict (``vision_model.…`` names).

    Raises:
        ValueError: when weights are missing, unknown or of another shape.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel

    model = CLIPVisionModel(CLIPVisionConfig(**config))
    _load(model, _clip_names(model, state_dict, "vision_model."), "vision encoder")
    return model.eval()


def _clip_names(model: torch.nn.Module, state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The names this release's model uses: with the prefix up to transformers 5.5, flat from 5.6 on."""
    wanted = model.state_dict()
    prefixed = any(name.startswith(prefix) for name in wanted)
    renamed = {}
    for name, tensor in state_dict.items():
        bare = name.removeprefix(prefix)
        renamed[prefix + bare if prefixed else bare] = tensor
    # position_ids is a constant that newer releases no longer save.
    return {n: t for n, t in renamed.items() if n in wanted or not n.endswith("embeddings.position_ids")}


def _load(model: torch.nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    check_names_and_shapes(model.state_dict(), tensors, f"the state dict of the {what}")
    model.load_state_dict(tensors)
