"""From pictures to concepts: both mappers, on the features of a picture and of its masked copy (Eq. 3, 5)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .adapter import EliteAdapter
from .concept import Concept
from .features import clip_features, patch_grid, patch_mask, preprocess
from .io.images import apply_mask, read_image, read_mask
from .io.tensors import check_finite

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import CLIPVisionModelWithProjection


@torch.no_grad()
def encode_pictures(
    adapter: EliteAdapter,
    image_encoder: CLIPVisionModelWithProjection,
    images: Sequence[str | Path | Image],
    masks: Sequence[str | Path | Image | None] | None = None,
    mask_mode: str = "nearest",
    device: torch.device | str = "cpu",
) -> list[Concept]:
    """Encode several pictures in one batch, one concept each.

    Args:
        adapter: its mappers are used, where the encoder computes.
        image_encoder: the CLIP image encoder they read.
        images: paths or pictures; the subject should fill most of each.
        masks: one for each picture, white on the subject; None takes the whole picture.
        mask_mode: how a mask comes to the patch grid, "nearest" or "area"; see `features.patch_mask`.
        device: where the encoder computes.

    Returns:
        The concepts, on that device, in the type of the encoder.

    Raises:
        FileNotFoundError: when a file does not exist.
        ValueError: when a picture or mask cannot be used.
    """
    masks = [None] * len(images) if masks is None else list(masks)
    if len(masks) != len(images) or not images:
        raise ValueError(f"masks must be one for each of the {len(images)} images (at least one), got {len(masks)}.")
    pictures = [read_image(image) for image in images]
    objects = [None if m is None else read_mask(m, p.size) for m, p in zip(masks, pictures, strict=True)]
    side, grid = image_encoder.config.image_size, patch_grid(image_encoder)
    on_grid = torch.cat([_mask_on_grid(mask, side, grid, mask_mode) for mask in objects])  # (B, p², 1)
    masked = [p if m is None else apply_mask(p, m) for p, m in zip(pictures, objects, strict=True)]

    dtype, layers = image_encoder.dtype, adapter.config.layers
    whole = clip_features(image_encoder, preprocess(pictures, side).to(device, dtype), layers)
    if all(m is None for m in objects):
        part = whole  # both branches read the same pixels: one pass of the encoder is enough
    else:
        part = clip_features(image_encoder, preprocess(masked, side).to(device, dtype), layers)
    words, patches = adapter(whole, part, on_grid.to(device))  # (B, N, d), (B, p², d)
    check_finite({"words": words, "patch_embeddings": patches}, "the encoded picture")

    made = {
        **adapter.made_by(image_encoder),
        "layers": list(layers),
        "mask_mode": mask_mode,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }
    return [
        Concept(
            words[i].to(dtype),
            patches[i].to(dtype),
            {**made, "image_size": list(pictures[i].size), "mask_coverage": _coverage(objects[i])},
        )
        for i in range(len(pictures))
    ]


def _mask_on_grid(mask: Image | None, side: int, grid: int, mode: str) -> Tensor:
    """A picture mask on the patch grid by way of the encoder's input size, as the authors do: (1, p², 1)."""
    if mask is None:
        return torch.ones(1, grid * grid, 1)
    from PIL import Image as PILImage

    small = mask.resize((side, side), PILImage.Resampling.NEAREST)
    pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(1, 1, side, side) / 255.0
    on_grid = patch_mask(pixels, grid, mode)
    if not bool((on_grid > 0).any()):
        raise ValueError(
            f"mask is empty on the {grid} × {grid} grid of patches: the object is too small; "
            'crop the picture to it, or use mask_mode="area".'
        )
    return on_grid


def _coverage(mask: Image | None) -> float:
    """Fraction of the picture that is the subject."""
    if mask is None:
        return 1.0
    return round(mask.histogram()[255] / (mask.width * mask.height), 4)
