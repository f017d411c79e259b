"""Renders the pictures of the world once, to disk, on all cores, beside the training that has begun on the first ones.

A set of N pictures is ``NAME-images.npy`` (N, size, size, 3) and ``NAME-masks.npy`` (N, size, size), both uint8, and a
folder ``NAME-facts/`` with one JSON file for each chunk of rows. A chunk's file is written last: what has one is whole,
and a call that was stopped goes on with the chunks that have none.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from elite.toybox import world
from elite.toybox.world import COLORS, Picture

CHUNK = 200  # pictures
ACCESSORY_SHARE = 0.35  # of second views; first views are drawn by `world.sample_picture`
CLOSE_UP_SHARE = 0.15


class PictureSet:
    """A set of rendered pictures on disk, whole or still growing.

    Args:
        folder: of the set's files.
        name: of the set.
        count: pictures.
        size: their side in pixels.
        split: of the world, "train" or "validation".
        pairs: whether rows 2 i and 2 i + 1 show one subject; otherwise every row has a subject of its own.
    """

    def __init__(self, folder: Path, name: str, count: int, size: int, split: str, pairs: bool = True) -> None:
        self.folder, self.name, self.count, self.size = Path(folder), name, count, size
        self.split, self.pairs = split, pairs
        self.facts_folder = self.folder / f"{name}-facts"
        self._whole = 0

    @property
    def spec(self) -> list[Any]:
        """The arguments that make this set again."""
        return [str(self.folder), self.name, self.count, self.size, self.split, self.pairs]

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """First row and number of rows of each chunk."""
        return [(first, min(CHUNK, self.count - first)) for first in range(0, self.count, CHUNK)]

    def prepare(self) -> None:
        """Make the empty arrays, where there are none of this shape."""
        self.facts_folder.mkdir(parents=True, exist_ok=True)
        for path, shape in self._arrays().items():
            if path.exists() and np.load(path, mmap_mode="r").shape == shape:
                continue
            for chunk in self.facts_folder.glob("*.json"):
                chunk.unlink()
            np.lib.format.open_memmap(path, "w+", np.uint8, shape).flush()

    def _arrays(self) -> dict[Path, tuple[int, ...]]:
        square = (self.count, self.size, self.size)
        return {
            self.folder / f"{self.name}-images.npy": (*square, 3),
            self.folder / f"{self.name}-masks.npy": square,
        }

    def open(self, mode: str = "c") -> tuple[np.ndarray, np.ndarray]:
        """Pictures and masks, mapped; what is changed in them stays in memory unless ``mode`` is "r+"."""
        images, masks = (np.load(path, mmap_mode=mode) for path in self._arrays())
        return images, masks

    def missing(self) -> list[tuple[int, int]]:
        """The chunks that are not rendered yet."""
        return [chunk for chunk in self.chunks if not self._facts_of(chunk[0]).exists()]

    def whole(self) -> int:
        """How many rows from the first one on are rendered."""
        while self._whole < self.count and self._facts_of(self._whole).exists():
            self._whole = min(self.count, self._whole + CHUNK)
        return self._whole

    def wait(self, rows: int | None = None) -> int:
        """Wait until so many rows are there, all when left out; returns how many are."""
        wanted = self.count if rows is None else min(rows, self.count)
        while self.whole() < wanted:
            time.sleep(0.1)
        return self._whole

    def facts(self) -> list[dict[str, Any]]:
        """What each picture shows: `FACTS`, "seed", "subject", "box", and "portrait" (see `portrait`)."""
        self.wait()
        return [f for first, _ in self.chunks for f in json.loads(self._facts_of(first).read_text(encoding="utf-8"))]

    def _facts_of(self, first: int) -> Path:
        return self.facts_folder / f"{first:07d}.json"

    def render(self, chunk: tuple[int, int]) -> None:
        """Render one chunk."""
        first, count = chunk
        images, masks = self.open("r+")
        facts = []
        for row in range(first, first + count):
            picture, seed = self._picture(row)
            images[row], masks[row] = np.asarray(picture.image), np.asarray(picture.mask)
            subject = f"{self.split}:{row // 2 if self.pairs else row}"
            facts.append(picture.facts() | {"seed": seed, "subject": subject, "box": picture.box}
                         | {"portrait": portrait(picture)})  # fmt: skip
        images.flush()
        masks.flush()
        temporary = self.facts_folder / f".{first}.{os.getpid()}"
        temporary.write_text(json.dumps(facts), encoding="utf-8")
        os.replace(temporary, self._facts_of(first))

    def _picture(self, row: int) -> tuple[Picture, str]:
        if not self.pairs:
            # Seeds of their own: what ELITE is trained on was not seen by the other parts.
            seed = 10_000_000 + row
            return world.sample_picture(seed, self.split, size=self.size), f"{self.split}:{seed}:0"
        seed = row // 2
        first = world.sample_picture(seed, self.split, size=self.size)
        if row % 2 == 0:
            return first, f"{self.split}:{seed}:0"
        return second_view(first, seed, self.split), f"{self.split}:{seed}:1"


def second_view(first: Picture, seed: int, split: str) -> Picture:
    """Another picture of the same subject, in another scene."""
    draw = random.Random(f"second view:{split}:{seed}")
    name = first.subject.class_name
    free = [s for s in world.SCENES if s != first.scene and (split != "train" or (name, s) not in world.HELD_OUT_PAIRS)]
    return world.render(
        first.subject,
        scene=draw.choice(free),
        accessory=draw.choice(world.ACCESSORIES) if draw.random() < ACCESSORY_SHARE else None,
        seed=draw.randrange(1 << 30),
        close_up=draw.random() < CLOSE_UP_SHARE,
        size=first.image.width,
    )


def portrait(picture: Picture) -> list[float]:
    """What makes a subject itself, as numbers in [0, 1]: both colours, the pattern (one-hot), its scale, proportions."""
    subject = picture.subject
    first = COLORS.get(picture.property, subject.first)
    pattern = [float(name == subject.pattern) for name in world.PATTERNS]
    numbers = [channel / 255 for channel in (*first, *subject.second)] + pattern
    return [round(value, 4) for value in (*numbers, subject.pattern_scale, *subject.proportions)]


def render_beside(sets: Sequence[PictureSet], processes: int) -> subprocess.Popen[bytes] | None:
    """Begin to render the missing chunks of some sets, in the order given, in processes that import nothing else."""
    for pictures in sets:
        pictures.prepare()
    jobs = [(pictures.spec, chunk) for pictures in sets for chunk in pictures.missing()]
    if not jobs:
        return None
    command = [sys.executable, "-m", "tools.toybox.rendering", str(processes)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    process.stdin.write(json.dumps(jobs).encode())
    process.stdin.close()
    atexit.register(process.terminate)
    return process


def _render(job: tuple[list[Any], list[int]]) -> None:
    spec, chunk = job
    PictureSet(*spec).render(tuple(chunk))


def main() -> None:
    """Render the jobs that come on the standard input."""
    jobs = json.load(sys.stdin)
    with multiprocessing.get_context("fork").Pool(int(sys.argv[1])) as pool:
        for _ in pool.imap(_render, jobs):
            pass


if __name__ == "__main__":
    main()
