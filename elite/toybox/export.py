"""Writes the toybox world as Open Images lies on its servers: ``python -m elite.toybox.export --output DIR``.

One reader serves the miniature and the real thing: box table, segmentation table, class descriptions, JPEG pictures and
archives of PNG masks, which have another size than their pictures. About a quarter of the pictures show several
subjects side by side. The world's training pictures become the split "test", which the paper trains on.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import shutil
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from elite.data.layout import BOX_COLUMNS, FLAG_COLUMNS, HEX_DIGITS, MASK_COLUMNS, OpenImagesFolder, OpenImagesServer
from elite.data.unpack import unpack_export
from elite.toybox import world

SPLITS = {"train": "test", "validation": "validation"}  # the world's word -> Open Images' word
LABELS = {name: f"/m/toy{name}" for name in world.CLASSES}
BLOCK = 200  # pictures that one process renders before it puts them away
BOX_HEAD = ("ImageID", "Source", "LabelName", "Confidence", *BOX_COLUMNS[2:], *FLAG_COLUMNS)
MASK_HEAD = ("MaskPath", "ImageID", "LabelName", "BoxID", *MASK_COLUMNS[3:], "PredictedIoU", "Clicks")
_SEVERAL = 0.25  # share of the pictures that show several subjects
_FIRST_SEED = 100_000_000  # beyond the seeds that the report draws unseen pictures from


@dataclass(frozen=True)
class ExportSettings:
    """What decides an export, to the byte.

    Attributes:
        count: pictures.
        split: "train" or "validation" of the world.
        classes: names of the classes that occur.
        seed: of everything drawn.
        size: side of a subject's picture in pixels; several subjects stand side by side in a wider one. Larger than
            the backbone's 64, so that a crop of the subject is made smaller and stays sharp.

    Raises:
        ValueError: for a value that no export can have.
    """

    count: int
    split: str = "train"
    classes: tuple[str, ...] = world.CLASSES
    seed: int = 0
    size: int = 96

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split is {self.split!r}; use one of {', '.join(SPLITS)}.")
        if not 1 <= self.count <= 1_000_000:
            raise ValueError(f"count is {self.count}; it must be at least 1 and at most 1,000,000 pictures.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be 0 or more.")
        if self.size < 64:
            raise ValueError(f"size is {self.size}; it must be at least 64 pixels, a side of the backbone's pictures.")
        unknown = sorted(set(self.classes) - set(world.CLASSES))
        if unknown or not self.classes:
            raise ValueError(f"classes is {self.classes!r}; use at least one of {', '.join(world.CLASSES)}.")


@dataclass(frozen=True)
class ExportedObject:
    """One subject of an exported picture: its mask (mode "1"), box x0, y0, x1, y1 (fractions), and if it is cut."""

    class_name: str
    mask: Image.Image
    box: tuple[float, float, float, float]
    truncated: bool


def image_id(settings: ExportSettings, number: int) -> str:
    """The name of a picture: 16 hexadecimal digits."""
    return hashlib.sha256(f"{settings.split}:{settings.seed}:{number}".encode()).hexdigest()[:16]


def compose(settings: ExportSettings, number: int) -> tuple[Image.Image, list[ExportedObject]]:
    """Draw one picture of the export: a subject in a scene, or two or three side by side.

    Args:
        settings: of the export.
        number: of the picture, from 0.

    Returns:
        The picture, RGB, and its subjects from left to right.
    """
    draw = random.Random(f"export:{settings.split}:{settings.seed}:{number}")
    amount = draw.choice((2, 2, 3)) if draw.random() < _SEVERAL else 1
    first = _FIRST_SEED * (1 + settings.seed) + 4 * number
    size = settings.size
    pictures = [world.sample_picture(first + i, settings.split, settings.classes, size) for i in range(amount)]
    enlarged = draw.uniform(1.2, 1.9)  # annotators of Open Images saw pictures of another size, too
    mask_size = round(size * amount * enlarged), round(size * enlarged)
    canvas = Image.new("RGB", (size * amount, size))
    objects = []
    for place, picture in enumerate(pictures):
        canvas.paste(picture.image, (size * place, 0))
        whole = Image.new("L", canvas.size)
        whole.paste(picture.mask, (size * place, 0))
        mask = whole.resize(mask_size, Image.Resampling.NEAREST)
        drawn, written = _fractions(whole), _fractions(mask)
        (left, top), (right, bottom) = map(min, drawn[:2], written[:2]), map(max, drawn[2:], written[2:])
        box = (left, top, right, bottom)
        truncated = min(picture.box) == 0 or max(picture.box) == 1
        objects.append(ExportedObject(picture.class_name, mask.convert("1"), box, truncated))
    return canvas, objects


def _fractions(mask: Image.Image) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = mask.getbbox() or (0, 0, 0, 0)
    return x0 / mask.width, y0 / mask.height, x1 / mask.width, y1 / mask.height


def _rows(name: str, objects: Iterable[ExportedObject]) -> tuple[list[list[Any]], list[list[Any]], list[str]]:
    """The lines of both tables, and the masks' file names."""
    boxes, masks, files = [], [], []
    for number, item in enumerate(objects):
        label, edges = LABELS[item.class_name], _outward(item.box)
        box_id = hashlib.sha256(f"{name}:{number}".encode()).hexdigest()[:8]
        files.append(f"{name}_{label.replace('/', '')}_{box_id}.png")
        boxes.append([name, "toybox", label, 1, *edges, 0, int(item.truncated), 0, 0, 0])
        masks.append([files[-1], name, label, box_id, *edges, 1, ""])
    return boxes, masks, files


def _outward(box: tuple[float, float, float, float]) -> list[str]:
    """XMin, XMax, YMin, YMax to six digits, rounded away from the subject."""
    x0, y0, x1, y1 = box
    lower, upper = (lambda v: np.floor(v * 1e6) / 1e6), (lambda v: min(1.0, np.ceil(v * 1e6) / 1e6))
    return [f"{value:.6f}" for value in (lower(x0), upper(x1), lower(y0), upper(y1))]


def render_block(output: Path, parts: Path, settings: ExportSettings, block: int) -> None:
    """Render one block of pictures; its masks and table lines go to one archive in ``parts``, written last."""
    archive = parts / f"{block:05d}.zip"
    if archive.exists():
        return
    server, buffer, lines = OpenImagesServer.mirror(str(output), SPLITS[settings.split]), io.BytesIO(), []
    with zipfile.ZipFile(buffer, "w") as zipped:
        for number in range(block * BLOCK, min(settings.count, (block + 1) * BLOCK)):
            name = image_id(settings, number)
            canvas, objects = compose(settings, number)
            _replace(Path(server.image(name)), _encoded(canvas, "JPEG", quality=95, subsampling=0))
            boxes, masks, files = _rows(name, objects)
            lines.append({"boxes": boxes, "masks": masks})
            for file, item in zip(files, objects, strict=True):
                _add(zipped, file, _encoded(item.mask, "PNG"))
        _add(zipped, "lines.json", json.dumps(lines).encode())
    _replace(archive, buffer.getvalue())


def export(output: str | Path, settings: ExportSettings, workers: int = 2) -> Path:
    """Write an export; an interrupted one is continued, a complete one is left alone.

    Args:
        output: folder; it may already hold the other split.
        settings: what to write.
        workers: processes.

    Returns:
        The folder.

    Raises:
        ValueError: if ``workers`` is below 1, or the folder holds this split of an export with other settings.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1.")
    output, split = Path(output), SPLITS[settings.split]
    server = OpenImagesServer.mirror(str(output), split)
    manifest = output / "v5" / f"{split}-export.json"
    wanted = json.dumps(asdict(settings), indent=2) + "\n"
    if manifest.is_file() and manifest.read_text(encoding="utf-8") != wanted:
        raise ValueError(f"output {output} holds an export of {split!r} with other settings; give another folder.")
    if Path(server.boxes).is_file() and manifest.is_file():
        return output
    _replace(manifest, wanted.encode())  # first, so that no other settings are mixed in
    parts = output / "v5" / f".{split}-parts"
    blocks = range(-(-settings.count // BLOCK))
    if workers == 1:
        for block in blocks:
            render_block(output, parts, settings, block)
    else:
        with ProcessPoolExecutor(workers) as pool:
            for job in [pool.submit(render_block, output, parts, settings, block) for block in blocks]:
                job.result()
    _merge(server, parts)
    shutil.rmtree(parts)
    return output


def _merge(server: OpenImagesServer, parts: Path) -> None:
    """Sort the blocks' masks into the sixteen archives, and their lines into the tables; the box table comes last."""
    boxes, masks = [], []
    files: dict[str, dict[str, bytes]] = defaultdict(dict)
    for archive in sorted(parts.glob("*.zip")):
        with zipfile.ZipFile(archive) as zipped:
            for line in json.loads(zipped.read("lines.json")):
                boxes += line["boxes"]
                masks += line["masks"]
            for name in zipped.namelist():
                if name.endswith(".png"):
                    files[name[0]][name] = zipped.read(name)
    for digit in HEX_DIGITS:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as zipped:
            for name in sorted(files[digit]):
                _add(zipped, name, files[digit][name])
        _replace(Path(server.mask_archive(digit)), buffer.getvalue())
    _replace(Path(server.classes), _table([[label, name.capitalize()] for name, label in LABELS.items()]))
    _replace(Path(server.masks), _table([MASK_HEAD, *sorted(masks)]))
    _replace(Path(server.boxes), _table([BOX_HEAD, *sorted(boxes)]))


def training_folder(output: str | Path, folder: str | Path, split: str = "train") -> OpenImagesFolder:
    """Make an export ready for training: what a download of all of it would leave.

    Args:
        output: the export.
        folder: the training folder; pictures and masks already in it are kept, tables that differ are replaced.
        split: the world's word, "train" or "validation".

    Returns:
        The folder, for ``elite.data.index``.

    Raises:
        FileNotFoundError: if the export is not complete.
    """
    return unpack_export(output, folder, SPLITS[split])


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _add(zipped: zipfile.ZipFile, name: str, content: bytes) -> None:
    zipped.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), content)  # the same bytes at any hour


def _table(lines: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def _replace(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


app = typer.Typer(add_completion=False)


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="Folder of the export.")],
    count: Annotated[int, typer.Option(help="Pictures.")] = 6_000,
    split: Annotated[str, typer.Option(help="train or validation.")] = "train",
    classes: Annotated[str, typer.Option(help="v0 (twelve classes) or all.")] = "all",
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    size: Annotated[int, typer.Option(help="Side of a subject's picture in pixels.")] = 96,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    folder: Annotated[Path | None, typer.Option(help="Also unpack it here, ready for training.")] = None,
) -> None:
    """Write the toybox world in Open Images' layout."""
    chosen = {"v0": world.V0_CLASSES, "all": world.CLASSES}.get(classes)
    if chosen is None:
        raise typer.BadParameter(f"classes is {classes!r}; use v0 or all.")
    try:
        export(output, ExportSettings(count, split, chosen, seed, size), workers)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(f"{count:,} pictures of the world's {split} split in {output}")
    if folder is not None:
        training_folder(output, folder, split)
        typer.echo(f"ready for training in {folder}")


if __name__ == "__main__":
    app()
