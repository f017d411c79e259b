"""A folder in the servers' layout, such as an export of the toybox world, made ready for training without a network."""

from __future__ import annotations

import shutil
from pathlib import Path

from elite.data.download import extract_masks, table_verifier, verify_class_table
from elite.data.layout import BOX_COLUMNS, HEX_DIGITS, MASK_COLUMNS, OpenImagesFolder, OpenImagesServer
from elite.io.files import replacing


def unpack_export(export: str | Path, output: str | Path, split: str = "test") -> OpenImagesFolder:
    """Copy the tables and pictures of ``export`` and take its masks out of their archives.

    Args:
        export: folder with ``v5/<split>-annotations-bbox.csv``, ``v5/<split>-masks/…zip`` and ``<split>/….jpg``.
        output: the training folder; created if needed. Pictures and masks already in it are kept, a table
            that differs from the export's is replaced: a larger export has more rows.
        split: which split of the export.

    Returns:
        the training folder, as a download of the whole export would leave it.

    Raises:
        FileNotFoundError: ``export`` lacks a table or the pictures.
        ValueError: a table lacks a column, or an unknown split.
        zipfile.BadZipFile: a mask archive is damaged.
    """
    source = OpenImagesServer.mirror(str(export), split)  # the addresses, read as paths
    folder = OpenImagesFolder(Path(output), split)
    tables = [
        (source.boxes, folder.boxes, table_verifier(BOX_COLUMNS)),
        (source.masks, folder.masks, table_verifier(MASK_COLUMNS)),
        (source.classes, folder.classes, verify_class_table),
    ]
    pictures = Path(export) / split
    for path in [*(Path(origin) for origin, _, _ in tables), pictures]:
        if not path.exists():
            raise FileNotFoundError(f"export {export} has no {path}; it must have the layout of Open Images' servers.")
    for origin, _, verify in tables:
        verify(Path(origin))
    for origin, goal, _ in tables:
        if not goal.is_file() or goal.read_bytes() != Path(origin).read_bytes():
            _copy(Path(origin), goal)
    for path in sorted(pictures.glob("*.jpg")):
        if not folder.image(path.stem).is_file():
            _copy(path, folder.image(path.stem))
    for digit in HEX_DIGITS:
        archive = Path(source.mask_archive(digit))
        if archive.is_file():
            extract_masks(archive, None, folder.masks_dir)
    return folder


def _copy(origin: Path, goal: Path) -> None:
    with replacing(goal) as temporary:
        shutil.copyfile(origin, temporary)
