"""A pen that draws shapes in unit coordinates on named layers, and where a drawn body carries its face and clothes."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

LAYERS = ("body", "accent", "dark")


@dataclass(frozen=True)
class Anchors:
    """Where things go on a body, in unit coordinates.

    Attributes:
        eyes: centres x of both eyes and their y.
        eye: radius of an eye.
        hat: x, y and half-width of the place a hat sits on.
        torso: top and bottom of what a shirt covers.
        neck: x, y and half-width of the place for a scarf.
    """

    eyes: tuple[float, float, float]
    hat: tuple[float, float, float]
    torso: tuple[float, float]
    neck: tuple[float, float, float]
    eye: float = 0.055


class Pen:
    """Draws on one mask a layer.

    Args:
        size: side of the square canvas in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.masks = {name: Image.new("L", (size, size)) for name in LAYERS}
        self._draws = {name: ImageDraw.Draw(mask) for name, mask in self.masks.items()}

    def oval(self, layer: str, x: float, y: float, rx: float, ry: float) -> None:
        """An ellipse about (x, y)."""
        s = self.size
        self._draws[layer].ellipse([s * (x - rx), s * (y - ry), s * (x + rx), s * (y + ry)], fill=255)

    def poly(self, layer: str, *points: tuple[float, float]) -> None:
        """A filled polygon."""
        self._draws[layer].polygon([(self.size * x, self.size * y) for x, y in points], fill=255)

    def box(self, layer: str, x0: float, y0: float, x1: float, y1: float, radius: float = 0.04) -> None:
        """A rectangle with round corners."""
        s = self.size
        self._draws[layer].rounded_rectangle([s * x0, s * y0, s * x1, s * y1], radius=s * radius, fill=255)

    def line(self, layer: str, *points: tuple[float, float], width: float = 0.05) -> None:
        """A thick line with round ends."""
        s, half = self.size, width / 2
        self._draws[layer].line([(s * x, s * y) for x, y in points], fill=255, width=max(1, round(s * width)))
        for x, y in points:
            self.oval(layer, x, y, half, half)

    def ring(self, layer: str, x: float, y: float, rx: float, ry: float, width: float = 0.06) -> None:
        """The outline of an ellipse."""
        s = self.size
        box = [s * (x - rx), s * (y - ry), s * (x + rx), s * (y + ry)]
        self._draws[layer].ellipse(box, outline=255, width=max(1, round(s * width)))
