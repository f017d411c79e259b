"""Pictures on the device: bytes to numbers, and views through windows, all of fixed shapes and without waiting."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def to_float(images: Tensor) -> Tensor:
    """uint8 pictures (B, H, W, 3) as (B, 3, H, W) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def look_through(images: Tensor, centre: Tensor, half: Tensor, size: int, mode: str = "bilinear") -> Tensor:
    """Each picture seen through a square window.

    Args:
        images: (B, C, H, W).
        centre: of the windows, (B, 2), x and y with the picture from -1 to 1.
        half: half of their sides, (B,), in the same unit: 1 is the whole picture.
        size: side of the result in pixels.
        mode: of the interpolation.

    Returns:
        (B, C, size, size); the rim is continued beyond the picture.
    """
    line = (torch.arange(size, device=images.device, dtype=torch.float32) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, y], dim=-1)  # (size, size, 2)
    grid = centre.view(-1, 1, 1, 2) + half.view(-1, 1, 1, 1) * points
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


def moved(images: Tensor, smallest: float, shift: float = 0.0) -> Tensor:
    """Each picture through a window of its own: its side ``smallest`` to 1 of the picture's, moved within reach.

    ``shift`` moves a window further, beyond the rim, by up to that share of half the picture's side.
    """
    count, device = len(images), images.device
    half = smallest + (1 - smallest) * torch.rand(count, device=device)
    centre = (torch.rand(count, 2, device=device) * 2 - 1) * ((1 - half)[:, None] + shift)
    return look_through(images, centre, half, images.shape[-1])


def soften(images: Tensor) -> Tensor:
    """Random shifts, blur, noise and contrast on images (B, 3, H, W) in [-1, 1]: drawn pictures are softer."""
    count, device = len(images), images.device
    images = moved(images, 1.0, 0.125)
    amount = torch.rand(count, 1, 1, 1, device=device) * (torch.rand(count, 1, 1, 1, device=device) < 0.5)
    images = images.lerp(F.avg_pool2d(F.pad(images, (2,) * 4, mode="replicate"), 5, stride=1), amount)
    images = images + torch.randn_like(images) * 0.12 * torch.rand(count, 1, 1, 1, device=device)
    return (images * (0.85 + 0.3 * torch.rand(count, 1, 1, 1, device=device))).clamp(-1, 1)


def flipped(images: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Half of the pictures mirrored left to right, and what belongs to them likewise."""
    turn = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return tuple(torch.where(turn, tensor.flip(-1), tensor) for tensor in (images, *others))
