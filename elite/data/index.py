"""Which objects of Open Images the two stages train on: the paper's selection, from the annotation tables.

A row of the box table is one object of the global stage, a row of the mask table one of the local stage.
Every row that is not used is counted under the first reason that applies, so that kept and dropped add up.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from PIL import Image, UnidentifiedImageError

from elite.data.layout import BOX_COLUMNS, FLAG_COLUMNS, MASK_COLUMNS, OpenImagesFolder, files_in
from elite.io.files import replacing

CACHE_VERSION = 2
REFERENCE_RESOLUTION = 512  # the resolution that the paper's pixel counts belong to
_EDGES = ("x_min", "x_max", "y_min", "y_max")


@dataclass(frozen=True)
class Index:
    """The objects of one stage.

    Attributes:
        kind: "boxes" (global stage) or "masks" (local stage).
        frame: one row per object: image_id, label, class_name, x_min, x_max, y_min, y_max (fractions of the
            picture); for masks also mask (file name), width, height (of the picture, in pixels).
        dropped: reason -> number of rows of the table that were not taken.
    """

    kind: str
    frame: pl.DataFrame
    dropped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.frame.height

    @property
    def total(self) -> int:
        """Rows of the annotation table."""
        return len(self) + sum(self.dropped.values())

    def summary(self) -> str:
        """What was kept, and what was dropped and why, one line each."""
        lines = [f"{self.kind}: {len(self):,} of {self.total:,} kept"]
        lines += [f"  {count:>9,} dropped: {reason}" for reason, count in sorted(self.dropped.items())]
        return "\n".join(lines)


def read_class_names(path: Path) -> dict[str, str]:
    """Label (``/m/0bt9lr``) -> name (``Dog``) from class-descriptions-boxable.csv, with or without a header line."""
    table = pl.read_csv(path, has_header=False, new_columns=["label", "name"], schema_overrides=[pl.String, pl.String])
    return {label: name for label, name in table.iter_rows() if label != "LabelName"}


def scan_table(path: Path) -> pl.LazyFrame:
    """An annotation table with every column as text; :func:`select_boxes` and :func:`select_masks` read the numbers.

    Types guessed from the first rows would fail at a later one, and ids of digits alone would lose their zeros.
    """
    return pl.scan_csv(path, infer_schema=False)


def labels_of(classes: Iterable[str], names: dict[str, str]) -> list[str]:
    """The labels of the named classes (names or labels, any case); raises ValueError naming what is unknown."""
    by_name = {name.casefold(): label for label, name in names.items()}
    labels = []
    for wanted in classes:
        label = wanted if wanted in names else by_name.get(wanted.strip().casefold())
        if label is None:
            close = difflib.get_close_matches(wanted.strip().casefold(), by_name, n=3)
            hint = " or ".join(names[by_name[c]] for c in close) or f"one of the {len(names)} names of the class table"
            raise ValueError(f"classes contains {wanted!r}, which Open Images does not have; use {hint}.")
        labels.append(label)
    return labels


def select_boxes(
    boxes: pl.LazyFrame,
    labels: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    min_area: float = 0.02,
    max_area: float = 0.8,
    exclude: Sequence[str] = (),
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The objects of the global stage: boxes that cover ``min_area`` to ``max_area`` of their picture.

    Args:
        boxes: the box table, columns of Open Images (fractions), as numbers or text.
        labels: labels to keep; None keeps every class.
        images: ids of the pictures at hand; None assumes that every picture is there.
        min_area: smallest box area, fraction of the picture, itself included.
        max_area: largest box area, likewise.
        exclude: flags whose boxes are not wanted, e.g. ("IsGroupOf",). The paper excludes none. A flag that cannot
            be read is not set.

    Returns:
        The kept rows (see Index.frame), sorted, and reason -> rows dropped.

    Raises:
        ValueError: areas out of order, or an unknown flag.
    """
    if not 0 <= min_area < max_area <= 1:
        raise ValueError(f"min_area, max_area are {min_area}, {max_area}; they must satisfy 0 <= min < max <= 1.")
    unknown = sorted(set(exclude) - set(FLAG_COLUMNS))
    if unknown:
        raise ValueError(f"exclude names {unknown[0]!r}; the flags are {', '.join(FLAG_COLUMNS)}.")
    frame = _renamed(boxes, BOX_COLUMNS[2:], extra=exclude)
    area = (pl.col("x_max") - pl.col("x_min")) * (pl.col("y_max") - pl.col("y_min"))
    reasons = [("box is not inside the picture", ~_valid_box()), *_membership(labels, images)]
    reasons += [(f"flag {flag}", pl.col(flag).cast(pl.Float64, strict=False) == 1) for flag in exclude]
    reasons += [
        (f"box area below {min_area:.0%} of the picture", area < min_area),
        (f"box area above {max_area:.0%} of the picture", area > max_area),
    ]
    return _split(frame, reasons, ["image_id", "label", *_EDGES])


def select_masks(
    masks: pl.LazyFrame,
    sizes: pl.DataFrame,
    labels: Sequence[str] | None = None,
    mask_files: Sequence[str] | None = None,
    min_side: float = 100,
    min_aspect: float = 0.5,
    resolution: int = REFERENCE_RESOLUTION,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The objects of the local stage: masks of at least ``min_side`` pixels per side that are not too thin.

    The paper's 100 pixels are counted in the picture's own pixels, for a model of 512 x 512; for another
    ``resolution`` they shrink with it (12.5 for 64). The aspect ratio is the shorter over the longer side, in pixels.

    Args:
        masks: the mask table, columns of Open Images (fractions), as numbers or text.
        sizes: image_id, width, height in pixels of the pictures at hand; null where a file cannot be read.
        labels: labels to keep; None keeps every class.
        mask_files: names of the mask files at hand; None assumes that every mask is there.
        min_side: smallest side of the object's box at resolution 512, itself included.
        min_aspect: the aspect ratio has to be above this.
        resolution: side of the model's pictures in pixels.

    Returns:
        The kept rows (see Index.frame), sorted, and reason -> rows dropped.

    Raises:
        ValueError: a negative side, or an aspect ratio outside [0, 1).
    """
    if min_side < 0 or not 0 <= min_aspect < 1:
        raise ValueError(f"min_side, min_aspect are {min_side}, {min_aspect}; use min_side >= 0, 0 <= min_aspect < 1.")
    frame = _renamed(masks, MASK_COLUMNS[3:], extra=("MaskPath",)).rename({"MaskPath": "mask"})
    frame = frame.join(sizes.lazy(), on="image_id", how="left")
    side_x = (pl.col("x_max") - pl.col("x_min")) * pl.col("width")
    side_y = (pl.col("y_max") - pl.col("y_min")) * pl.col("height")
    shorter, longer = (pl.min_horizontal(side_x, side_y), pl.max_horizontal(side_x, side_y))
    reasons = [
        ("box is not inside the picture", ~_valid_box()),
        *_membership(labels, sizes.get_column("image_id").to_list()),
        ("picture cannot be read", pl.col("width").is_null()),
    ]
    if mask_files is not None:
        reasons.append(("mask is not in the folder", ~_is_in("mask", mask_files)))
    # A thousandth of a pixel of slack: the tables round fractions to six digits.
    reasons += [
        (f"object below {min_side:g} px a side at {REFERENCE_RESOLUTION}",
         shorter < min_side * resolution / REFERENCE_RESOLUTION - 1e-3),
        (f"aspect ratio not above {min_aspect:g}", shorter / longer <= min_aspect),
    ]  # fmt: skip
    return _split(frame, reasons, ["image_id", "label", *_EDGES, "mask", "width", "height"])


def index_boxes(
    folder: OpenImagesFolder,
    classes: Sequence[str] | None = None,
    min_area: float = 0.02,
    max_area: float = 0.8,
    exclude: Sequence[str] = (),
    cache: bool = True,
) -> Index:
    """The global stage's objects among the pictures of ``folder``; arguments as in :func:`select_boxes`."""
    settings = {"min_area": min_area, "max_area": max_area, "exclude": sorted(exclude), "classes": classes}
    images = files_in(folder.images_dir, ".jpg")

    def build() -> tuple[pl.DataFrame, dict[str, int]]:
        names = read_class_names(_existing(folder.classes))
        labels = None if classes is None else labels_of(classes, names)
        scan = scan_table(_existing(folder.boxes))
        frame, dropped = select_boxes(scan, labels, [Path(n).stem for n in images], min_area, max_area, exclude)
        return _with_class_name(frame, names), dropped

    return _cached("boxes", folder, [folder.boxes, folder.classes], [images], settings, build, cache)


def index_masks(
    folder: OpenImagesFolder,
    classes: Sequence[str] | None = None,
    min_side: float = 100,
    min_aspect: float = 0.5,
    resolution: int = REFERENCE_RESOLUTION,
    cache: bool = True,
) -> Index:
    """The local stage's objects among the pictures and masks of ``folder``; arguments as in :func:`select_masks`."""
    settings = {"min_side": min_side, "min_aspect": min_aspect, "resolution": resolution, "classes": classes}
    images, mask_files = (files_in(folder.images_dir, ".jpg"), files_in(folder.masks_dir, ".png"))

    def build() -> tuple[pl.DataFrame, dict[str, int]]:
        names = read_class_names(_existing(folder.classes))
        labels = None if classes is None else labels_of(classes, names)
        scan = scan_table(_existing(folder.masks))
        sizes = picture_sizes(folder, list(images))
        frame, dropped = select_masks(scan, sizes, labels, list(mask_files), min_side, min_aspect, resolution)
        return _with_class_name(frame, names), dropped

    return _cached("masks", folder, [folder.masks, folder.classes], [images, mask_files], settings, build, cache)


def picture_sizes(folder: OpenImagesFolder, names: Sequence[str], threads: int = 8) -> pl.DataFrame:
    """image_id, width, height (pixels; null where the header cannot be read) of the named files."""

    def size(name: str) -> tuple[str, int | None, int | None]:
        try:
            with Image.open(folder.images_dir / name) as picture:  # reads the header only
                return Path(name).stem, *picture.size
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            return (Path(name).stem, None, None)  # counted by select_masks as "picture cannot be read"

    with ThreadPoolExecutor(threads) as pool:
        rows = list(pool.map(size, names))
    return pl.DataFrame(rows, schema={"image_id": pl.String, "width": pl.Int64, "height": pl.Int64}, orient="row")


def _renamed(table: pl.LazyFrame, edges: Sequence[str], extra: Sequence[str]) -> pl.LazyFrame:
    """Rename the columns to ours; numbers that cannot be read become null and are dropped as invalid boxes."""
    columns = [pl.col("ImageID").cast(pl.String).alias("image_id"), pl.col("LabelName").alias("label")]
    columns += [pl.col(e).cast(pl.Float64, strict=False).alias(n) for e, n in zip(edges, _EDGES, strict=True)]
    return table.select(*columns, *extra)


def _valid_box() -> pl.Expr:
    x0, x1, y0, y1 = (pl.col(name) for name in _EDGES)
    inside = (x0 >= 0) & (y0 >= 0) & (x1 <= 1) & (y1 <= 1) & (x0 < x1) & (y0 < y1)
    return inside.fill_null(False)


def _is_in(column: str, values: Sequence[str]) -> pl.Expr:
    return pl.col(column).is_in(pl.Series(values, dtype=pl.String).implode())


def _membership(labels: Sequence[str] | None, images: Sequence[str] | None) -> list[tuple[str, pl.Expr]]:
    reasons = []
    if labels is not None:
        reasons.append(("class was not asked for", ~_is_in("label", labels)))
    if images is not None:
        reasons.append(("picture is not in the folder", ~_is_in("image_id", images)))
    return reasons


def _split(
    frame: pl.LazyFrame, reasons: list[tuple[str, pl.Expr]], columns: list[str]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Give each row the first reason that applies; return the rows without one, and the counts of the others."""
    tests = [pl.when(condition.fill_null(False)).then(pl.lit(number)) for number, (_, condition) in enumerate(reasons)]
    table = frame.with_columns(pl.coalesce(tests).alias("reason")).collect()
    counts = dict(table.get_column("reason").drop_nulls().value_counts().iter_rows())
    kept = table.filter(pl.col("reason").is_null()).select(columns).sort(columns)
    return kept, {reasons[number][0]: count for number, count in sorted(counts.items())}


def _with_class_name(frame: pl.DataFrame, names: dict[str, str]) -> pl.DataFrame:
    name = pl.col("label").replace_strict(names, default=pl.col("label"), return_dtype=pl.String)
    return frame.with_columns(name.alias("class_name"))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; download it first (elite download open-images).")
    return path


def _cached(
    kind: str,
    folder: OpenImagesFolder,
    tables: Sequence[Path],
    listings: Sequence[dict[str, tuple[int, int]]],
    settings: Mapping[str, object],
    build: Callable[[], tuple[pl.DataFrame, dict[str, int]]],
    cache: bool,
) -> Index:
    """Build an index, or read the one that was built from exactly these inputs."""
    stats = [(str(path.name), path.stat().st_size, path.stat().st_mtime_ns) for path in map(_existing, tables)]
    inputs = json.dumps([CACHE_VERSION, kind, folder.split, stats, listings, settings], sort_keys=True)
    key = hashlib.sha256(inputs.encode()).hexdigest()[:20]
    path = folder.root / ".index" / f"{kind}-{key}.parquet"
    if cache and path.is_file():
        try:
            return Index(kind, pl.read_parquet(path), json.loads(pl.read_parquet_metadata(path)["dropped"]))
        except (pl.exceptions.PolarsError, OSError, ValueError, KeyError):
            pass  # damaged: it is built and kept anew
    try:
        frame, dropped = build()
    except pl.exceptions.PolarsError as error:
        names = " or ".join(str(table) for table in tables)
        raise ValueError(f"{names} is not a table of Open Images: {error}") from error
    if cache:
        try:
            with replacing(path) as temporary:
                frame.write_parquet(temporary, metadata={"dropped": json.dumps(dropped)})
        except OSError as error:  # a read-only data folder: the index is right, it is only not kept
            warnings.warn(f"the index could not be kept in {path.parent}: {error}", stacklevel=3)
    return Index(kind, frame, dropped)
