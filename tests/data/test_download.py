"""The downloader against a server that is slow, forgetful, or gone in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from elite.cli.download import app
from elite.data.download import DownloadStoppedError, choose_images, download_open_images, extract_masks, verify_zip
from elite.data.fetch import CHUNK, Fetcher, FetchError, NotOnServerError
from elite.data.layout import OpenImagesFolder, OpenImagesServer

BOXES, CLASS_TABLE = "v5/test-annotations-bbox.csv", "v5/class-descriptions-boxable.csv"


def run(server, output: Path, **options):
    options = {"limit": 100, "fetcher": Fetcher(attempts=3, backoff=0.01, timeout=5), **options}
    return download_open_images(
        output, server=OpenImagesServer.mirror(server.url), threads=4, progress=False, **options
    )


def image_path(server, number: int) -> str:
    return "test/" + sorted(p.name for p in (server.root / "test").iterdir())[number]


def accept(path: Path) -> None:
    """A check that everything passes."""


def test_everything_arrives_byte_for_byte(server, tmp_path):
    report = run(server, tmp_path / "out")
    folder = OpenImagesFolder(tmp_path / "out")
    assert (report.chosen, report.downloaded, report.masks) == (12, 12, 12)
    assert folder.boxes.read_bytes() == (server.root / BOXES).read_bytes()
    for path in (server.root / "test").iterdir():
        assert folder.image(path.stem).read_bytes() == path.read_bytes()
    for mask in folder.masks_dir.iterdir():
        archive = server.root / f"v5/test-masks/test-masks-{mask.name[0]}.zip"
        with zipfile.ZipFile(archive) as zipped:
            assert zipped.read(mask.name) == mask.read_bytes()
    assert json.loads((tmp_path / "out/download.json").read_text())["chosen"] == 12


def test_only_what_the_subset_needs_is_asked_for(server, tmp_path):
    report = run(server, tmp_path / "out", limit=2, classes=["cat"])
    asked = {p for p in server.requests if p.startswith("test/")}
    archives = {p for p in server.requests if p.endswith(".zip")}
    masks = {p.name for p in OpenImagesFolder(tmp_path / "out").masks_dir.iterdir()}
    assert (report.chosen, report.masks) == (2, 2)
    assert asked == {image_path(server, 1), image_path(server, 3)}  # every second picture is a cat
    assert archives == {f"v5/test-masks/test-masks-{p[5]}.zip" for p in asked}
    assert {m[:16] for m in masks} == {p[5:21] for p in asked}


def test_pictures_are_chosen_from_tables_that_turn_strange_late(server, tmp_path):
    """Ids of digits alone, and numbers that are none behind the rows that types would be guessed from."""
    folder = OpenImagesFolder(tmp_path)
    folder.boxes.parent.mkdir()
    ids = [f"{i:016d}" for i in range(200)] + ["f" * 16]
    box = {i: "0.1,0.5,0.1,0.5" for i in ids} | {ids[150]: "n/a,0.5,0.1,0.5"}
    folder.boxes.write_text("ImageID,LabelName,XMin,XMax,YMin,YMax\n" + "".join(f"{i},/m/dog,{box[i]}\n" for i in ids))
    folder.masks.write_text("MaskPath,ImageID,LabelName\n" + "".join(f"{i}.png,{i},/m/dog\n" for i in ids))
    assert choose_images(folder, 1000) == ids[:150] + ids[151:]


def test_a_second_call_downloads_nothing(server, tmp_path):
    run(server, tmp_path / "out")
    server.requests.clear()
    report = run(server, tmp_path / "out")
    assert not server.requests
    assert (report.present, report.downloaded, report.masks) == (12, 0, 12)


def test_pictures_missing_on_the_server_are_skipped_and_named(server, tmp_path):
    gone = image_path(server, 4)
    (server.root / gone).unlink()
    report = run(server, tmp_path / "out")
    assert report.missing == [Path(gone).stem]
    assert report.downloaded == 11 and report.masks == 11 and not report.failed
    assert server.requests[gone] == 1  # a plain "no" is not asked again


def test_passing_faults_are_overcome(server, tmp_path):
    server.faults[image_path(server, 0)] += [500, 503]
    server.faults[image_path(server, 1)] += [("cut", 700), ("cut", 5)]
    server.faults[image_path(server, 2)] += [("slow", 0.6)]
    server.faults[image_path(server, 3)] += [("junk", 500)]  # complete, but no JPEG
    server.faults[CLASS_TABLE] += [("junk", 30)]
    server.faults[BOXES] += [("flip", 400)]  # the right columns and length, a wrong number
    server.faults["v5/test-masks/test-masks-0.zip"] += [("cut", 100), ("junk", 50)]
    report = run(server, tmp_path / "out", fetcher=Fetcher(attempts=3, backoff=0.01, timeout=0.3))
    assert report.downloaded == 12 and report.masks == 12 and not report.failed
    assert OpenImagesFolder(tmp_path / "out").boxes.read_bytes() == (server.root / BOXES).read_bytes()
    for path in (server.root / "test").iterdir():
        assert OpenImagesFolder(tmp_path / "out").image(path.stem).read_bytes() == path.read_bytes()
    assert not list((tmp_path / "out").rglob("*.part*"))


def test_a_lasting_fault_is_reported_and_mended_by_the_next_call(server, tmp_path):
    bad = image_path(server, 5)
    server.faults[bad] += [500] * 3
    report = run(server, tmp_path / "out")
    assert list(report.failed) == [Path(bad).stem] and "500" in report.failed[Path(bad).stem]
    assert report.downloaded == 11
    assert run(server, tmp_path / "out").downloaded == 1


def test_a_dead_server_stops_the_run_early(server, tmp_path):
    for number in range(12):
        server.faults[image_path(server, number)] += [500] * 50
    with pytest.raises(DownloadStoppedError, match="too many pictures failed"):
        run(server, tmp_path / "out")
    assert sum(n for p, n in server.requests.items() if p.startswith("test/")) < 12 * 3


def test_a_large_file_continues_at_the_byte_where_it_was_cut(server, tmp_path):
    (server.root / "large.bin").write_bytes(os.urandom(300_000))
    server.faults["large.bin"] += [("cut", 200_000)]
    Fetcher(attempts=2, backoff=0).fetch(f"{server.url}/large.bin", tmp_path / "large.bin", accept)
    assert (tmp_path / "large.bin").read_bytes() == (server.root / "large.bin").read_bytes()
    assert server.sent["large.bin"] <= 300_000 + CHUNK  # at most the chunk in hand was sent twice


def test_many_cuts_are_survived_as_long_as_each_attempt_gets_further(server, tmp_path):
    (server.root / "large.bin").write_bytes(os.urandom(200_000))
    server.faults["large.bin"] += [("cut", 30_000)] * 9
    Fetcher(attempts=2, backoff=0).fetch(f"{server.url}/large.bin", tmp_path / "large.bin", accept)
    assert (tmp_path / "large.bin").read_bytes() == (server.root / "large.bin").read_bytes()


def test_a_download_begun_anew_may_be_cut_as_often_as_the_first(server, tmp_path):
    """What was thrown away is no longer the measure of getting further."""
    (server.root / "large.bin").write_bytes(os.urandom(200_000))
    server.faults["large.bin"] += [("cut", 180_000), 416] + [("cut", 30_000)] * 6
    Fetcher(attempts=3, backoff=0).fetch(f"{server.url}/large.bin", tmp_path / "large.bin", accept)
    assert (tmp_path / "large.bin").read_bytes() == (server.root / "large.bin").read_bytes()


def test_a_server_that_cuts_and_never_continues_is_given_up(server, tmp_path):
    (server.root / "large.bin").write_bytes(os.urandom(200_000))
    server.faults["large.bin"] += [("cut", 30_000), 416] * 20
    with pytest.raises(FetchError, match="failed 3 times"):
        Fetcher(attempts=3, backoff=0).fetch(f"{server.url}/large.bin", tmp_path / "large.bin", accept)
    assert server.requests["large.bin"] <= 2 * 3


def killed(path: Path) -> None:
    raise KeyboardInterrupt


def test_a_file_killed_before_its_rename_is_kept_and_verified(server, tmp_path):
    (server.root / "large.bin").write_bytes(os.urandom(50_000))
    url, path, checked = f"{server.url}/large.bin", tmp_path / "large.bin", []
    with pytest.raises(KeyboardInterrupt):
        Fetcher().fetch(url, path, killed)
    assert not path.exists()
    Fetcher(attempts=1).fetch(url, path, lambda part: checked.append(part.read_bytes()))
    assert [path.read_bytes()] == checked == [(server.root / "large.bin").read_bytes()]
    assert server.sent["large.bin"] == 50_000  # no byte twice
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("change", ["byte", "size"])
def test_a_file_killed_before_its_rename_and_damaged_is_fetched_again(server, tmp_path, change):
    (server.root / "v5/large.bin").write_bytes(os.urandom(50_000))  # the answers below v5 announce an MD5
    url, path = f"{server.url}/v5/large.bin", tmp_path / "large.bin"
    with pytest.raises(KeyboardInterrupt):
        Fetcher().fetch(url, path, killed)
    part = bytearray((tmp_path / "large.bin.part").read_bytes())
    part[700] ^= 1
    (tmp_path / "large.bin.part").write_bytes(part + bytes(change == "size"))
    Fetcher(attempts=2, backoff=0).fetch(url, path, accept)
    assert path.read_bytes() == (server.root / "v5/large.bin").read_bytes()
    assert server.sent["v5/large.bin"] == 100_000


def test_a_file_that_changed_on_the_server_is_not_glued_to_its_old_beginning(server, tmp_path):
    (server.root / "large.bin").write_bytes(b"a" * 50_000)
    server.faults["large.bin"] += [("cut", 20_000)]
    with pytest.raises(FetchError):
        Fetcher(attempts=1).fetch(f"{server.url}/large.bin", tmp_path / "large.bin", accept)
    assert 0 < (tmp_path / "large.bin.part").stat().st_size <= 20_000
    (server.root / "large.bin").write_bytes(b"b" * 60_000)
    Fetcher(attempts=1).fetch(f"{server.url}/large.bin", tmp_path / "large.bin", accept)
    assert (tmp_path / "large.bin").read_bytes() == b"b" * 60_000


def test_a_server_without_ranges_is_served_from_the_start(server, tmp_path):
    (server.root / "large.bin").write_bytes(os.urandom(50_000))
    server.ranges = False
    server.faults["large.bin"] += [("cut", 20_000)]
    Fetcher(attempts=3, backoff=0).fetch(f"{server.url}/large.bin", tmp_path / "large.bin", accept)
    assert (tmp_path / "large.bin").read_bytes() == (server.root / "large.bin").read_bytes()


def test_answers_that_will_not_change_are_not_asked_again(server, tmp_path):
    server.faults["x"] += [403]
    with pytest.raises(FetchError, match="403"):
        Fetcher(backoff=0).fetch(f"{server.url}/x", tmp_path / "x", accept)
    with pytest.raises(NotOnServerError):
        Fetcher(backoff=0).fetch(f"{server.url}/y", tmp_path / "y", accept)
    assert server.requests == {"x": 1, "y": 1}


def test_a_killed_download_continues(server, tmp_path):
    """SIGKILL in the middle of an archive: the finished files stay, and the archive goes on from its part."""
    name = "v5/test-masks/test-masks-0.zip"
    with zipfile.ZipFile(server.root / name, "a") as zipped:
        zipped.writestr("filler.bin", os.urandom(1_000_000))
    size = (server.root / name).stat().st_size
    server.faults[name] += [("drip", 0.01)]
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from elite.cli.download import app; app()", "open-images"]
    command += ["--output", str(out), "--base-url", server.url, "--no-progress"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    part = OpenImagesFolder(out).mask_archive("0").with_suffix(".zip.part")
    limit = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 100_000) and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    assert 100_000 < kept < size
    server.requests.clear()
    server.sent = Counter()
    report = run(server, out)
    assert report.present == 12 and report.masks == 12
    assert not any(p.startswith("test/") for p in server.requests)
    assert server.sent[name] == size - kept


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_damaged_inside_is_fetched_again(server, tmp_path, compression):
    name = "v5/test-masks/test-masks-0.zip"
    with zipfile.ZipFile(server.root / name) as zipped:
        members = {member: zipped.read(member) for member in zipped.namelist()}
    with zipfile.ZipFile(server.root / name, "w", compression) as zipped:
        for member, content in members.items():
            zipped.writestr(member, content)
    sound = (server.root / name).read_bytes()
    inside = 30 + len(next(iter(members)))  # the first byte behind the first member's head
    out = OpenImagesFolder(tmp_path / "out")
    out.mask_archive("0").parent.mkdir(parents=True)
    damaged = bytearray(sound)
    damaged[inside] |= 0b110  # to the decompressor: a block of no known kind
    out.mask_archive("0").write_bytes(bytes(damaged))
    report = run(server, out.root)
    assert report.masks == 12 and not report.failed
    assert server.requests[name] == 1


@pytest.mark.parametrize("flip", [0x01, 0x06, 0x80, 0xFF])
def test_whatever_byte_of_an_archive_is_damaged_it_is_called_damaged(tmp_path, flip):
    with zipfile.ZipFile(tmp_path / "sound.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("mask.png", bytes(range(60)) + bytes(90))
    sound, seen = (tmp_path / "sound.zip").read_bytes(), Counter()
    for place in range(len(sound) - 22):  # up to the end record, which only says where the directory lies
        damaged = bytearray(sound)
        damaged[place] ^= flip
        (tmp_path / "damaged.zip").write_bytes(damaged)
        try:  # a byte that nothing is read by does no harm
            verify_zip(tmp_path / "damaged.zip")
            extract_masks(tmp_path / "damaged.zip", ["mask.png"], tmp_path / f"masks{place}")
        except (zipfile.BadZipFile, ValueError) as error:
            seen[type(error)] += 1
    assert set(seen) == {zipfile.BadZipFile, ValueError}, "of the contents, and of the directory"
    for mask in tmp_path.glob("masks*/mask.png"):
        assert mask.read_bytes() == bytes(range(60)) + bytes(90)


def test_archives_go_away_when_they_are_not_wanted(server, tmp_path):
    run(server, tmp_path / "out", keep_archives=False)
    assert not list((tmp_path / "out").rglob("*.zip"))
    server.requests.clear()
    run(server, tmp_path / "out", keep_archives=False)
    assert not server.requests


def test_two_downloads_do_not_share_a_folder(server, tmp_path):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out/.download.lock"), pytest.raises(RuntimeError, match="another process"):
        run(server, tmp_path / "out")
    assert not server.requests


def test_an_unknown_class_is_found_out_before_the_large_tables(server, tmp_path):
    with pytest.raises(ValueError, match=r"'Dogg'.*Dog"):
        run(server, tmp_path / "out", classes=["Dogg"])
    assert set(server.requests) == {CLASS_TABLE}


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("threads", 0)])
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, name, value):
    with pytest.raises(ValueError, match=name):
        download_open_images(tmp_path / "out", **{name: value})
    assert not (tmp_path / "out").exists()


def test_the_command_reports_and_fails_in_one_sentence(server, tmp_path):
    arguments = ["open-images", "--base-url", server.url, "--no-progress", "--output", str(tmp_path / "out")]
    good = CliRunner().invoke(app, [*arguments, "--limit", "3", "--classes", "Dog, Cat"])
    assert good.exit_code == 0 and "3 pictures chosen: 3 downloaded" in good.output
    bad = CliRunner().invoke(app, [*arguments, "--split", "train"])
    assert bad.exit_code == 2 and bad.output.startswith("error: split is 'train'")


def test_a_cmyk_or_truncated_picture_is_told_apart(tmp_path):
    from elite.data.download import verify_jpeg

    Image.new("CMYK", (30, 20)).save(tmp_path / "cmyk.jpg")
    verify_jpeg(tmp_path / "cmyk.jpg")
    Image.effect_noise((64, 64), 90).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="truncated"):
        verify_jpeg(tmp_path / "half.jpg")
