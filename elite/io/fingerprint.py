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
        # With or without CLIP's projection head the hidden states are the same.
        named = [(n, p) for n, p in module.named_parameters() if not n.startswith("visual_projection")]
        chosen = [p.detach().flatten()[:: max(1, p.numel() // _SAMPLES)][:_SAMPLES] for _, p in named]
        if not named:
            continue
        # All at once: from a device, every value fetched alone would be waited for.
        flags = torch.cat([torch.signbit(values).to(chosen[0].device) for values in chosen]).cpu()
        for (name, parameter), signs in zip(named, flags.split([len(values) for values in chosen]), strict=True):
            digest.update(f"{name.removeprefix('vision_model.')}{tuple(parameter.shape)}".encode())
            digest.update(signs.numpy().tobytes())
    return digest.hexdigest()[:16]
