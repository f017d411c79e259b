"""A short name for a set of weights, the same in float32, fp16 and bf16."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import nn

_SAMPLES = 64  # values looked at in each tensor

# What makes two CLIP encoders read a picture differently, apart from their weights.
_SHAPE_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
)


def fingerprint(modules: Iterable[nn.Module]) -> str:
    """Sixteen hexadecimal digits that tell sets of weights apart.

    It hashes names, shapes and the signs of values spread over every tensor: casting to another floating type keeps
    the signs, so a model has one fingerprint in all types. Not a protection against forgery.

    Args:
        modules: the modules, in a fixed order.

    Returns:
        The fingerprint; empty when weights are elsewhere (on the meta device, as when they are offloaded one by one).
    """
    modules = list(modules)
    if any(parameter.is_meta for module in modules for parameter in module.parameters()):
        return ""
    digest = hashlib.sha256()
    for module in modules:
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "hidden_size"):
            shape = {key: getattr(config, key, None) for key in _SHAPE_KEYS}
            digest.update(json.dumps(shape, sort_keys=True).encode())
        for name, parameter in module.named_parameters():
            if name.startswith("visual_projection"):
                continue  # with or without this head, the hidden states are the same
            flat = parameter.detach().flatten()
            step = max(1, flat.numel() // _SAMPLES)
            signs = torch.signbit(flat[::step][:_SAMPLES]).cpu().numpy()
            digest.update(f"{name.removeprefix('vision_model.')}{tuple(parameter.shape)}".encode())
            digest.update(signs.tobytes())
    return digest.hexdigest()[:16]
