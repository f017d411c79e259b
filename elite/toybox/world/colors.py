"""Colours: what words name, and what words leave open."""

from __future__ import annotations

import colorsys
import random

RGB = tuple[int, int, int]

# What a colour word means exactly; a subject's own colours lie anywhere between.
COLORS: dict[str, RGB] = {
    "red": (214, 40, 44),
    "orange": (240, 138, 36),
    "yellow": (240, 208, 50),
    "green": (52, 168, 74),
    "blue": (48, 96, 214),
    "purple": (140, 62, 186),
    "pink": (244, 130, 180),
}
# Hue ranges, in degrees, inside which everybody would say the word; between them nobody is sure.
_HUES = (("red", 350, 372), ("orange", 20, 36), ("yellow", 46, 62), ("green", 95, 150), ("blue", 205, 240),
         ("purple", 268, 292), ("pink", 315, 338))  # fmt: skip


def vivid(rng: random.Random) -> RGB:
    """A saturated colour of any hue."""
    return from_hsv(rng.random(), rng.uniform(0.55, 0.95), rng.uniform(0.62, 0.98))


def from_hsv(hue: float, saturation: float, value: float) -> RGB:
    """A colour from hue, saturation and value in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def name_of(color: RGB) -> str | None:
    """The word everybody would use, or None where people would differ."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in color))
    if saturation < 0.45 or value < 0.55:
        return None
    degrees = hue * 360
    for name, low, high in _HUES:
        if low <= degrees < high or low <= degrees + 360 < high:
            return name
    return None


def jitter(color: RGB, rng: random.Random, amount: int = 10) -> RGB:
    """A colour nearby."""
    red, green, blue = (min(255, max(0, channel + rng.randint(-amount, amount))) for channel in color)
    return red, green, blue


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """``share`` of the second colour in the first."""
    red, green, blue = (round(a * (1 - share) + b * share) for a, b in zip(first, second, strict=True))
    return red, green, blue
