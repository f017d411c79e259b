"""What the mappers read: multi-layer CLIP features of a picture, and masks on its patch grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import CLIPVisionModel

# The statistics every CLIP image encoder was trained with (openai/CLIP).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def default_layers(num_hidden_layers: int) -> tuple[int, ...]:
    """The five layers to read, deepest first: (24, 4, 8, 12, 16) for 24 layers, the same fractions otherwise.

    Args:
        num_hidden_layers: depth of the image encoder, at least 1.

    Returns:
        Layer indexes in 1 … depth; the deepest gives the primary word w0. An encoder with fewer than five layers
        gives fewer, without repetitions.

    Raises:
        ValueError: for a depth below 1.
    """
    if num_hidden_layers < 1:
        raise ValueError(f"num_hidden_layers must be at least 1, got {num_hidden_layers}.")
    shallow = [max(1, round(num_hidden_layers * k / 6)) for k in (1, 2, 3, 4)]
    return tuple(dict.fromkeys((num_hidden_layers, *shallow)))  # unique, order kept


def check_layers(layers: Sequence[int], num_hidden_layers: int) -> tuple[int, ...]:
    """Check layer indexes and return them as a tuple.

    Args:
        layers: indexes into the encoder's hidden states: 0 (after the embeddings) … depth.
        num_hidden_layers: depth of the image encoder.

    Raises:
        ValueError: when the list is empty or an index is not a layer of this encoder.
    """
    if not layers:
        raise ValueError("layers must name at least one layer of the image encoder, got an empty list.")
    for layer in layers:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer <= num_hidden_layers:
            raise ValueError(
                f"layers holds {layer!r}, but this image encoder has layers 0 to {num_hidden_layers} "
                "(0 is its embedding)."
            )
    return tuple(layers)


def clip_features(
    image_encoder: CLIPVisionModel, pixel_values: Tensor, layers: Sequence[int] | None = None
) -> tuple[Tensor, ...]:
    """Hidden states of the chosen layers, CLS token first, without the final LayerNorm.

    Args:
        image_encoder: a ``CLIPVisionModel`` or ``CLIPVisionModelWithProjection``.
        pixel_values: CLIP-normalised pictures (B, 3, S, S); see `preprocess`.
        layers: indexes of hidden states; ``default_layers`` of the encoder's depth when left out.

    Returns:
        One tensor (B, 1 + p², D) for each layer, in the order asked for.

    Raises:
        ValueError: for an unknown layer index.
    """
    depth = image_encoder.config.num_hidden_layers
    chosen = default_layers(depth) if layers is None else check_layers(tuple(layers), depth)
    states = image_encoder(pixel_values, output_hidden_states=True).hidden_states
    return tuple(states[layer] for layer in chosen)


def preprocess(images: Sequence[Image] | Image, image_size: int) -> Tensor:
    """Preprocess pictures for a CLIP image encoder.

    The whole picture is resized to a square (bicubic), as the authors do: nothing is cropped, so crop to the
    object first if the aspect ratio matters.

    Args:
        images: RGB pictures, or one.
        image_size: side S of the encoder's input in pixels.

    Returns:
        pixel values (B, 3, S, S), float32, CLIP-normalised.

    Raises:
        ValueError: when there is no picture, or one is not RGB.
    """
    from PIL import Image as PILImage

    if isinstance(images, PILImage.Image):
        images = [images]
    if not images:
        raise ValueError("images must hold at least one picture, got none.")
    arrays = []
    for image in images:
        if image.mode != "RGB":
            raise ValueError(f"images must be RGB, got mode {image.mode!r}; images.read_image converts.")
        resized = image.resize((image_size, image_size), PILImage.Resampling.BICUBIC)
        arrays.append(np.asarray(resized, dtype=np.float32) / 255.0)
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)  # (B, 3, S, S) in [0, 1]
    mean = torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(CLIP_STD).view(1, 3, 1, 1)
    return ((pixels - mean) / std).contiguous()


def patch_mask(mask: Tensor, grid: int, mode: str = "nearest") -> Tensor:
    """A picture mask on the encoder's grid of patches.

    Args:
        mask: (B, 1, H, W) in [0, 1], 1 on the object.
        grid: patches per side, p (16 for ViT-L/14 at 224 pixels).
        mode: "nearest" takes one pixel for each patch, as the authors do; "area" takes the covered fraction.

    Returns:
        (B, p², 1), float, patches in reading order.

    Raises:
        ValueError: for another shape or mode.
    """
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise ValueError(f"mask must be (batch, 1, height, width), got {tuple(mask.shape)}.")
    if mode not in ("nearest", "area"):
        raise ValueError(f'mode must be "nearest" or "area", got {mode!r}.')
    if not mask.is_floating_point():
        mask = mask.float()
    small = F.interpolate(mask, size=(grid, grid), mode=mode)  # (B, 1, p, p)
    return small.flatten(2).transpose(1, 2)  # (B, p², 1)


def patch_grid(image_encoder: CLIPVisionModel) -> int:
    """Patches per side, p, of a CLIP image encoder."""
    return image_encoder.config.image_size // image_encoder.config.patch_size
