"""Crops contain their object, and nothing else than was promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from elite.data.crops import Box, crop, padded_box, scaled, square_box, tight_box

SIDES = st.integers(2, 300)


@st.composite
def boxes(draw):
    """A picture's size and a box in it, as fractions times the size give it."""
    width, height = draw(SIDES), draw(SIDES)
    fractions = st.integers(0, 1000)
    x0, x1 = sorted(draw(st.lists(fractions, min_size=2, max_size=2, unique=True)))
    y0, y1 = sorted(draw(st.lists(fractions, min_size=2, max_size=2, unique=True)))
    return (width, height), (x0 / 1000 * width, y0 / 1000 * height, x1 / 1000 * width, y1 / 1000 * height)


@given(case=boxes(), padding=st.integers(1, 30))
def test_the_padded_box_holds_the_object_and_stays_in_the_picture(case, padding):
    (width, height), (left, top, right, bottom) = case
    box = padded_box((left, top, right, bottom), (width, height), padding)
    assert 0 <= box.left <= left + 1e-6 and right - 1e-6 <= box.right <= width
    assert 0 <= box.top <= top + 1e-6 and bottom - 1e-6 <= box.bottom <= height
    # No more than the padding and a pixel of rounding is added.
    assert left - box.left < padding + 1 and box.right - right <= padding + 1e-6
    assert top - box.top < padding + 1 and box.bottom - bottom <= padding + 1e-6


@given(case=boxes(), padding=st.integers(1, 30))
def test_the_square_box_is_square_and_covers_the_box(case, padding):
    size, edges = case
    box = padded_box(edges, size, padding)
    square = square_box(box, size)
    assert square.width == square.height == max(box.width, box.height)
    assert square.left <= box.left and square.right >= box.right
    assert square.top <= box.top and square.bottom >= box.bottom
    for low, high, limit in ((square.left, square.right, size[0]), (square.top, square.bottom, size[1])):
        if square.width <= limit:
            assert low >= 0 and high <= limit  # it leaves the picture only where it is larger
        else:
            assert low <= 0 and high >= limit  # and then all of the picture is seen


@given(case=boxes())
def test_a_square_crop_shows_the_picture_and_grey_around_it(case):
    size, edges = case
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    box = square_box(padded_box(edges, size, 1), size)
    got = np.asarray(crop(Image.fromarray(pixels), box))
    padded = np.pad(pixels, ((300, 300), (300, 300), (0, 0)), constant_values=128)
    expected = padded[box.top + 300 : box.bottom + 300, box.left + 300 : box.right + 300]
    assert np.array_equal(got, expected)


@given(mask=st.integers(0, 2**32 - 1).map(lambda s: np.random.default_rng(s).random((9, 7)) < 0.05))
def test_the_tight_box_touches_the_mask_on_every_side(mask):
    points = [(y, x) for y in range(9) for x in range(7) if mask[y, x]]
    if not points:
        with pytest.raises(ValueError, match="no pixel"):
            tight_box(mask)
        return
    rows, columns = zip(*points, strict=True)
    assert tight_box(mask) == Box(min(columns), min(rows), max(columns) + 1, max(rows) + 1)


def test_pixel_counts_of_the_paper_shrink_with_the_resolution():
    assert scaled(10, 512) == 10
    assert scaled(19, 64) == 2
    assert scaled(1, 64) == 1  # a crop always has a border


@pytest.mark.parametrize("edges", [(5, 0, 5, 9), (0, 0, 11, 5), (-1, 0, 5, 5), (0, 8, 5, 4)])
def test_boxes_that_are_none_are_refused(edges):
    with pytest.raises(ValueError, match="edges"):
        padded_box(edges, (10, 10), 1)
