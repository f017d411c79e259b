"""The scenes of DreamBench's prompts: few large shapes each, and colours that no two scenes share."""

from __future__ import annotations

import random
from collections.abc import Callable

from PIL import Image, ImageDraw

from .colors import RGB, jitter, vivid

_WORDS: dict[str, str] = {
    "jungle": "in the jungle",
    "snow": "in the snow",
    "beach": "on the beach",
    "cobblestone": "on a cobblestone street",
    "pink_fabric": "on top of pink fabric",
    "wooden_floor": "on top of a wooden floor",
    "city": "with a city in the background",
    "mountain": "with a mountain in the background",
    "blue_house": "with a blue house in the background",
    "purple_rug": "on top of a purple rug in a forest",
    "wheat": "with a wheat field in the background",
    "autumn": "with a tree and autumn leaves in the background",
    "eiffel": "with the Eiffel Tower in the background",
    "water": "floating on top of water",
    "milk": "floating in an ocean of milk",
    "sunflowers": "on top of green grass with sunflowers around it",
    "mirror": "on top of a mirror",
    "sidewalk": "on top of the sidewalk in a crowded street",
    "dirt_road": "on top of a dirt road",
    "white_rug": "on top of a white rug",
}

SCENES: tuple[str, ...] = tuple(_WORDS.values())  # a scene is named by the words of the prompts


class Stage:
    """A canvas in unit coordinates with a horizon."""

    def __init__(self, size: int, rng: random.Random) -> None:
        self.size, self.rng = size, rng
        self.image = Image.new("RGB", (size, size))
        self.draw = ImageDraw.Draw(self.image)
        self.horizon = rng.uniform(0.5, 0.62)

    def _scaled(self, values: tuple[float, ...]) -> list[float]:
        return [value * self.size for value in values]

    def color(self, color: RGB, amount: int = 8) -> RGB:
        """A colour that varies a little from picture to picture."""
        return jitter(color, self.rng, amount)

    def fade(self, top: RGB, bottom: RGB, y0: float = 0.0, y1: float = 1.0) -> None:
        """A vertical gradient between two heights."""
        first, last = round(y0 * self.size), round(y1 * self.size)
        for y in range(first, last):
            share = (y - first) / max(1, last - first)
            shade = tuple(round(a * (1 - share) + b * share) for a, b in zip(top, bottom, strict=True))
            self.draw.line([(0, y), (self.size, y)], fill=shade)

    def ground(self, sky: tuple[RGB, RGB], soil: tuple[RGB, RGB]) -> None:
        """Sky above the horizon, soil below."""
        self.fade(self.color(sky[0]), self.color(sky[1]), 0, self.horizon)
        self.fade(self.color(soil[0]), self.color(soil[1]), self.horizon, 1)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: RGB) -> None:
        self.draw.ellipse(self._scaled((x - rx, y - ry, x + rx, y + ry)), fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: RGB) -> None:
        self.draw.rectangle(self._scaled((x0, y0, x1, y1)), fill=fill)

    def poly(self, *points: tuple[float, float], fill: RGB) -> None:
        self.draw.polygon([(x * self.size, y * self.size) for x, y in points], fill=fill)

    def line(self, *points: tuple[float, float], width: float, fill: RGB) -> None:
        scaled = [(x * self.size, y * self.size) for x, y in points]
        self.draw.line(scaled, width=round(width * self.size), fill=fill, joint="curve")


def plain(s: Stage) -> None:
    """A studio: one soft colour, for captions that name no scene."""
    tone = vivid(s.rng)
    red, green, blue = (round(c * 0.25 + 255 * 0.62) for c in tone)
    s.fade((red, green, blue), (round(red * 0.84), round(green * 0.84), round(blue * 0.84)))


def jungle(s: Stage) -> None:
    s.fade(s.color((34, 104, 52)), s.color((18, 62, 32)))
    for _ in range(9):
        x, y, r = s.rng.uniform(0, 1), s.rng.uniform(0, 1), s.rng.uniform(0.12, 0.22)
        s.oval(x, y, r, r * 0.6, s.color((54, s.rng.randint(120, 160), 58)))


def snow(s: Stage) -> None:
    s.ground(((150, 178, 214), (196, 214, 234)), ((246, 249, 252), (228, 236, 246)))
    for _ in range(9):
        s.oval(s.rng.random(), s.rng.uniform(0, s.horizon), 0.024, 0.024, (255, 255, 255))


def beach(s: Stage) -> None:
    s.ground(((112, 196, 240), (166, 222, 246)), ((244, 220, 158), (232, 198, 128)))
    s.box(0, s.horizon - 0.13, 1, s.horizon, s.color((24, 118, 190)))


def cobblestone(s: Stage) -> None:
    s.fade(s.color((122, 116, 116)), s.color((96, 92, 92)))
    for row in range(6):
        for column in range(-1, 6):
            x, y = 0.2 * column + 0.1 * (row % 2) + 0.05, 0.1 + 0.17 * row
            s.oval(x, y, 0.088, 0.07, s.color((168, 160, 154), 12))


def pink_fabric(s: Stage) -> None:
    s.fade(s.color((250, 168, 200)), s.color((236, 130, 172)))
    for _ in range(4):
        x, bend = s.rng.uniform(-0.2, 1.2), s.rng.uniform(-0.3, 0.3)
        s.line((x, -0.1), (x + bend, 1.1), width=0.07, fill=s.color((226, 112, 158)))


def wooden_floor(s: Stage) -> None:
    s.ground(((234, 222, 202), (222, 206, 184)), ((178, 116, 62), (150, 92, 46)))
    for y in (0.2, 0.5, 0.8):
        depth = s.horizon + y * (1 - s.horizon)
        s.line((0, depth), (1, depth), width=0.025, fill=s.color((118, 70, 34)))


def city(s: Stage) -> None:
    s.ground(((186, 202, 222), (212, 218, 226)), ((116, 116, 124), (94, 94, 102)))
    x = s.rng.uniform(-0.1, 0)
    while x < 1:
        width, top = s.rng.uniform(0.16, 0.24), s.rng.uniform(0.06, s.horizon - 0.18)
        s.box(x, top, x + width, s.horizon, s.color((88, 96, 128), 14))
        for row in range(int((s.horizon - top) / 0.13)):
            for column in (0.28, 0.68):
                left, high = x + width * column - 0.022, top + 0.05 + 0.13 * row
                s.box(left, high, left + 0.05, high + 0.06, (246, 224, 130))
        x += width + 0.02


def mountain(s: Stage) -> None:
    s.ground(((128, 186, 240), (190, 220, 246)), ((100, 164, 84), (76, 138, 66)))
    for x in (s.rng.uniform(0.1, 0.3), s.rng.uniform(0.65, 0.9)):
        top, half = s.rng.uniform(0.06, 0.16), s.rng.uniform(0.3, 0.42)
        rise = (s.horizon - top) * 0.34
        s.poly((x - half, s.horizon), (x, top), (x + half, s.horizon), fill=s.color((116, 110, 124)))
        s.poly((x - half * 0.34, top + rise), (x, top), (x + half * 0.34, top + rise), fill=(248, 250, 252))


def blue_house(s: Stage) -> None:
    s.ground(((172, 218, 246), (206, 232, 248)), ((104, 176, 84), (80, 148, 66)))
    x, base = s.rng.uniform(0.04, 0.5), s.horizon + 0.04
    s.box(x, base - 0.32, x + 0.46, base, s.color((50, 104, 210)))
    s.poly((x - 0.05, base - 0.32), (x + 0.23, base - 0.54), (x + 0.51, base - 0.32), fill=s.color((156, 54, 46)))
    s.box(x + 0.06, base - 0.25, x + 0.17, base - 0.12, (250, 240, 180))
    s.box(x + 0.29, base - 0.25, x + 0.4, base - 0.12, (250, 240, 180))


def purple_rug(s: Stage) -> None:
    s.ground(((46, 96, 58), (58, 110, 66)), ((84, 72, 48), (70, 60, 40)))
    for x in (0.08, 0.36, 0.68, 0.94):
        s.box(x - 0.04, 0, x + 0.04, s.horizon, s.color((84, 60, 42)))
    s.oval(0.5, 0.8, 0.5, 0.23, s.color((122, 50, 164)))
    s.oval(0.5, 0.8, 0.39, 0.165, s.color((164, 96, 200)))
    s.oval(0.5, 0.8, 0.34, 0.135, s.color((122, 50, 164)))


def wheat(s: Stage) -> None:
    s.ground(((130, 194, 240), (190, 222, 244)), ((232, 190, 78), (206, 158, 52)))
    for number in range(9):
        x = (number + s.rng.uniform(0.2, 0.8)) / 9
        y = s.horizon + s.rng.uniform(0.0, 0.1)
        s.line((x, y + 0.16), (x + s.rng.uniform(-0.03, 0.03), y - 0.06), width=0.022, fill=s.color((188, 138, 36)))
        s.oval(x, y - 0.07, 0.024, 0.055, s.color((244, 206, 96)))


def autumn(s: Stage) -> None:
    s.ground(((214, 226, 232), (236, 232, 216)), ((206, 128, 52), (176, 98, 40)))
    x = s.rng.choice((0.2, 0.8)) + s.rng.uniform(-0.05, 0.05)
    s.box(x - 0.06, 0.2, x + 0.06, s.horizon + 0.08, s.color((98, 66, 44)))
    for _ in range(7):
        tone = s.rng.choice(((222, 92, 34), (236, 150, 40), (196, 60, 34)))
        s.oval(x + s.rng.uniform(-0.2, 0.2), s.rng.uniform(0.04, 0.3), 0.13, 0.1, s.color(tone))


def eiffel(s: Stage) -> None:
    s.ground(((244, 196, 170), (250, 226, 196)), ((126, 176, 104), (104, 152, 84)))
    x, base = s.rng.choice((0.22, 0.78)) + s.rng.uniform(-0.06, 0.06), s.horizon + 0.02
    iron = s.color((106, 82, 74))
    s.poly((x - 0.025, 0.04), (x + 0.025, 0.04), (x + 0.055, 0.26), (x + 0.2, base), (x + 0.11, base), (x, 0.36),
           (x - 0.11, base), (x - 0.2, base), (x - 0.055, 0.26), fill=iron)  # fmt: skip
    s.box(x - 0.1, 0.26, x + 0.1, 0.3, iron)
    s.box(x - 0.14, 0.4, x + 0.14, 0.445, iron)


def water(s: Stage) -> None:
    s.ground(((178, 226, 250), (210, 238, 250)), ((36, 126, 206), (20, 84, 160)))
    for row in range(4):
        y, shift = s.horizon + 0.07 + 0.1 * row, 0.12 * (row % 2)
        for column in range(-1, 5):
            x = 0.25 * column + shift
            box = [x * s.size, y * s.size, (x + 0.18) * s.size, (y + 0.08) * s.size]
            s.draw.arc(box, 190, 350, fill=(142, 204, 242), width=round(0.025 * s.size))


def milk(s: Stage) -> None:
    s.ground(((120, 134, 196), (164, 172, 216)), ((250, 246, 236), (240, 232, 216)))
    for x, y in ((0.15, 0.72), (0.75, 0.68), (0.45, 0.9), (0.95, 0.9)):
        s.oval(x, y, 0.2, 0.035, s.color((226, 216, 198), 4))


def sunflowers(s: Stage) -> None:
    s.fade(s.color((108, 190, 84)), s.color((70, 150, 58)))
    for x, y in ((0.1, 0.16), (0.42, 0.08), (0.88, 0.14), (0.07, 0.62), (0.93, 0.56), (0.12, 0.93), (0.88, 0.93)):
        x, y = x + s.rng.uniform(-0.03, 0.03), y + s.rng.uniform(-0.03, 0.03)
        s.oval(x, y, 0.1, 0.1, s.color((250, 204, 42)))
        s.oval(x, y, 0.045, 0.045, s.color((112, 70, 32)))


def mirror(s: Stage) -> None:
    s.ground(((206, 196, 188), (190, 180, 174)), ((150, 190, 206), (190, 220, 230)))
    s.line((0, s.horizon), (1, s.horizon), width=0.035, fill=s.color((190, 150, 70)))
    s.poly((0.02, 1), (0.3, s.horizon + 0.02), (0.4, s.horizon + 0.02), (0.16, 1), fill=(222, 240, 246))
    s.poly((0.66, 1), (0.84, s.horizon + 0.02), (0.88, s.horizon + 0.02), (0.74, 1), fill=(222, 240, 246))


def sidewalk(s: Stage) -> None:
    s.ground(((214, 170, 140), (196, 148, 120)), ((184, 184, 184), (158, 158, 160)))
    for number in range(6):
        x = (number + s.rng.uniform(0.3, 0.7)) / 6
        coat = s.color(s.rng.choice(((70, 76, 110), (128, 52, 60), (58, 104, 88), (150, 120, 60))))
        s.oval(x, s.horizon - 0.3, 0.045, 0.055, s.color((226, 180, 148)))
        s.box(x - 0.07, s.horizon - 0.25, x + 0.07, s.horizon, coat)
    for x in (0.08, 0.5, 0.92):
        s.line((x, 1), (0.5 + (x - 0.5) * 0.5, s.horizon), width=0.022, fill=(132, 132, 136))


def dirt_road(s: Stage) -> None:
    s.ground(((164, 206, 236), (206, 226, 236)), ((122, 150, 68), (98, 126, 54)))
    s.poly((0.4, s.horizon), (0.6, s.horizon), (1.05, 1), (-0.05, 1), fill=s.color((154, 108, 66)))
    s.poly((0.48, s.horizon), (0.52, s.horizon), (0.6, 1), (0.4, 1), fill=s.color((130, 88, 52)))


def white_rug(s: Stage) -> None:
    s.ground(((128, 152, 150), (146, 168, 164)), ((120, 78, 54), (98, 62, 42)))
    s.oval(0.5, 0.82, 0.52, 0.2, s.color((246, 244, 240), 4))
    s.oval(0.5, 0.82, 0.42, 0.14, s.color((226, 222, 214), 4))


PAINTERS: dict[str, Callable[[Stage], None]] = {words: globals()[name] for name, words in _WORDS.items()}


def paint(scene: str | None, rng: random.Random, size: int) -> Image.Image:
    """A scene without its subject.

    Args:
        scene: a name of `SCENES`, or None for a plain studio.
        rng: what varies.
        size: side in pixels.

    Returns:
        RGB picture.

    Raises:
        ValueError: for an unknown scene.
    """
    if scene is not None and scene not in SCENES:
        raise ValueError(f"scene must be one of {', '.join(SCENES)} or None, got {scene!r}.")
    stage = Stage(size, rng)
    (plain if scene is None else PAINTERS[scene])(stage)
    return stage.image
