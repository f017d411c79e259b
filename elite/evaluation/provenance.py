"""What a result was made with: models by the digests of their weights, so that a number can be told from its like."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from elite.attention import remove_processors, restore_processors
from elite.backbones import CLIP_LARGE, REVISIONS, SD14
from elite.official import OFFICIAL_REPOSITORY

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

PARTS = ("unet", "vae", "text_encoder", "image_encoder")


def weights_digest(module: nn.Module) -> str:
    """Sixteen digits of the SHA-256 of all names, types and values of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def provenance(model: str, pipeline: StableDiffusionPipeline) -> dict[str, Any]:
    """What a pipeline is made of.

    Args:
        model: the name it was loaded by; revisions are known of "sd14" alone.
        pipeline: a pipeline, with or without an adapter.

    Returns:
        "model", "revisions" where it came from the Hub, and "weights": a digest of each part, the adapter among them.
    """
    adapter = getattr(pipeline, "adapter", None)
    removed = remove_processors(pipeline.unet)  # they would count among the UNet's weights
    try:
        parts = {name: getattr(pipeline, name, None) for name in PARTS}
        weights = {name: weights_digest(part) for name, part in parts.items() if isinstance(part, nn.Module)}
    finally:
        restore_processors(pipeline.unet, removed)
    if adapter is not None:
        weights["adapter"] = weights_digest(adapter)
    found: dict[str, Any] = {"model": model, "weights": weights}
    if model == "sd14":
        found["revisions"] = {name: REVISIONS[name] for name in (SD14, CLIP_LARGE, OFFICIAL_REPOSITORY)}
    return found
