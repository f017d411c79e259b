"""Hats, scarves and outfits, put where a body says they go."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw

from .colors import COLORS, RGB
from .pen import Anchors

_WORDS: dict[str, str] = {
    "red_hat": "wearing a red hat",
    "santa_hat": "wearing a santa hat",
    "rainbow_scarf": "wearing a rainbow scarf",
    "top_hat": "wearing a black top hat and a monocle",
    "chef": "in a chef outfit",
    "firefighter": "in a firefighter outfit",
    "police": "in a police outfit",
    "pink_glasses": "wearing pink glasses",
    "yellow_shirt": "wearing a yellow shirt",
    "wizard": "in a purple wizard outfit",
}

ACCESSORIES: tuple[str, ...] = tuple(_WORDS.values())  # named by the words of the prompts


class Wardrobe:
    """Draws on a subject's picture.

    Args:
        image: RGBA picture of the subject, drawn on in place.
        body: mask of its body, which clothes follow.
        at: where things go.
    """

    def __init__(self, image: Image.Image, body: Image.Image, at: Anchors) -> None:
        self.image, self.body, self.at = image, body, at
        self.size = image.width
        self.draw = ImageDraw.Draw(image)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: RGB) -> None:
        s = self.size
        self.draw.ellipse([s * (x - rx), s * (y - ry), s * (x + rx), s * (y + ry)], fill=(*fill, 255))

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: RGB, radius: float = 0.02) -> None:
        s = self.size
        self.draw.rounded_rectangle([s * x0, s * y0, s * x1, s * y1], radius=s * radius, fill=(*fill, 255))

    def poly(self, *points: tuple[float, float], fill: RGB) -> None:
        self.draw.polygon([(self.size * x, self.size * y) for x, y in points], fill=(*fill, 255))

    def ring(self, x: float, y: float, r: float, width: float, fill: RGB) -> None:
        s = self.size
        box = [s * (x - r), s * (y - r), s * (x + r), s * (y + r)]
        self.draw.ellipse(box, outline=(*fill, 255), width=round(s * width))

    def shirt(self, fill: RGB, bands: tuple[tuple[float, float, RGB], ...] = ()) -> None:
        """Colour the body between the heights of the torso; bands are fractions of it."""
        top, bottom = self.at.torso
        for start, end, color in ((0.0, 1.0, fill), *bands):
            y0, y1 = (round(self.size * (top + (bottom - top) * share)) for share in (start, end))
            region = (0, y0, self.size, y1)
            self.image.paste((*color, 255), region, self.body.crop(region))


def red_hat(w: Wardrobe) -> None:
    x, y, r = w.at.hat
    w.box(x - 0.62 * r, y - 1.1 * r, x + 0.62 * r, y + 0.03, (222, 28, 34))
    w.box(x - 1.15 * r, y - 0.03, x + 1.15 * r, y + 0.045, (176, 16, 24))


def santa_hat(w: Wardrobe) -> None:
    x, y, r = w.at.hat
    w.poly((x - r, y + 0.02), (x + 1.15 * r, y - 1.0 * r), (x + r, y + 0.02), fill=(214, 30, 40))
    w.box(x - 1.1 * r, y - 0.03, x + 1.1 * r, y + 0.055, (252, 252, 252), 0.04)
    w.oval(x + 1.15 * r, y - 1.0 * r, 0.055, 0.055, (252, 252, 252))


def rainbow_scarf(w: Wardrobe) -> None:
    x, y, r = w.at.neck
    for number, name in enumerate(("red", "orange", "yellow", "green", "blue", "purple")):
        w.box(x - 1.15 * r, y + 0.028 * number, x + 1.15 * r, y + 0.028 * (number + 1), COLORS[name], 0.0)
        w.box(x + 0.4 * r, y + 0.14 + 0.028 * number, x + 0.95 * r, y + 0.14 + 0.028 * (number + 1), COLORS[name], 0.0)


def top_hat(w: Wardrobe) -> None:
    x, y, r = w.at.hat
    w.box(x - 0.66 * r, max(0.0, y - 1.35 * r), x + 0.66 * r, y, (26, 26, 30))
    w.box(x - 0.66 * r, y - 0.35 * r, x + 0.66 * r, y - 0.1 * r, (150, 30, 40), 0.0)
    w.box(x - 1.2 * r, y - 0.03, x + 1.2 * r, y + 0.035, (26, 26, 30))
    w.ring(w.at.eyes[1], w.at.eyes[2], w.at.eye * 1.55, 0.026, (236, 188, 52))


def chef(w: Wardrobe) -> None:
    x, y, r = w.at.hat
    w.shirt((248, 248, 246))
    for share in (0.3, 0.7):
        top, bottom = w.at.torso
        for side in (-0.05, 0.05):
            w.oval(w.at.neck[0] + side, top + share * (bottom - top), 0.024, 0.024, (60, 60, 66))
    for side in (-0.55, 0, 0.55):
        w.oval(x + side * r, y - 0.75 * r, 0.55 * r, 0.5 * r, (250, 250, 248))
    w.box(x - 0.75 * r, y - 0.6 * r, x + 0.75 * r, y + 0.04, (238, 238, 236))


def firefighter(w: Wardrobe) -> None:
    x, y, r = w.at.hat
    w.shirt((50, 48, 60), ((0.35, 0.55, (240, 220, 60)), (0.8, 0.95, (240, 220, 60))))
    w.oval(x, y - 0.2 * r, 0.85 * r, 0.8 * r, (206, 36, 30))
    w.box(x - 1.25 * r, y - 0.02, x + 1.25 * r, y + 0.05, (176, 24, 20))
    w.poly((x - 0.3 * r, y - 0.6 * r), (x + 0.3 * r, y - 0.6 * r), (x, y + 0.02), fill=(248, 208, 60))


def police(w: Wardrobe) -> None:
    x, y, r = w.at.hat
    w.shirt((30, 50, 120), ((0.85, 1.0, (20, 22, 40)),))
    w.oval(w.at.neck[0] + 0.08, w.at.torso[0] + 0.08, 0.035, 0.035, (244, 206, 70))
    w.oval(x, y - 0.45 * r, 1.15 * r, 0.5 * r, (30, 50, 120))
    w.box(x - 0.9 * r, y - 0.3 * r, x + 0.9 * r, y + 0.02, (20, 30, 80))
    w.box(x - 0.9 * r, y, x + 0.9 * r, y + 0.045, (16, 16, 20))
    w.oval(x, y - 0.35 * r, 0.04, 0.045, (244, 206, 70))


def pink_glasses(w: Wardrobe) -> None:
    left, right, y = w.at.eyes
    radius = min(w.at.eye * 1.7, (right - left) / 2 + 0.012)
    pink = (255, 64, 158)
    w.box(left, y - 0.014, right, y + 0.014, pink, 0.0)
    for x in (left, right):
        w.ring(x, y, radius, 0.032, pink)


def yellow_shirt(w: Wardrobe) -> None:
    w.shirt((250, 214, 40), ((0.0, 0.14, (226, 176, 20)),))


def wizard(w: Wardrobe) -> None:
    x, y, r = w.at.hat
    w.shirt((104, 44, 160), ((0.88, 1.0, (240, 204, 70)),))
    w.poly((x - 0.85 * r, y), (x + 0.05, max(0.0, y - 1.9 * r)), (x + 0.85 * r, y), fill=(112, 48, 170))
    w.box(x - 1.25 * r, y - 0.025, x + 1.25 * r, y + 0.045, (86, 34, 136))
    w.oval(x, y - 0.55 * r, 0.04, 0.04, (250, 220, 90))


_DRAWN: dict[str, Callable[[Wardrobe], None]] = {words: globals()[name] for name, words in _WORDS.items()}


def wear(accessory: str, image: Image.Image, body: Image.Image, at: Anchors) -> None:
    """Dress a subject, in place.

    Raises:
        ValueError: for an unknown accessory.
    """
    if accessory not in ACCESSORIES:
        raise ValueError(f"accessory must be one of {', '.join(ACCESSORIES)}, got {accessory!r}.")
    _DRAWN[accessory](Wardrobe(image, body, at))
