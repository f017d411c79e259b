"""Pictures and masks of every kind are read right or refused with one clear sentence."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from elite.io.images import apply_mask, read_image, read_mask
from tests.helpers import half_mask, picture


def test_modes_become_the_same_rgb(tmp_path):
    grey = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
    rgb = Image.fromarray(np.stack([grey] * 3, axis=-1))
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    opaque = rgb.copy()
    opaque.putalpha(255)
    for name, image in (("grey", Image.fromarray(grey)), ("sixteen", sixteen), ("rgba", opaque), ("rgb", rgb)):
        path = tmp_path / f"{name}.png"
        image.save(path)
        read = read_image(path)
        assert read.mode == "RGB"
        assert np.array_equal(np.asarray(read), np.asarray(rgb)), name
    assert np.array_equal(np.asarray(read_image(Image.fromarray(grey.astype(np.int32)))), np.asarray(rgb))
    assert np.array_equal(np.asarray(read_image(Image.fromarray(grey / np.float32(255)))), np.asarray(rgb))


def test_cmyk_and_palette_pictures_are_read(tmp_path):
    flat = Image.new("RGB", (8, 8), (200, 30, 60))
    flat.convert("CMYK").save(tmp_path / "a.tiff")
    flat.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    for name in ("a.tiff", "a.png"):
        difference = np.asarray(read_image(tmp_path / name)).astype(int) - np.asarray(flat)
        assert np.abs(difference).max() <= 3


def test_transparent_parts_become_white():
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    read = np.asarray(read_image(image))
    assert read[0, 0].tolist() == [10, 20, 30] and (read[1:] == 255).all()


def test_one_transparent_colour_becomes_white_too(tmp_path):
    for mode, colour, clear in (("RGB", (10, 20, 30), (200, 0, 0)), ("L", 50, 90)):
        image = Image.new(mode, (4, 4), clear)
        image.putpixel((0, 0), colour)
        image.save(tmp_path / "a.png", transparency=clear)
        read = np.asarray(read_image(tmp_path / "a.png"))
        assert read[0, 0].tolist() == ([10, 20, 30] if mode == "RGB" else [50] * 3)
        assert (read[1:] == 255).all()


def test_exif_rotation_is_applied(tmp_path):
    image = picture(size=(12, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    read = read_image(tmp_path / "turned.png")
    assert read.size == (8, 12)
    assert np.array_equal(np.asarray(read), np.rot90(np.asarray(image), -1))
    assert read_mask(half_mask((8, 12)), read.size).size == (8, 12)


def test_pictures_that_cannot_be_read_are_refused(tmp_path):
    picture(size=(64, 64)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "truncated.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    picture(size=(64, 64)).save(tmp_path / "whole.jpg")
    (tmp_path / "truncated.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    picture(size=(8, 8)).save(tmp_path / "exif.png", exif=b"Exif\0\0not a TIFF header")
    picture(size=(8, 8)).save(tmp_path / "short exif.png", exif=b"Exif\0\0II*\0")
    for name, width, height in (("none wide", 0, 5), ("bomb", 30000, 30000)):
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        (tmp_path / f"{name}.png").write_bytes(data[:8] + chunk + data[33:])
    for name, sentence in (
        ("truncated.png", "truncated or damaged"),
        ("truncated.jpg", "truncated or damaged"),
        ("exif.png", "truncated or damaged"),
        ("short exif.png", "truncated or damaged"),
        ("empty.png", "no pixels"),
        ("text.png", "not a picture that can be read: it is of another kind, damaged or without pixels"),
        ("none wide.png", "without pixels"),
        ("bomb.png", "too large"),
    ):
        with pytest.raises(ValueError, match=sentence):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match="no pixels: it is 0 × 5"):
        read_image(Image.new("RGB", (0, 5)))
    with pytest.raises(TypeError, match="must be a path or a PIL image, got ndarray"):
        read_image(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(FileNotFoundError, match=r"^image .*none\.png does not exist"):
        read_image(tmp_path / "none.png")


def test_masks_in_every_common_form_mean_the_same(tmp_path):
    expected = np.asarray(half_mask()) > 0
    binary = half_mask()
    alpha = picture().convert("RGBA")
    alpha.putalpha(binary)
    forms = {
        "L": binary,
        "1": binary.convert("1"),
        "RGB": binary.convert("RGB"),
        "0 and 1": Image.fromarray(expected.astype(np.uint8)),
        "16 bit": Image.fromarray(expected.astype(np.uint16) * 65535),
        "alpha": alpha,
    }
    for name, mask in forms.items():
        path = tmp_path / "mask.png"
        mask.save(path)
        read = read_mask(path, (20, 16))
        assert read.mode == "L" and set(np.unique(read)) == {0, 255}
        assert np.array_equal(np.asarray(read) > 0, expected), name


def test_masks_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match="20 × 16 pixels, but its picture is 16 × 20"):
        read_mask(half_mask(), (16, 20))
    with pytest.raises(ValueError, match="empty"):
        read_mask(Image.new("L", (20, 16)), (20, 16))


def test_outside_the_mask_the_picture_is_black():
    masked = np.asarray(apply_mask(picture(), half_mask()))
    assert (masked[:, 10:] == 0).all() and np.array_equal(masked[:, :10], np.asarray(picture())[:, :10])
