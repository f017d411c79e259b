"""Figures: every picture has an alt text, the same pixels give the same bytes, wrong input is named."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as Drawing
from PIL import Image

from elite.teaching import figures


def stored_pictures(html: str) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"data:image/\w+;base64,([\w+/=]+)", html)
    ]


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((64, 64, 3))


@pytest.mark.parametrize("shape", ["hwc", "chw", "hw", "uint8", "tensor", "half", "pil"])
def test_pictures_of_every_kind_show_the_same_pixels(shape):
    grey = np.linspace(0, 1, 256).reshape(16, 16).astype(np.float32)
    kinds = {
        "hwc": np.stack([grey] * 3, -1),
        "chw": np.stack([grey] * 3),
        "hw": grey,
        "uint8": (grey * 255 + 0.5).astype(np.uint8),
        "tensor": torch.tensor(grey)[None].requires_grad_(),
        "half": torch.tensor(grey)[None],
        "pil": Image.fromarray((grey * 255 + 0.5).astype(np.uint8)),
    }
    expected = (grey * 255 + 0.5).astype(np.uint8)
    assert np.array_equal(np.asarray(figures.to_picture(kinds[shape]))[..., 1], expected)


def test_values_outside_zero_and_one_are_clipped_not_wrapped():
    assert figures.to_picture(np.full((4, 4), 1.5)).getpixel((0, 0)) == (255, 255, 255)
    assert figures.to_picture(np.full((4, 4), -0.5)).getpixel((0, 0)) == (0, 0, 0)


def test_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"shape \(4, 4, 7\)"):
        figures.to_picture(np.zeros((4, 4, 7)))


def test_every_picture_of_a_row_has_its_own_alt_text():
    html = figures.pictures([picture(0), picture(1)], ["w0", "w<1>"], alt='A "dog".').html()
    assert re.findall(r'<img alt="([^"]*)"', html) == ["A &quot;dog&quot;: w0", "A &quot;dog&quot;: w&lt;1&gt;"]
    assert len(stored_pictures(html)) == 2


def test_figure_without_words_is_refused():
    with pytest.raises(ValueError, match="alt is empty"):
        figures.pictures([picture()], alt=" ")
    with pytest.raises(ValueError, match="2 entries for 1 pictures"):
        figures.pictures([picture()], ["a", "b"], alt="A dog")


def test_the_same_pixels_give_the_same_bytes_and_small_pictures_stay_small():
    first, second = (figures.pictures([picture()], alt="Noise", width=256).html() for _ in range(2))
    assert first == second
    assert stored_pictures(first)[0].size == (64, 64) and "pixelated" in first


def test_lossless_pictures_keep_every_pixel():
    html = figures.pictures([picture()], alt="Noise", quality=100).html()
    stored = np.asarray(stored_pictures(html)[0].convert("RGB"))
    assert np.array_equal(stored, np.asarray(figures.to_picture(picture())))


def test_heat_map_is_brightest_at_the_maximum_and_dark_at_zero():
    values = torch.tensor([[0.0, 0.5], [0.25, 1.0]])
    grey = np.asarray(figures.heatmap(values).convert("L"))
    assert grey[1, 1] > grey[0, 1] > grey[1, 0] > grey[0, 0]
    assert np.array_equal(np.asarray(figures.heatmap(torch.zeros(2, 2)).convert("L")), np.full((2, 2), grey[0, 0]))


def test_overlay_of_strength_zero_is_the_picture():
    shown = figures.overlay(picture(), np.eye(4), strength=0.0)
    assert np.array_equal(np.asarray(shown), np.asarray(figures.to_picture(picture())))
    with pytest.raises(ValueError, match=r"strength is 1\.5"):
        figures.overlay(picture(), np.eye(4), strength=1.5)


def test_shared_scale_shows_a_weak_word_darker():
    maps = {"strong": np.full((4, 4), 0.9), "weak": np.full((4, 4), 0.1)}
    black = np.zeros((64, 64, 3))

    def brightness(shared: bool) -> list[float]:
        figure = figures.attention_maps(black, maps, alt="Maps", shared_maximum=shared)
        return [float(np.asarray(panel.image).mean()) for panel in figure.panels[1:]]

    strong, weak = brightness(True)
    assert strong > 2 * weak
    strong, weak = brightness(False)
    assert strong == weak


def test_curves_carry_alt_text_no_date_and_the_same_bytes():
    def draw() -> str:
        return figures.curves(
            {"a": [3, 2, 1], "b": ([0, 2], [1, 2])}, xlabel="step", ylabel="loss", alt="It falls"
        ).html()

    assert draw() == draw()
    assert 'alt="It falls"' in draw()
    assert not stored_pictures(draw())[0].info.keys() & {"Software", "Creation Time", "date"}


def test_plain_text_is_the_alt_text():
    drawing = Drawing(figsize=(2, 1))
    drawing.subplots().plot([0, 1])
    assert figures.drawn(drawing, alt="A rising line")._repr_mimebundle_()["text/plain"] == "Figure: A rising line"
