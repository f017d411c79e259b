"""Pictures and masks from files, in any mode that cameras and editors write."""

from __future__ import annotations

import struct
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


def read_image(source: str | Path | Image.Image) -> Image.Image:
    """A picture as upright RGB.

    The EXIF rotation is applied; transparent parts are put on white; 16-bit greyscale is scaled to 8 bits.

    Args:
        source: a path, or a picture.

    Returns:
        The picture, mode RGB.

    Raises:
        FileNotFoundError: when there is no such file.
        TypeError: when it is neither a path nor a picture.
        ValueError: when the file is not a picture, is truncated, or has no pixels.
    """
    image, name = _open(source, "image")
    if image.mode in ("1", "L", "RGB", "P") and "transparency" in image.info:  # one colour, or several, are transparent
        image = image.convert("RGBA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    elif image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image, name)
    return image.convert("RGB")


def read_mask(source: str | Path | Image.Image, size: tuple[int, int]) -> Image.Image:
    """The mask of a picture's object.

    Args:
        source: a path, or a picture; white is the object. Colours are read as brightness; of a picture with
            transparency that varies, the opaque part is the object.
        size: (width, height) of the picture it belongs to.

    Returns:
        The mask, mode L, 0 or 255.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it cannot be read, has another size than the picture, or marks nothing.
    """
    image, name = _open(source, "mask")
    if image.size != tuple(size):
        raise ValueError(
            f"mask {name} is {image.width} × {image.height} pixels, but its picture is {size[0]} × {size[1]}: "
            "they must be equal."
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("LA", "RGBA") and np.asarray(image.getchannel("A")).min() < 255:
        image = image.getchannel("A")
    elif image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image, name)
    elif image.mode == "1":
        image = image.convert("L")
    levels = np.asarray(image.convert("L"))
    # Some tools write masks as 0 and 1: then 1 is the object, not near-black.
    threshold = 0 if levels.max() <= 1 else 127
    binary = levels > threshold
    if not binary.any():
        raise ValueError(f"mask {name} is empty: it marks no pixel of the object; white must be the object.")
    return Image.fromarray(np.where(binary, 255, 0).astype(np.uint8))


def apply_mask(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with everything outside the mask black (x · m of Eq. 5)."""
    return Image.composite(image, Image.new("RGB", image.size), mask)


def _open(source: str | Path | Image.Image, argument: str) -> tuple[Image.Image, str]:
    """The loaded picture of an argument, upright, and its name for messages."""
    if isinstance(source, Image.Image):
        image, name = source, "picture"
        if 0 in image.size:
            raise ValueError(f"{name} has no pixels: it is {image.width} × {image.height}.")
    else:
        if not isinstance(source, str | PathLike):
            raise TypeError(f"{argument} must be a path or a PIL image, got {type(source).__name__}.")
        path = Path(source)
        name = str(path)
        if not path.is_file():
            raise FileNotFoundError(f"{argument} {name} does not exist; give the path of a PNG or JPEG file.")
        if path.stat().st_size == 0:
            raise ValueError(f"{name} has no pixels: the file is empty.")
        try:
            image = Image.open(path)
        except UnidentifiedImageError as error:
            raise ValueError(
                f"{name} is not a picture that can be read: it is of another kind, damaged or without pixels; "
                "give a PNG or JPEG file."
            ) from error
        except Image.DecompressionBombError as error:
            raise ValueError(f"{name} is too large: {error}") from error
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"{name} is not a picture that can be read: {error}") from error
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise ValueError(f"{name} is truncated or damaged: {error}") from error
    if 0 in image.size:
        raise ValueError(f"{name} has no pixels: it is {image.width} × {image.height}.")
    return image, name


def _to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Integer or float greyscale to L: 16-bit values are divided by 257, values that fit 8 bits stay."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite.")
    if image.mode == "F" and values.max() <= 1.0:
        values = values * 255.0
    elif values.max() > 255 or image.mode.startswith("I;16"):
        values = values / 257.0
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
