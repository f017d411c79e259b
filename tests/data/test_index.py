"""The paper's selection, compared with a plain loop over the same table."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elite.data import index as index_module
from elite.data.index import (
    index_boxes,
    index_masks,
    labels_of,
    read_class_names,
    scan_table,
    select_boxes,
    select_masks,
)

LABELS = ["/m/a", "/m/b", "/m/c"]
PICTURES = [f"{i:04x}" for i in range(6)]
# Twentieths, and one step outside the picture.
STEP = st.integers(-1, 21).map(lambda n: n / 20)
BOX = st.tuples(st.sampled_from(PICTURES), st.sampled_from(LABELS), STEP, STEP, STEP, STEP, st.integers(0, 1))


def valid(x0: float, x1: float, y0: float, y1: float) -> bool:
    return 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(BOX, max_size=40), some=st.booleans(), group=st.booleans())
def test_boxes_agree_with_a_loop_over_the_rows(rows, some, group):
    wanted, at_hand = (LABELS[:2], PICTURES[:4]) if some else (None, None)
    kept, dropped = [], Counter()
    for image, label, x0, x1, y0, y1, flag in rows:
        area = (x1 - x0) * (y1 - y0)
        if not valid(x0, x1, y0, y1):
            dropped["box is not inside the picture"] += 1
        elif wanted is not None and label not in wanted:
            dropped["class was not asked for"] += 1
        elif at_hand is not None and image not in at_hand:
            dropped["picture is not in the folder"] += 1
        elif group and flag:
            dropped["flag IsGroupOf"] += 1
        elif area < 0.02:
            dropped["box area below 2% of the picture"] += 1
        elif area > 0.8:
            dropped["box area above 80% of the picture"] += 1
        else:
            kept.append((image, label, x0, x1, y0, y1))
    names = ["ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", "IsGroupOf"]
    schema = dict.fromkeys(names[:2], pl.String) | dict.fromkeys(names[2:6], pl.Float64) | {"IsGroupOf": pl.Int64}
    table = pl.LazyFrame(rows, schema=schema, orient="row")
    frame, counts = select_boxes(table, wanted, at_hand, exclude=("IsGroupOf",) if group else ())
    assert sorted(kept) == frame.rows()
    assert counts == dropped


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(BOX, max_size=40), resolution=st.sampled_from([64, 512]))
def test_masks_agree_with_a_loop_over_the_rows(rows, resolution):
    shapes = {name: (160 + 80 * n, 320) for n, name in enumerate(PICTURES[:4])} | {PICTURES[4]: (None, None)}
    names = [f"{n}.png" for n in range(len(rows))]
    kept, dropped = [], Counter()
    for name, (image, label, x0, x1, y0, y1, _) in zip(names, rows, strict=True):
        width, height = shapes.get(image, (None, None))
        if not valid(x0, x1, y0, y1):
            dropped["box is not inside the picture"] += 1
        elif image not in shapes:
            dropped["picture is not in the folder"] += 1
        elif width is None:
            dropped["picture cannot be read"] += 1
        elif name == "0.png":
            dropped["mask is not in the folder"] += 1
        elif min((x1 - x0) * width, (y1 - y0) * height) < 100 * resolution / 512 - 1e-3:
            dropped["object below 100 px a side at 512"] += 1
        elif (y1 - y0) * height / ((x1 - x0) * width) <= 0.5 or (x1 - x0) * width / ((y1 - y0) * height) <= 0.5:
            dropped["aspect ratio not above 0.5"] += 1
        else:
            kept.append((image, label, x0, x1, y0, y1, name, width, height))
    columns = ["MaskPath", "ImageID", "LabelName", "BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax"]
    schema = dict.fromkeys(columns[:3], pl.String) | dict.fromkeys(columns[3:], pl.Float64)
    table = pl.LazyFrame([(n, *r[:6]) for n, r in zip(names, rows, strict=True)], schema=schema, orient="row")
    sizes = pl.DataFrame(
        [(k, *v) for k, v in shapes.items()],
        schema={"image_id": pl.String, "width": pl.Int64, "height": pl.Int64},
        orient="row",
    )
    frame, counts = select_masks(table, sizes, mask_files=names[1:], resolution=resolution)
    assert sorted(kept) == frame.rows()
    assert counts == dropped


def test_two_and_eighty_percent_themselves_are_kept():
    edges = [(0.0, 0.02, 0.0, 1.0), (0.0, 0.8, 0.0, 1.0), (0.0, 0.0199, 0.0, 1.0), (0.0, 0.8001, 0.0, 1.0)]
    names = ["XMin", "XMax", "YMin", "YMax"]
    table = pl.LazyFrame(edges, schema=names, orient="row").with_columns(ImageID=pl.lit("i"), LabelName=pl.lit("/m/a"))
    frame, dropped = select_boxes(table)
    assert frame["x_max"].to_list() == [0.02, 0.8]
    assert sum(dropped.values()) == 2


def test_a_hundred_pixels_are_enough_and_an_aspect_ratio_of_a_half_is_not():
    shapes = [(100, 100), (199, 100), (200, 100), (100, 200), (99, 120)]
    rows = [(f"{n}.png", f"{n}", "/m/a", 0.0, 1.0, 0.0, 1.0) for n in range(len(shapes))]
    columns = ["MaskPath", "ImageID", "LabelName", "BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax"]
    sizes = pl.DataFrame(
        [(f"{n}", *shape) for n, shape in enumerate(shapes)], schema=["image_id", "width", "height"], orient="row"
    )
    frame, _ = select_masks(pl.LazyFrame(rows, schema=columns, orient="row"), sizes)
    assert frame["mask"].to_list() == ["0.png", "1.png"]


def test_two_hundred_thousand_rows_from_a_file(tmp_path):
    """Kept and dropped of a large CSV agree with numpy."""
    rng = np.random.default_rng(0)
    edges = np.sort(rng.random((200_000, 2, 2)), axis=2).round(6)
    frame = pl.DataFrame(
        {
            "ImageID": [f"{i // 4:016x}" for i in range(len(edges))],
            "LabelName": ["/m/a"] * len(edges),
            "XMin": edges[:, 0, 0],
            "XMax": edges[:, 0, 1],
            "YMin": edges[:, 1, 0],
            "YMax": edges[:, 1, 1],
        }
    )
    frame.write_csv(tmp_path / "boxes.csv")
    kept, dropped = select_boxes(scan_table(tmp_path / "boxes.csv"))
    area = np.diff(edges, axis=2).prod(axis=1)[:, 0]
    assert kept.height == np.count_nonzero((area >= 0.02) & (area <= 0.8))
    assert kept.height + sum(dropped.values()) == len(edges)


def test_the_index_of_a_folder_names_its_objects(subset):
    boxes, masks = index_boxes(subset), index_masks(subset, resolution=64)
    assert len(boxes) == len(masks) == 12
    assert set(boxes.frame["class_name"]) == {"Dog", "Cat"}
    assert masks.frame.select("width", "height").unique().rows() == [(96, 80)]
    assert "12 of 12 kept" in boxes.summary()


def test_what_is_dropped_is_said(subset):
    subset.image(index_boxes(subset).frame["image_id"][0]).unlink()
    index = index_boxes(subset, classes=["dog"])
    assert index.dropped == {"class was not asked for": 6, "picture is not in the folder": 1}
    assert index.total == 12
    assert "6 dropped: class was not asked for" in index.summary()


def test_rows_that_are_no_numbers_are_dropped_not_raised(subset):
    rows = list(csv.reader(subset.boxes.open()))
    rows[1][4] = ""
    with subset.boxes.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert index_boxes(subset).dropped == {"box is not inside the picture": 1}


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_rows_that_are_no_numbers_are_dropped_behind_any_number_of_good_ones(subset, kind):
    """Types guessed from the first hundred rows would hold for these alone."""
    path, column = (subset.boxes, "XMin") if kind == "boxes" else (subset.masks, "BoxXMin")
    head, *rows = csv.reader(path.open())
    strange = [list(rows[0]) for _ in range(3)]
    strange[0][head.index(column)] = "n/a"
    strange[1][head.index(column)] = "0.1.2"
    if kind == "boxes":
        strange[2][head.index("IsGroupOf")] = "unknown"
        rows[1][head.index("IsGroupOf")] = "1"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows * 100, *strange])
    if kind == "boxes":
        index = index_boxes(subset, exclude=["IsGroupOf"])
        assert index.dropped == {"box is not inside the picture": 2, "flag IsGroupOf": 100}
    else:
        index = index_masks(subset, resolution=64)
        assert index.dropped == {"box is not inside the picture": 2}
    assert index.total == 1203


def test_an_unreadable_picture_is_dropped_from_the_masks(subset):
    broken = index_masks(subset, resolution=64).frame["image_id"][3]
    subset.image(broken).write_bytes(b"not a picture")
    assert index_masks(subset, resolution=64).dropped == {"picture cannot be read": 1}


def test_the_index_is_kept_and_read_again(subset, monkeypatch):
    first = index_masks(subset, resolution=64, min_side=310)
    monkeypatch.setattr(index_module, "select_masks", None)  # building again would fail
    again = index_masks(subset, resolution=64, min_side=310)
    assert again.frame.equals(first.frame) and again.dropped == first.dropped


@pytest.mark.parametrize("change", ["table", "pictures", "settings"])
def test_the_kept_index_is_not_used_for_other_inputs(subset, change):
    before = index_boxes(subset)
    options = {}
    if change == "table":
        lines = subset.boxes.read_text().splitlines(keepends=True)
        subset.boxes.write_text("".join(lines[:-1]))
    elif change == "pictures":
        subset.image(before.frame["image_id"][0]).unlink()
    else:
        options["max_area"] = 0.3
    assert len(index_boxes(subset, **options)) < len(before)


def test_a_damaged_kept_index_is_built_anew(subset):
    first = index_boxes(subset)
    (kept,) = (subset.root / ".index").glob("boxes-*.parquet")
    kept.write_bytes(kept.read_bytes()[:100])
    assert index_boxes(subset).frame.equals(first.frame)
    assert index_boxes(subset).dropped == first.dropped


def test_a_table_that_is_none_is_named(subset):
    subset.boxes.write_text("this,is\nanother,table\n")
    with pytest.raises(ValueError, match=r"annotations-bbox\.csv.* is not a table of Open Images"):
        index_boxes(subset)


def test_where_the_index_cannot_be_kept_it_is_built_all_the_same(subset):
    (subset.root / ".index").write_text("in the way")
    with pytest.warns(UserWarning, match="could not be kept"):
        assert len(index_boxes(subset)) == 12


def test_class_tables_with_and_without_a_header_read_the_same(tmp_path):
    plain, headed = tmp_path / "plain.csv", tmp_path / "headed.csv"
    plain.write_text('/m/1,Dog\n/m/2,"Bow, tie"\n')
    headed.write_text('LabelName,DisplayName\n/m/1,Dog\n/m/2,"Bow, tie"\n')
    assert read_class_names(plain) == read_class_names(headed) == {"/m/1": "Dog", "/m/2": "Bow, tie"}


def test_class_names_are_found_in_any_case_and_mistakes_are_explained():
    names = {"/m/1": "Dog", "/m/2": "Cat"}
    assert labels_of(["cat", "/m/1"], names) == ["/m/2", "/m/1"]
    with pytest.raises(ValueError, match=r"'Dgo'.*Dog"):
        labels_of(["Dgo"], names)


def test_a_missing_table_says_what_to_do(tmp_path):
    from elite.data.layout import OpenImagesFolder

    with pytest.raises(FileNotFoundError, match="elite download open-images"):
        index_boxes(OpenImagesFolder(Path(tmp_path)))
