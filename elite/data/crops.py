"""Cutting an object out of its picture: boxes in whole pixels, tight boxes of masks, square windows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from elite.data.index import REFERENCE_RESOLUTION

GREY = 128  # fills what lies outside the picture; the nearest whole number to 0 in [-1, 1]


class Box(NamedTuple):
    """Pixels left, top (inside) and right, bottom (outside), as PIL's ``crop`` takes them."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.bottom - self.top


def scaled(pixels: float, resolution: int) -> int:
    """A number of pixels of the paper (at resolution 512) at another resolution, at least 1."""
    return max(1, round(pixels * resolution / REFERENCE_RESOLUTION))


def padded_box(edges: tuple[float, float, float, float], size: tuple[int, int], padding: int) -> Box:
    """The whole pixels of a box and ``padding`` pixels around it, as far as the picture goes.

    Args:
        edges: left, top, right, bottom in pixels; fractions of a pixel are fine.
        size: width, height of the picture in pixels.
        padding: pixels added on each side, at least 1 (so that rounding never cuts the object).

    Returns:
        The box, inside the picture, with ``edges`` inside it.

    Raises:
        ValueError: the box is empty or leaves the picture, or ``padding`` is below 1.
    """
    left, top, right, bottom = edges
    width, height = size
    slack = 1e-6  # a fraction times a size, 0.7 * 10, may come out just below the whole number
    if not (-slack <= left < right <= width + slack and -slack <= top < bottom <= height + slack):
        raise ValueError(f"edges are {edges}, which is no box inside a picture of {width} x {height}.")
    if padding < 1:
        raise ValueError(f"padding is {padding}; it must be at least 1 pixel.")
    return Box(
        max(0, math.floor(left - padding)),
        max(0, math.floor(top - padding)),
        min(width, math.floor(right + padding + slack)),
        min(height, math.floor(bottom + padding + slack)),
    )


def square_box(box: Box, size: tuple[int, int]) -> Box:
    """The square around ``box`` with its longer side: more of the picture instead of a stretched object.

    It is moved into the picture where it fits; where it does not, it sticks out evenly and :func:`crop` fills grey.
    """
    side = max(box.width, box.height)
    left, right = _centred(box.left, box.right, side, size[0])
    top, bottom = _centred(box.top, box.bottom, side, size[1])
    return Box(left, top, right, bottom)


def _centred(low: int, high: int, side: int, limit: int) -> tuple[int, int]:
    start = (low + high - side) // 2
    start = (limit - side) // 2 if side > limit else min(max(start, 0), limit - side)
    # An uneven overhang must not cut the object: the box itself stays covered.
    start = min(start, low)
    start = max(start, high - side)
    return start, start + side


def crop(picture: Image.Image, box: Box, fill: int = GREY) -> Image.Image:
    """The pixels of ``box``; ``fill`` (every channel) where it lies outside the picture."""
    inside = Box(max(box.left, 0), max(box.top, 0), min(box.right, picture.width), min(box.bottom, picture.height))
    if inside == box:
        return picture.crop(box)
    canvas = Image.new(picture.mode, (box.width, box.height), (fill,) * len(picture.getbands()))
    canvas.paste(picture.crop(inside), (inside.left - box.left, inside.top - box.top))
    return canvas


def tight_box(mask: np.ndarray) -> Box:
    """The smallest box around the true pixels of ``mask`` (height, width); raises ValueError where there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise ValueError("mask has no pixel set; it must mark the object.")
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
