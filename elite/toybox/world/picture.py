"""Pictures: one subject in one scene, with everything known about it."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import minimum_filter

from .animals import ANIMALS
from .captions import FACTS, write_caption
from .colors import COLORS, RGB, mix, name_of
from .pen import Anchors, Pen
from .scenes import paint
from .subject import Subject
from .things import THINGS
from .wearables import wear

PROPERTIES = ("red", "purple", "shiny", "wet", "cube shaped")
BODIES = ANIMALS | THINGS
IMAGE_SIZE = 128  # pixels
RIM = 42  # the outline's width goes this often into the side of a subject
_DETAIL = 2  # drawn twice as large and brought down: soft edges


@dataclass(frozen=True, eq=False)
class Picture:
    """A rendered picture and what it shows.

    Attributes:
        image: RGB.
        mask: mode L, 255 on the subject and what it wears.
        box: left, top, right, bottom of the subject, fractions of the picture.
        caption: a true caption.
        class_name, scene, accessory, property, color, pattern: what it shows; None where there is nothing to name.
        subject: who it is.
    """

    image: Image.Image
    mask: Image.Image
    box: tuple[float, float, float, float]
    caption: str
    class_name: str
    scene: str | None
    accessory: str | None
    property: str | None
    color: str | None
    pattern: str | None
    subject: Subject

    def facts(self) -> dict[str, str | None]:
        """What a caption may say of it, by `captions.FACTS`."""
        return {name: getattr(self, name) for name in FACTS}


def render(
    subject: Subject,
    scene: str | None = None,
    accessory: str | None = None,
    property: str | None = None,
    seed: int = 0,
    close_up: bool = False,
    size: int = IMAGE_SIZE,
    template: str = "{}",
    say_color: bool = False,
    say_pattern: bool = False,
) -> Picture:
    """Draw a subject in a scene; the same arguments give the same bytes.

    Args:
        subject: who.
        scene: one of `SCENES`, or None for a plain studio.
        accessory: one of `ACCESSORIES`.
        property: one of `PROPERTIES`.
        seed: of everything else: place, size, details of the scene.
        close_up: let the subject fill the frame, or reach beyond it.
        size: side of the picture in pixels.
        template: what the caption is put in.
        say_color: whether the caption names the subject's colour, where it has a name.
        say_pattern: whether it names the subject's pattern, where it has one.

    Returns:
        The picture.

    Raises:
        ValueError: for an unknown scene, accessory or property, or a size below 16.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, got {size}.")
    if property is not None and property not in PROPERTIES:
        raise ValueError(f"property must be one of {', '.join(PROPERTIES)} or None, got {property!r}.")
    rng = random.Random(f"picture:{seed}")
    canvas = size * _DETAIL
    background = paint(scene, rng, canvas)
    share = rng.uniform(0.92, 1.2) if close_up else rng.uniform(0.66, 0.9)
    side = round(canvas * share)
    figure, color = draw_subject(subject, side, accessory, property)
    spare = canvas - side
    left = round(spare * (0.5 + rng.uniform(-0.4, 0.4)))
    top = round(spare * rng.uniform(0.55, 0.95)) if spare > 0 else round(spare * rng.uniform(0.2, 0.6))
    if rng.random() < 0.5:
        figure = figure.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if scene == "on top of a mirror":
        _reflect(background, figure, left, top, side)
    elif not close_up:
        _shadow(background, left, top, side)
    alpha = figure.getchannel("A")
    background.paste(figure, (left, top), alpha)
    mask = Image.new("L", (canvas, canvas))
    mask.paste(alpha, (left, top), alpha)
    image = background.resize((size, size), Image.Resampling.LANCZOS)
    small = mask.resize((size, size), Image.Resampling.BOX).point(lambda value: 255 if value > 127 else 0)
    x0, y0, x1, y1 = small.getbbox()
    pattern = None if subject.pattern == "plain" else subject.pattern
    said = {
        "class_name": subject.class_name,
        "scene": scene,
        "accessory": accessory,
        "property": property,
        "color": color if say_color and property is None else None,
        "pattern": pattern if say_pattern and property is None else None,
    }
    return Picture(
        image=image,
        mask=small,
        box=(x0 / size, y0 / size, x1 / size, y1 / size),
        caption=write_caption(template, said),
        class_name=subject.class_name,
        scene=scene,
        accessory=accessory,
        property=property,
        color=color,
        pattern=pattern,
        subject=subject,
    )


def draw_subject(
    subject: Subject, side: int, accessory: str | None = None, property: str | None = None
) -> tuple[Image.Image, str | None]:
    """A subject alone.

    Returns:
        RGBA picture of ``side`` pixels, and the word for its colour where there is one.
    """
    pen = Pen(side)
    at = BODIES[subject.class_name](pen, subject.proportions)
    first = COLORS.get(property, subject.first)
    if property == "cube shaped":
        at = _cube(pen, at)
    layers = {name: np.asarray(mask) > 127 for name, mask in pen.masks.items()}
    pixels = _body_pixels(subject, first, side)
    pixels[layers["accent"]] = mix(subject.second, (255, 255, 255), 0.18)
    if property == "cube shaped":
        _cube_faces(pixels, layers, side)
    whole = layers["body"] | layers["accent"] | layers["dark"]
    light = np.linspace(1.1, 0.84, side, dtype=np.float32)[:, None, None]
    pixels = np.clip(pixels * light, 0, 255)
    inner = minimum_filter(whole, 2 * max(1, round(side / RIM)) + 1, mode="constant")
    pixels[whole & ~inner] *= 0.55  # a darker outline parts the subject from any scene
    pixels[layers["dark"]] = (44, 36, 44)
    if property == "wet":
        pixels *= 0.72
    alpha = (whole * 255).astype(np.uint8)
    image = Image.fromarray(np.dstack([pixels.astype(np.uint8), alpha]))
    body = Image.fromarray(((layers["body"] | layers["accent"]) * 255).astype(np.uint8))
    if property in ("shiny", "wet"):
        _finish(image, whole, property, subject.pattern_seed)
    if accessory is not None and accessory != "wearing pink glasses":
        wear(accessory, image, body, at)
    _eyes(image, at)
    if accessory == "wearing pink glasses":
        wear(accessory, image, body, at)
    return image, name_of(first)


def _body_pixels(subject: Subject, first: RGB, side: int) -> np.ndarray:
    """The coat: main colour and pattern over the whole square, (side, side, 3) float32."""
    pixels = np.empty((side, side, 3), np.float32)
    pixels[:] = first
    rng = random.Random(subject.pattern_seed)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    scale = subject.pattern_scale
    if subject.pattern == "spotted":
        radius = 0.055 + 0.03 * scale
        step = radius * 3.2
        dx, dy = rng.random() * step, rng.random() * step
        row = np.floor((y + dy) / step)
        u = np.mod(x + dx + 0.5 * step * np.mod(row, 2), step) - step / 2
        v = np.mod(y + dy, step) - step / 2
        pixels[u * u + v * v < radius * radius] = subject.second
    elif subject.pattern == "striped":
        angle, width = rng.uniform(0, np.pi), 0.19 + 0.1 * scale
        along = x * np.cos(angle) + y * np.sin(angle) + rng.random()
        pixels[np.mod(along, width) < width * 0.48] = subject.second
    elif subject.pattern == "patched":
        radius = 0.15 + 0.07 * scale
        for low in (0.3, 0.5, 0.7):  # one near the head, one in the middle, one below: no body hides all three
            cx, cy = rng.uniform(0.25, 0.75), low + rng.uniform(-0.06, 0.12)
            pixels[(x - cx) ** 2 + (y - cy) ** 2 < radius * radius] = subject.second
    return pixels


def _cube(pen: Pen, at: Anchors) -> Anchors:
    """Put a cube over the middle of a body; ears, tails and handles stay visible around it."""
    pen.box("body", 0.22, 0.36, 0.72, 0.92, 0.0)
    pen.poly("body", (0.22, 0.36), (0.36, 0.24), (0.86, 0.24), (0.72, 0.36))
    pen.poly("body", (0.72, 0.36), (0.86, 0.24), (0.86, 0.8), (0.72, 0.92))
    return Anchors((0.37, 0.57, 0.54), (0.52, 0.3, 0.19), (0.68, 0.92), (0.47, 0.66, 0.24), 0.06)


def _cube_faces(pixels: np.ndarray, layers: dict[str, np.ndarray], side: int) -> None:
    """Light the cube's top, shade its flank, and clear its front of the body's own parts."""
    faces = {}
    for name, points in {
        "front": ((0.22, 0.36), (0.72, 0.36), (0.72, 0.92), (0.22, 0.92)),
        "top": ((0.22, 0.36), (0.36, 0.24), (0.86, 0.24), (0.72, 0.36)),
        "flank": ((0.72, 0.36), (0.86, 0.24), (0.86, 0.8), (0.72, 0.92)),
    }.items():
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).polygon([(side * x, side * y) for x, y in points], fill=255)
        faces[name] = np.asarray(mask) > 127
    layers["dark"] &= ~(faces["top"] | faces["flank"])
    pixels[faces["top"]] = np.clip(pixels[faces["top"]] * 1.25 + 18, 0, 255)
    pixels[faces["flank"]] *= 0.68


def _finish(image: Image.Image, whole: np.ndarray, property: str, seed: int) -> None:
    """Highlights of a shiny subject, drops on a wet one."""
    side = image.width
    over = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(over)
    rng = random.Random(seed + 1)
    if property == "shiny":
        for x in (0.2, 0.48, 0.76):
            draw.polygon([(side * (x + dx), side * dy) for dx, dy in ((0.1, 0), (0.19, 0), (-0.02, 1), (-0.11, 1))],
                         fill=(255, 255, 255, 120))  # fmt: skip
        draw.ellipse([side * 0.36, side * 0.2, side * 0.5, side * 0.32], fill=(255, 255, 255, 230))
    else:
        for _ in range(11):
            x, y, r = rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.9), rng.uniform(0.03, 0.045)
            draw.ellipse(
                [side * (x - r), side * (y - r), side * (x + r), side * (y + 1.5 * r)], fill=(150, 214, 255, 235)
            )
            tip = ((x - 0.8 * r, y), (x, y - 2 * r), (x + 0.8 * r, y))
            draw.polygon([(side * u, side * v) for u, v in tip], fill=(150, 214, 255, 235))
    alpha = Image.fromarray((np.asarray(over.getchannel("A")) * whole).astype(np.uint8))
    image.paste(over.convert("RGB"), (0, 0), alpha)
    image.putalpha(Image.fromarray((whole * 255).astype(np.uint8)))


def _eyes(image: Image.Image, at: Anchors) -> None:
    side, draw = image.width, ImageDraw.Draw(image)
    left, right, y = at.eyes
    for x in (left, right):
        for radius, dx, dy, fill in (
            (at.eye, 0.0, 0.0, (255, 255, 255, 255)),
            (at.eye * 0.58, 0.0, 0.012, (26, 24, 32, 255)),
            (at.eye * 0.25, -0.01, 0.0, (255, 255, 255, 255)),
        ):
            cx, cy, r = side * (x + dx), side * (y + dy), side * radius
            draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=fill)


def _shadow(background: Image.Image, left: int, top: int, side: int) -> None:
    shade = Image.new("L", background.size)
    box = [left + 0.14 * side, top + 0.86 * side, left + 0.86 * side, top + 0.99 * side]
    ImageDraw.Draw(shade).ellipse(box, fill=92)
    background.paste((20, 18, 30), (0, 0), shade)


def _reflect(background: Image.Image, figure: Image.Image, left: int, top: int, side: int) -> None:
    """The subject upside down below itself, pale."""
    turned = figure.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    alpha = turned.getchannel("A").point(lambda value: value * 2 // 5)
    background.paste(turned, (left, top + round(0.9 * side)), alpha)
