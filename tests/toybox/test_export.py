"""The export of the toybox world: Open Images' layout, read back by the reader of the real thing."""

from __future__ import annotations

import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from elite.data.download import download_open_images
from elite.data.index import index_boxes, index_masks
from elite.data.layout import OpenImagesFolder, OpenImagesServer
from elite.data.samples import GlobalSamples, LocalSamples, SampleSettings
from elite.toybox import export as exporting
from elite.toybox import world
from elite.toybox.export import ExportSettings, app, compose, export, image_id, training_folder

SETTINGS = ExportSettings(count=30, seed=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("toybox") / "export", SETTINGS, workers=1)


@pytest.fixture(scope="module")
def folder(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenImagesFolder:
    return training_folder(exported, tmp_path_factory.mktemp("training"))


def test_the_layout_is_that_of_open_images(exported):
    names = set(contents(exported))
    pictures = {name for name in names if name.endswith(".jpg")}
    assert pictures == {f"test/{image_id(SETTINGS, number)}.jpg" for number in range(30)}
    assert {f"v5/test-masks/test-masks-{digit}.zip" for digit in "0123456789abcdef"} <= names
    for name in names:
        assert not Path(name).name.startswith("."), "nothing unfinished stays behind"
    for digit in "0123456789abcdef":
        with zipfile.ZipFile(exported / f"v5/test-masks/test-masks-{digit}.zip") as zipped:
            assert all(member[0] == digit and "/" not in member for member in zipped.namelist())


def test_pictures_are_stored_with_full_colour_resolution(exported):
    with Image.open(next((exported / "test").glob("*.jpg"))) as picture:
        assert [component[1:3] for component in picture.layer] == [(1, 1)] * 3  # 4:4:4


def test_what_is_read_back_is_what_was_drawn(folder):
    table = pl.read_csv(folder.masks)
    for number in range(12):
        canvas, objects = compose(SETTINGS, number)
        name = image_id(SETTINGS, number)
        stored = np.asarray(Image.open(folder.image(name)), np.float32)
        assert np.abs(stored - np.asarray(canvas, np.float32)).mean() < 4
        rows = table.filter(pl.col("ImageID") == name)
        masks = sorted(np.asarray(Image.open(folder.mask(path)), bool).tobytes() for path in rows["MaskPath"])
        assert masks == sorted(np.asarray(item.mask, bool).tobytes() for item in objects)


def test_every_box_holds_its_mask_and_touches_it(folder):
    table = pl.read_csv(folder.masks)
    assert table.height == pl.read_csv(folder.boxes).height > 30
    for row in table.iter_rows(named=True):
        mask = np.asarray(Image.open(folder.mask(row["MaskPath"])), bool)
        height, width = mask.shape
        x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        for low, high, first, last, side in (
            (row["BoxXMin"], row["BoxXMax"], x[0], x[-1] + 1, width),
            (row["BoxYMin"], row["BoxYMax"], y[0], y[-1] + 1, height),
        ):
            assert 0 <= low <= first / side < last / side <= high <= 1
            assert first / side - low < 0.02 and high - last / side < 0.02


def test_masks_have_another_size_than_their_picture(folder):
    table = pl.read_csv(folder.masks)
    for row in table.iter_rows(named=True):
        assert Image.open(folder.mask(row["MaskPath"])).size != Image.open(folder.image(row["ImageID"])).size


def test_some_pictures_show_several_subjects_and_most_show_one(folder):
    counts = pl.read_csv(folder.boxes).group_by("ImageID").len()["len"].to_list()
    assert max(counts) > 1 and sum(count == 1 for count in counts) > len(counts) / 2


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_processes(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "BLOCK", 7)
    assert contents(export(tmp_path / "two", SETTINGS, workers=2)) == contents(exported)
    assert image_id(SETTINGS, 0) != image_id(replace(SETTINGS, seed=4), 0)


def test_an_interrupted_export_continues_and_a_complete_one_is_left_alone(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "BLOCK", 10)
    drawn, real = [], exporting.compose

    def failing(settings: ExportSettings, number: int):
        if number == 25 and 25 not in drawn:
            drawn.append(number)
            raise KeyboardInterrupt
        drawn.append(number)
        return real(settings, number)

    monkeypatch.setattr(exporting, "compose", failing)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "cut", SETTINGS, workers=1)
    assert not (tmp_path / "cut/v5/test-annotations-bbox.csv").exists()
    del drawn[:-1]
    assert contents(export(tmp_path / "cut", SETTINGS, workers=1)) == contents(exported)
    assert drawn == [25, *range(20, 30)]
    export(tmp_path / "cut", SETTINGS, workers=1)
    assert len(drawn) == 11


def test_other_settings_are_not_mixed_into_a_folder(exported):
    with pytest.raises(ValueError, match="other settings"):
        export(exported, replace(SETTINGS, count=31), workers=1)


def test_both_stages_can_make_their_samples(folder):
    settings = SampleSettings(64, 64, 4)
    boxes, masks = index_boxes(folder), index_masks(folder, resolution=64)
    assert len(boxes) > 20 and len(masks) > 20
    assert set(boxes.frame["class_name"]) <= {name.capitalize() for name in world.CLASSES}
    stage_one, stage_two = GlobalSamples(boxes, folder, settings), LocalSamples(masks, folder, settings)
    for number in range(len(masks)):
        sample = stage_two[number]
        assert sample["pixel_values"].shape == (3, 64, 64) and sample["loss_mask"].shape == (1, 16, 16)
        assert sample["mask"].any() and sample["skipped"] == 0
    assert all(stage_one[number]["skipped"] == 0 for number in range(len(boxes)))


def test_the_downloader_takes_the_export_for_open_images(exported, folder, tmp_path):
    handler = partial(QuietHandler, directory=str(exported))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = OpenImagesServer.mirror(f"http://127.0.0.1:{server.server_port}")
        report = download_open_images(tmp_path / "subset", limit=100, server=mirror, threads=4, progress=False)
        server.shutdown()
    assert report.downloaded == 30 and not report.failed and not report.missing
    downloaded = OpenImagesFolder(tmp_path / "subset")
    for part in ("images_dir", "masks_dir"):
        assert contents(getattr(downloaded, part)) == contents(getattr(folder, part))
    for index in (index_boxes, partial(index_masks, resolution=64)):
        assert index(downloaded, cache=False).frame.equals(index(folder, cache=False).frame)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Requests are not what the test prints."""


def test_nothing_held_out_is_exported():
    rendered = []

    def watch(seed: int, *arguments: object):
        rendered.append(real(seed, *arguments))
        return rendered[-1]

    real = world.sample_picture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "sample_picture", watch)
        for number in range(60):
            compose(SETTINGS, number)
    assert len(rendered) > 60
    for picture in rendered:
        assert picture.subject not in world.EVALUATION_SUBJECTS
        assert (picture.class_name, picture.scene) not in world.HELD_OUT_PAIRS


def test_the_size_of_a_picture_does_not_change_what_it_shows():
    small, large = world.sample_picture(11), world.sample_picture(11, size=96)
    assert small.facts() == large.facts() and small.subject == large.subject and large.image.size == (96, 96)
    assert np.abs(np.subtract(small.box, large.box)).max() < 0.04


@pytest.mark.parametrize(
    ("change", "message"),
    [({"split": "test"}, "split"), ({"count": 0}, "count"), ({"classes": ("cow",)}, "classes"), ({"size": 32}, "size")],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ExportSettings(**{"count": 1, **change})


def test_the_program_exports_and_unpacks(tmp_path):
    options = ["--count", "3", "--split", "validation", "--classes", "v0", "--workers", "1"]
    answer = CliRunner().invoke(
        app, ["--output", str(tmp_path / "export"), "--folder", str(tmp_path / "ready"), *options]
    )
    assert answer.exit_code == 0, answer.output
    assert len(list((tmp_path / "ready/images/validation").glob("*.jpg"))) == 3
    refused = CliRunner().invoke(app, ["--output", str(tmp_path / "export"), "--count", "4", "--split", "validation"])
    assert refused.exit_code == 2 and "other settings" in " ".join(refused.output.replace("│", " ").split())
