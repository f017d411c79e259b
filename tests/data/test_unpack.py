"""An export on this machine gives the same training folder as a download of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from elite.data.index import index_boxes, index_masks
from elite.data.unpack import unpack_export


def test_an_export_is_unpacked_into_what_a_download_leaves(server, subset, tmp_path):
    folder = unpack_export(server.root, tmp_path / "unpacked")
    for theirs in ("images_dir", "masks_dir"):
        expected = {p.name: p.read_bytes() for p in getattr(subset, theirs).iterdir()}
        got = {p.name: p.read_bytes() for p in getattr(folder, theirs).iterdir() if "not_wanted" not in p.name}
        assert got == expected
    assert index_boxes(folder).frame.equals(index_boxes(subset).frame)
    assert index_masks(folder, resolution=64).frame.equals(index_masks(subset, resolution=64).frame)


def test_a_larger_export_adds_its_rows_and_keeps_what_was_there(server, subset, tmp_path):
    small = Path(shutil.copytree(server.root, tmp_path / "small"))
    for table in small.glob("v5/test-*.csv"):
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:7]))
    for picture in sorted((small / "test").iterdir())[6:]:
        picture.unlink()
        (small / f"v5/test-masks/test-masks-{picture.name[0]}.zip").unlink()
    folder = unpack_export(small, tmp_path / "unpacked")
    before = list(folder.masks_dir.iterdir()) + list(folder.images_dir.iterdir()) + [folder.classes]
    for path in before:
        os.utime(path, (1e9, 1e9))
    assert (len(index_boxes(folder)), len(index_masks(folder, resolution=64))) == (6, 6)
    unpack_export(server.root, folder.root)
    assert index_boxes(folder).frame.equals(index_boxes(subset).frame)
    assert index_masks(folder, resolution=64).frame.equals(index_masks(subset, resolution=64).frame)
    assert {path.stat().st_mtime for path in before} == {1e9}
    assert not list(folder.root.rglob("*.part"))


def test_unpacking_again_writes_nothing(server, tmp_path):
    folder = unpack_export(server.root, tmp_path / "unpacked")
    files = [path for path in folder.root.rglob("*") if path.is_file()]
    for path in files:
        os.utime(path, (1e9, 1e9))
    unpack_export(server.root, folder.root)
    assert {path.stat().st_mtime for path in files} == {1e9}


def test_a_folder_that_is_no_export_is_refused_before_anything_is_written(server, tmp_path):
    table = server.root / "v5/test-annotations-bbox.csv"
    table.write_text("something,else\n")
    with pytest.raises(ValueError, match="no column ImageID"):
        unpack_export(server.root, tmp_path / "unpacked")
    table.unlink()
    with pytest.raises(FileNotFoundError, match="bbox"):
        unpack_export(server.root, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_the_command_line_stays_light():
    code = "import sys, elite.cli.download; print(sorted({'torch', 'polars', 'requests', 'PIL'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
