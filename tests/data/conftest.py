"""A tiny Open Images in the servers' layout, and a server that can be told to misbehave."""

from __future__ import annotations

import base64
import csv
import hashlib
import threading
import time
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from elite.data.layout import MASK_COLUMNS, OpenImagesFolder

CLASSES = {"/m/dog": "Dog", "/m/cat": "Cat"}


def write_export(root: Path, count: int = 12, size: tuple[int, int] = (96, 80), split: str = "test") -> list[str]:
    """``count`` pictures with one ellipse each, its box and its mask; returns the ids, sorted."""
    rng = np.random.default_rng(5)
    (root / "v5" / f"{split}-masks").mkdir(parents=True)
    (root / split).mkdir()
    boxes, masks = [], []
    archives: dict[str, list[tuple[str, Image.Image]]] = defaultdict(list)
    ids = [f"{i * 16 // count:x}{i:015x}" for i in range(count)]
    for number, image_id in enumerate(ids):
        label = list(CLASSES)[number % 2]
        width, height = size
        left, top = rng.uniform(0.1, 0.15, 2)  # between 43 and 62 px wide, 36 and 52 high
        right, bottom = rng.uniform(0.6, 0.75, 2)
        pixels = Image.fromarray(rng.integers(0, 60, (height, width, 3), dtype=np.uint8))
        corners = (left * width, top * height, right * width - 1, bottom * height - 1)
        ImageDraw.Draw(pixels).ellipse(corners, fill=(250, 200 - 10 * number, 40))
        pixels.save(root / split / f"{image_id}.jpg", quality=95)
        mask = Image.new("1", (width // 2, height // 2))  # half the picture's size, as real masks may be
        ImageDraw.Draw(mask).ellipse([c / 2 for c in corners], fill=1)
        name = f"{image_id}_{label.replace('/', '')}_{number:04x}.png"
        archives[image_id[0]].append((name, mask))
        boxes.append([image_id, "xclick", label, 1, left, right, top, bottom, 0, 0, 0, 0, 0])
        masks.append([name, image_id, label, number, left, right, top, bottom, 0.9, ""])
    head = ["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"]
    _write(root / f"v5/{split}-annotations-bbox.csv", [*head, *[f"Is{f}" for f in _FLAGS]], boxes)
    head = ["MaskPath", "ImageID", "LabelName", "BoxID", *MASK_COLUMNS[3:], "PredictedIoU", "Clicks"]
    _write(root / f"v5/{split}-annotations-object-segmentation.csv", head, masks)
    (root / "v5/class-descriptions-boxable.csv").write_text("".join(f"{k},{v}\n" for k, v in CLASSES.items()))
    for digit in "0123456789abcdef":
        with zipfile.ZipFile(root / f"v5/{split}-masks/{split}-masks-{digit}.zip", "w") as zipped:
            for name, mask in archives[digit]:
                with zipped.open(name, "w") as member:
                    mask.save(member, "PNG")
            zipped.writestr(f"{digit}_not_wanted.png", b"not asked for")
    return ids


_FLAGS = ("Occluded", "Truncated", "GroupOf", "Depiction", "Inside")


def _write(path: Path, head: list[str], rows: list[list]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


@dataclass
class Server:
    """``faults[path]`` is used up one a request: a status, ("slow", seconds), ("cut", bytes), ("junk", bytes), or
    ("flip", position): one byte of the file is another."""

    root: Path
    url: str = ""
    ranges: bool = True
    faults: dict[str, list] = field(default_factory=lambda: defaultdict(list))
    requests: Counter = field(default_factory=Counter)
    sent: Counter = field(default_factory=Counter)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes: no waiting in between

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            server.requests[path] += 1
            sent = server.sent  # a test that begins a new count must not be told of what this request still sends
            fault = server.faults[path].pop(0) if server.faults[path] else None
            file = server.root / path
            if isinstance(fault, int) or not file.is_file():
                self.send_response(fault if isinstance(fault, int) else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            kind, amount = fault or ("", 0)
            data = file.read_bytes()
            tag = f'"{len(data)}-{file.stat().st_mtime_ns}"'
            start = 0
            asked = self.headers.get("Range")
            if asked and server.ranges and self.headers.get("If-Range") == tag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start and start >= len(data):  # nothing is left to send
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "7")
                self.end_headers()
                self.wfile.write(b"refused")
                return
            if start:
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            body = data[start:] if kind != "junk" else bytes(amount)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", tag)
            if path.startswith("v5/"):  # as Google's servers do; the pictures' server announces none
                md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
                self.send_header("x-goog-hash", "crc32c=n03x6A==")
                self.send_header("x-goog-hash", f"md5={md5}")
            self.end_headers()
            if kind == "flip":
                body = bytes(byte ^ (place == amount) for place, byte in enumerate(body))
            if kind == "slow":
                time.sleep(amount)
            body = body[:amount] if kind == "cut" else body
            try:
                for offset in range(0, len(body), 4096):
                    self.wfile.write(body[offset : offset + 4096])
                    sent[path] += len(body[offset : offset + 4096])
                    if kind == "drip":
                        time.sleep(amount)
            except OSError:  # the client has gone, as it does in the tests of timeouts and kills
                pass
            if kind in ("cut", "slow"):
                self.close_connection = True

    return Handler


@pytest.fixture
def server(tmp_path: Path):
    """A running server of a fresh export of twelve pictures."""
    root = tmp_path / "export"
    root.mkdir()
    write_export(root)
    state = Server(root)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield state
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(scope="session")
def _subset(tmp_path_factory: pytest.TempPathFactory) -> OpenImagesFolder:
    """What a download of the export leaves, made without the downloader."""
    export, root = tmp_path_factory.mktemp("export"), tmp_path_factory.mktemp("subset")
    write_export(export)
    folder = OpenImagesFolder(root)
    for path in (folder.images_dir, folder.masks_dir, folder.boxes.parent):
        path.mkdir(parents=True)
    for path in (export / "v5").glob("*.csv"):
        (root / "annotations" / path.name).write_bytes(path.read_bytes())
    for path in (export / "test").iterdir():
        folder.image(path.stem).write_bytes(path.read_bytes())
    for archive in (export / "v5/test-masks").iterdir():
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder.masks_dir, [n for n in zipped.namelist() if "not_wanted" not in n])
    return folder


@pytest.fixture
def subset(_subset: OpenImagesFolder, tmp_path: Path) -> OpenImagesFolder:
    """A private copy of the twelve pictures, so that a test may damage it."""
    import shutil

    shutil.copytree(_subset.root, tmp_path / "subset")
    return OpenImagesFolder(tmp_path / "subset")
