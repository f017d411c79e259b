"""Sheets of small pictures, for looking at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def to_pictures(images: Tensor) -> list[Image.Image]:
    """Images (B, 3, H, W) in [-1, 1] as pictures."""
    values = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(value.numpy()) for value in values]


def sheet(rows: Sequence[Sequence[Image.Image]], scale: int = 2) -> Image.Image:
    """The pictures in rows, enlarged ``scale`` times without smoothing, so that every pixel can be seen."""
    width, height = (side * scale for side in rows[0][0].size)
    whole = Image.new("RGB", (width * max(map(len, rows)), height * len(rows)), "white")
    for number, row in enumerate(rows):
        for place, picture in enumerate(row):
            whole.paste(picture.resize((width, height), Image.Resampling.NEAREST), (place * width, number * height))
    return whole


def in_rows(pictures: Sequence[Image.Image], columns: int) -> list[Sequence[Image.Image]]:
    """The pictures cut into rows of ``columns``."""
    return [pictures[first : first + columns] for first in range(0, len(pictures), columns)]


def save_sheet(picture: Image.Image, path: Path) -> None:
    """Write as PNG under a temporary name and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    picture.save(temporary, format="PNG")
    os.replace(temporary, path)
