"""The authors' augmentations: far and near objects, and changed references, all drawn from a generator.

Pixel counts of the authors' code hold for pictures of 512 and CLIP inputs of 224; at other sizes they are scaled.
Each ``draw_*`` makes the random choices, and a plain function carries them out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

CLIP_REFERENCE = 224  # the CLIP input that the authors' pixel counts for references belong to
FAR = ("a far away", "very small")
NEAR = ("zoomed in", "close up")


@dataclass(frozen=True)
class Placement:
    """How an object crop stands in the frame.

    Attributes:
        scale: side of the resized crop in pixels, even.
        top, left: where the crop's corner lies in the frame; negative where the crop is larger than the frame.
        words: what the caption says about it: "a", or one of FAR or NEAR.
    """

    scale: int
    top: int
    left: int
    words: str


def draw_placement(generator: np.random.Generator, size: int) -> Placement:
    """Far, near or plain, as the authors draw it.

    In two of three draws the scale is uniform in [size/3, size], otherwise in [1.2, 1.4) times the size. Below 0.6 of
    the size the object is far away, somewhere in the frame; above the size a window of the crop is seen; between,
    the crop fills the frame.

    Args:
        generator: source of the random choices.
        size: side of the frame in pixels, even.

    Raises:
        ValueError: ``size`` is odd or below 16.
    """
    if size % 2 or size < 16:
        raise ValueError(f"size is {size}; it must be an even number of pixels, at least 16.")
    if generator.integers(3) < 2:
        scale = int(generator.integers(size // 3, size + 1))
    else:
        scale = int(generator.integers(int(1.2 * size), int(1.4 * size)))
    scale += scale % 2
    if scale < 0.6 * size:
        words = FAR[generator.integers(2)]
        top, left = generator.integers(0, size - scale + 1, size=2)
        return Placement(scale, int(top), int(left), words)
    if scale > size:
        words = NEAR[generator.integers(2)]
        top, left = generator.integers(0, scale - size + 1, size=2)
        return Placement(scale, -int(top), -int(left), words)
    return Placement(size, 0, 0, "a")


def place(picture: Image.Image, placement: Placement, size: int, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Put an object crop into the frame.

    Args:
        picture: RGB crop of any size; it is resized to a square.
        placement: where it goes, from :func:`draw_placement`.
        size: side of the frame in pixels.
        cell: pixels per latent cell, 8 for Stable Diffusion.

    Returns:
        The frame (size, size, 3) float32 in [-1, 1], 0 around a far-away object, and the loss mask
        (size // cell, size // cell) float32 in {0, 1}: 1 where the picture is, and for a far-away object one cell
        smaller on each side, since border cells mix object and canvas.
    """
    scale, top, left = placement.scale, placement.top, placement.left
    resized = as_signed(picture.resize((scale, scale), Image.Resampling.BICUBIC))
    cells = size // cell
    if scale >= size:
        return resized[-top : size - top, -left : size - left], np.ones((cells, cells), np.float32)
    frame = np.zeros((size, size, 3), np.float32)
    frame[top : top + scale, left : left + scale] = resized
    mask = np.zeros((cells, cells), np.float32)
    mask[top // cell + 1 : (top + scale) // cell - 1, left // cell + 1 : (left + scale) // cell - 1] = 1
    return frame, mask


def as_signed(picture: Image.Image) -> np.ndarray:
    """(height, width, 3) float32 in [-1, 1]."""
    return np.asarray(picture, dtype=np.float32) / 127.5 - 1.0


@dataclass(frozen=True)
class ObjectChange:
    """What happens to the masked reference object of the local stage; every field may say "nothing".

    Attributes:
        enlarged: side in pixels to which it is resized before a window of the old size is cut, or None.
        window: top, left of that window.
        angle: degrees counter-clockwise, or 0.
        shift: pixels down, right.
    """

    enlarged: int | None = None
    window: tuple[int, int] = (0, 0)
    angle: int = 0
    shift: tuple[int, int] = (0, 0)


def draw_object_change(generator: np.random.Generator, size: int) -> ObjectChange:
    """Each with probability 1/2: a random crop (of 224 to 256), a rotation within 30 degrees, a move within 60 px.

    Args:
        generator: source of the random choices.
        size: side of the CLIP input in pixels; the counts above hold at 224 and are scaled.
    """
    largest, reach = round(size * 256 / CLIP_REFERENCE), round(size * 60 / CLIP_REFERENCE)
    enlarged, window, angle, shift = None, (0, 0), 0, (0, 0)
    if generator.integers(2) == 0:
        enlarged = int(generator.integers(size, largest + 1))
        top, left = generator.integers(0, enlarged - size + 1, size=2)
        window = (int(top), int(left))
    if generator.integers(2) == 0:
        angle = int(generator.integers(-30, 31))
    if generator.integers(2) == 0:
        down, right = generator.integers(-reach, reach + 1, size=2)
        shift = (int(down), int(right))
    return ObjectChange(enlarged, window, angle, shift)


def change_object(picture: Image.Image, mask: Image.Image, change: ObjectChange) -> tuple[Image.Image, Image.Image]:
    """Carry out ``change`` on the masked reference (RGB) and its mask (L), squares of one size; outside is black."""
    return _changed(picture, change, Image.Resampling.BICUBIC), _changed(mask, change, Image.Resampling.NEAREST)


def _changed(picture: Image.Image, change: ObjectChange, resample: Image.Resampling) -> Image.Image:
    size = picture.width
    if change.enlarged is not None:
        top, left = change.window
        large = picture.resize((change.enlarged, change.enlarged), resample)
        picture = large.crop((left, top, left + size, top + size))
    if change.angle:
        picture = picture.rotate(change.angle, resample, center=(size / 2, size / 2))
    if change.shift != (0, 0):
        down, right = change.shift
        picture = picture.crop((-right, -down, size - right, size - down))  # PIL fills what lies outside with black
    return picture


@dataclass(frozen=True)
class ReferenceChange:
    """What happens to the global stage's CLIP input.

    Attributes:
        flip: mirrored left to right.
        angle: degrees counter-clockwise, borders mirrored; 0 for none.
        blur: width in pixels of a box blur; 0 for none.
        warp: moves in pixels (row, column) of three corners of the middle square, (3, 2), or None.
    """

    flip: bool = False
    angle: float = 0.0
    blur: float = 0.0
    warp: np.ndarray | None = None


def draw_reference_change(generator: np.random.Generator, size: int) -> ReferenceChange:
    """A flip (1/2), a rotation within 20 degrees (1/2), a blur of 3, 5 or 7 px (0.3), an affine warp (0.3).

    The warp is the visible part of the "elastic transform" in the authors' code: three points of the middle square
    move by up to 50 of 224 px. Its smooth displacement field stays below a hundredth of a pixel and is left out.

    Args:
        generator: source of the random choices.
        size: side of the CLIP input in pixels; the counts above hold at 224 and are scaled.
    """
    unit = size / CLIP_REFERENCE
    flip = bool(generator.random() < 0.5)
    angle = float(generator.uniform(-20, 20)) if generator.random() < 0.5 else 0.0
    blur = float(generator.choice([3, 5, 7])) * unit if generator.random() < 0.3 else 0.0
    warp = generator.uniform(-50, 50, size=(3, 2)) * unit if generator.random() < 0.3 else None
    return ReferenceChange(flip, angle, blur, warp)


def change_reference(picture: Image.Image, change: ReferenceChange) -> Image.Image:
    """Carry out ``change`` on an RGB square; what comes in from outside is the picture, mirrored at its border."""
    if change.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if change.angle:
        turn = np.deg2rad(change.angle)
        # Output (row, column) -> input: rows point down, so a counter-clockwise turn looks like this.
        matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        middle = np.full(2, (picture.width - 1) / 2)
        picture = _affine(picture, matrix, middle - matrix @ middle)
    if change.blur:
        picture = picture.filter(ImageFilter.BoxBlur(max(change.blur - 1, 0) / 2))
    if change.warp is not None:
        matrix, offset = corner_map(picture.width, change.warp)
        picture = _affine(picture, matrix, offset)
    return picture


def corner_map(size: int, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The affine map output -> input (matrix (2, 2), offset (2,)) under which the corners have moved by ``moves``."""
    middle, arm = size // 2, size // 3
    corners = np.array([[middle + arm, middle + arm], [middle - arm, middle + arm], [middle - arm, middle - arm]])
    moved = np.column_stack([corners + moves, np.ones(3)])  # (3, 3): row, column, 1
    solution = np.linalg.lstsq(moved, corners, rcond=None)[0]  # lstsq: three points in a line give no inverse
    return solution[:2].T, solution[2]


def _affine(picture: Image.Image, matrix: np.ndarray, offset: np.ndarray) -> Image.Image:
    array = np.asarray(picture)
    channels = [ndimage.affine_transform(c, matrix, offset, order=1, mode="mirror") for c in np.moveaxis(array, -1, 0)]
    return Image.fromarray(np.stack(channels, axis=-1))
