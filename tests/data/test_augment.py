"""The augmentations against what they are by definition, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from elite.data.augment import (
    FAR,
    NEAR,
    ObjectChange,
    Placement,
    ReferenceChange,
    change_object,
    change_reference,
    corner_map,
    draw_object_change,
    draw_placement,
    draw_reference_change,
    place,
)

SEEDS = st.integers(0, 2**32 - 1)


def noise(size: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@given(seed=SEEDS, size=st.sampled_from([64, 512]))
def test_placements_are_the_authors_three_kinds(seed, size):
    placement = draw_placement(np.random.default_rng(seed), size)
    scale, top, left = placement.scale, placement.top, placement.left
    assert scale % 2 == 0 and size // 3 <= scale < 1.4 * size + 1
    if placement.words in FAR:
        assert scale < 0.6 * size
        assert 0 <= top <= size - scale and 0 <= left <= size - scale
    elif placement.words in NEAR:
        assert scale >= int(1.2 * size)
        assert size - scale <= top <= 0 and size - scale <= left <= 0
    else:
        assert placement == Placement(size, 0, 0, "a")


def test_placements_come_as_often_as_the_authors_draw_them():
    """2/3 of the scales are uniform in [170, 512], so 2/3 · 138/343 are far; 1/3 are near; the rest is plain."""
    draws = [draw_placement(np.random.default_rng(n), 512) for n in range(6000)]
    words = [d.words for d in draws]
    assert abs(np.mean([w in NEAR for w in words]) - 1 / 3) < 0.03
    assert abs(np.mean([w in FAR for w in words]) - 2 / 3 * 138 / 343) < 0.03
    for pair in (FAR, NEAR):
        counts = [words.count(w) for w in pair]
        assert abs(counts[0] / sum(counts) - 0.5) < 0.05
    far = [d for d in draws if d.words in FAR]
    assert min(d.top for d in far) < 5 and max(d.top + d.scale for d in far) > 507  # all of the frame is used


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, shape=st.sampled_from([(64, 4), (64, 8), (128, 8)]))
def test_the_frame_agrees_with_a_loop_over_its_pixels(seed, shape):
    size, cell = shape
    placement = draw_placement(np.random.default_rng(seed), size)
    picture = noise(50, seed)
    frame, mask = place(picture, placement, size, cell)
    scale, top, left = placement.scale, placement.top, placement.left
    resized = np.asarray(picture.resize((scale, scale), Image.Resampling.BICUBIC))
    expected = np.zeros((size, size, 3))
    for y in range(size):
        for x in range(size):
            if 0 <= y - top < scale and 0 <= x - left < scale:
                expected[y, x] = resized[y - top, x - left] / 127.5 - 1
    assert frame.dtype == np.float32 and np.abs(frame - expected).max() < 1e-6
    # One cell smaller on each side than the cells of the object's edges; all of the frame otherwise.
    for row in range(size // cell):
        for column in range(size // cell):
            inside = all(
                start // cell + 1 <= at < (start + scale) // cell - 1 for start, at in ((top, row), (left, column))
            )
            assert mask[row, column] == (placement.words not in FAR or inside)


@given(seed=SEEDS)
def test_no_loss_is_taken_where_there_is_canvas(seed):
    """Every pixel of a cell that counts shows the object."""
    placement = draw_placement(np.random.default_rng(seed), 64)
    frame, mask = place(Image.new("RGB", (20, 20), "white"), placement, 64, 4)
    assert (frame[np.kron(mask, np.ones((4, 4))) == 1] == 1).all()
    assert mask.sum() >= 4


def test_the_canvas_is_mid_grey():
    frame, _ = place(noise(30), Placement(24, 8, 40, "very small"), 64, 4)
    assert (frame[:8] == 0).all() and (frame[:, :40] == 0).all() and (frame[32:] == 0).all()


@pytest.mark.parametrize("size", [15, 33, 8])
def test_odd_and_tiny_frames_are_refused(size):
    with pytest.raises(ValueError, match="size"):
        draw_placement(np.random.default_rng(0), size)


@given(seed=SEEDS, size=st.sampled_from([64, 224]))
def test_object_changes_stay_within_the_authors_limits(seed, size):
    change = draw_object_change(np.random.default_rng(seed), size)
    unit = size / 224
    if change.enlarged is not None:
        assert size <= change.enlarged <= round(256 * unit)
        assert all(0 <= start <= change.enlarged - size for start in change.window)
    assert -30 <= change.angle <= 30
    assert max(abs(v) for v in change.shift) <= round(60 * unit)


def test_each_object_change_comes_half_of_the_time():
    draws = [draw_object_change(np.random.default_rng(n), 224) for n in range(3000)]
    assert abs(np.mean([d.enlarged is not None for d in draws]) - 0.5) < 0.04
    assert abs(np.mean([d.angle != 0 for d in draws]) - 0.5 * 60 / 61) < 0.04
    assert abs(np.mean([d.shift != (0, 0) for d in draws]) - 0.5) < 0.04
    assert {min(d.angle for d in draws), max(d.angle for d in draws)} == {-30, 30}


@given(down=st.integers(-17, 17), right=st.integers(-17, 17))
def test_a_shift_moves_pixels_and_brings_in_black(down, right):
    picture, mask = noise(32), noise(32, 1, "L")
    moved, moved_mask = change_object(picture, mask, ObjectChange(shift=(down, right)))
    for before, after in ((np.asarray(picture), np.asarray(moved)), (np.asarray(mask), np.asarray(moved_mask))):
        expected = np.zeros_like(before)
        for y in range(32):
            for x in range(32):
                if 0 <= y - down < 32 and 0 <= x - right < 32:
                    expected[y, x] = before[y - down, x - right]
        assert np.array_equal(after, expected)


def test_a_window_is_cut_from_the_enlarged_object():
    picture, mask = noise(28), noise(28, 1, "L")
    cut, cut_mask = change_object(picture, mask, ObjectChange(enlarged=32, window=(3, 1)))
    assert np.array_equal(cut, np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC))[3:31, 1:29])
    assert np.array_equal(cut_mask, np.asarray(mask.resize((32, 32), Image.Resampling.NEAREST))[3:31, 1:29])


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_object_and_mask_move_together(seed):
    """A white square on black is its own mask: after any change they agree, but for a pixel at the softened edge."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, (20, 24, 44, 46))
    change = draw_object_change(np.random.default_rng(seed), 64)
    picture, moved = change_object(mask.convert("RGB"), mask, change)
    shown, array = np.asarray(picture)[..., 0].astype(int), np.asarray(moved)
    # Beyond the rim of the picture there may be either, so that an edge that was moved onto it counts as an edge.
    highest, lowest = (
        one(array, 5, mode="constant", cval=outside)
        for one, outside in ((ndimage.maximum_filter, 255), (ndimage.minimum_filter, 0))
    )
    flat = highest == lowest
    assert flat.sum() > 2500
    assert np.abs(shown - array)[flat].max() <= 30
    assert set(np.unique(moved)) <= {0, 255}


def test_no_change_is_no_change():
    picture, mask = noise(32), noise(32, 1, "L")
    assert change_object(picture, mask, ObjectChange()) == (picture, mask)
    assert change_reference(picture, ReferenceChange()) == picture


@given(seed=SEEDS)
def test_reference_changes_stay_within_the_authors_limits(seed):
    change = draw_reference_change(np.random.default_rng(seed), 224)
    assert -20 <= change.angle <= 20
    assert change.blur in (0, 3, 5, 7)
    assert change.warp is None or np.abs(change.warp).max() <= 50


def smooth(size: int) -> Image.Image:
    rows, columns = np.mgrid[:size, :size] / size
    waves = [np.sin(7 * columns + 3 * rows), np.cos(9 * rows), np.sin(5 * rows * columns)]
    return Image.fromarray((127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8))


@pytest.mark.parametrize("angle", [-20.0, 13.0])
def test_a_reference_turns_the_way_pil_turns(angle):
    picture = smooth(96)
    got = np.asarray(change_reference(picture, ReferenceChange(angle=angle))).astype(int)
    expected = np.asarray(picture.rotate(angle, Image.Resampling.BILINEAR)).astype(int)
    middle = slice(24, 72)  # the corners differ: ours mirror the picture
    assert np.abs(got - expected)[middle, middle].max() <= 3
    assert got[0, 0].any() and got[-1, -1].any()


@given(seed=SEEDS)
def test_the_warp_brings_each_corner_where_it_was_moved(seed):
    size = 90
    moves = np.random.default_rng(seed).uniform(-20, 20, (3, 2))
    matrix, offset = corner_map(size, moves)
    corners = np.array([[75, 75], [15, 75], [15, 15]])
    assert np.allclose((corners + moves) @ matrix.T + offset, corners, atol=1e-6)


def test_a_flip_and_a_blur_are_what_they_say():
    picture = noise(224)
    flipped = np.asarray(change_reference(picture, ReferenceChange(flip=True)))
    assert np.array_equal(flipped, np.asarray(picture)[:, ::-1])
    blurred = np.asarray(change_reference(picture, ReferenceChange(blur=3.0)))
    window = np.asarray(picture).astype(float)[9:12, 19:22].mean(axis=(0, 1))
    assert np.abs(blurred[10, 20] - window).max() <= 1.5
