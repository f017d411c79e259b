"""Renders the training pictures once, to disk: arrays of pictures and masks, and one line of facts for each.

A folder holds ``images.npy`` (N, 64, 64, 3) uint8, ``masks.npy`` (N, 64, 64) uint8 and ``facts.jsonl``. It is written
in shards, so that an interrupted run continues where it was.
"""

from __future__ import annotations

import io
import json
import os
import random
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from elite.toybox import world
from elite.toybox.backbone_training import options

SHARD = 500  # pictures


class PictureSet:
    """Pictures read from a folder of shards without loading them all.

    Attributes:
        images: (N, 64, 64, 3) uint8.
        masks: (N, 64, 64) uint8, 255 on the subject.
        facts: N dictionaries: caption, class_name, scene, accessory, property, color, box, subject.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.shards = sorted(self.folder.glob("images-*.npy"))
        if not self.shards:
            raise FileNotFoundError(
                f"`folder` {self.folder} holds no rendered pictures (images-*.npy): "
                "run `python -m elite.toybox.backbone_training.pictures` first."
            )
        self.images = np.concatenate([np.load(shard, mmap_mode="r") for shard in self.shards])

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def masks(self) -> np.ndarray:
        return np.concatenate([np.load(self._beside(shard, "masks", "npy")) for shard in self.shards])

    @cached_property
    def facts(self) -> list[dict]:
        lines = []
        for shard in self.shards:
            lines += self._beside(shard, "facts", "jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def _beside(self, shard: Path, name: str, ending: str) -> Path:
        return shard.with_name(f"{name}-{shard.stem.split('-')[1]}.{ending}")


def to_float(images: np.ndarray) -> Tensor:
    """uint8 pictures (B, 64, 64, 3) as (B, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def render_shard(
    folder: Path, number: int, first_seed: int, count: int, split: str, classes: tuple[str, ...] | None
) -> None:
    """Render ``count`` pictures from ``first_seed`` on into shard ``number``; does nothing if it is there already."""
    target = folder / f"images-{number:05d}.npy"
    if target.exists():
        return
    pictures = [picture for i in range(count) for picture in pictures_of_seed(first_seed + i, split, classes)]
    lines = "".join(json.dumps(facts) + "\n" for facts, _ in pictures)
    write_bytes(folder / f"facts-{number:05d}.jsonl", lines.encode())
    write_array(folder / f"masks-{number:05d}.npy", np.stack([np.asarray(picture.mask) for _, picture in pictures]))
    # The pictures come last: a shard whose pictures are there is complete.
    write_array(target, np.stack([np.asarray(picture.image.convert("RGB")) for _, picture in pictures]))


def write_array(path: Path, array: np.ndarray) -> None:
    """`np.save` under a temporary name, then a rename."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_bytes(path, buffer.getvalue())


def write_bytes(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def pictures_of_seed(seed: int, split: str, classes: tuple[str, ...] | None) -> list[tuple[dict, world.Picture]]:
    """Two pictures of one subject, the second in another scene, each with its facts.

    The second is what the identity encoder needs; to every other part it is one more picture.
    """
    first = world.sample_picture(seed, split, classes)
    draw = random.Random(f"second view:{split}:{seed}")
    name = first.subject.class_name
    free = [
        scene
        for scene in world.SCENES
        if scene != first.scene and (split != "train" or (name, scene) not in world.HELD_OUT_PAIRS)
    ]
    second = world.render(
        first.subject,
        scene=draw.choice(free),
        accessory=draw.choice(world.ACCESSORIES) if draw.random() < 0.2 else None,
        seed=draw.randrange(1 << 30),
        close_up=draw.random() < 0.15,
    )
    return [(facts_of(picture, f"{split}:{seed}:{view}"), picture) for view, picture in enumerate((first, second))]


def facts_of(picture: world.Picture, seed: str) -> dict:
    """Everything known about a picture that JSON can hold; ``subject`` names who it is."""
    subject = seed.rpartition(":")[0]
    return picture.facts() | {"seed": seed, "subject": subject, "box": picture.box, "caption": picture.caption}


def render_set(folder: Path, count: int, split: str, classes: tuple[str, ...] | None, workers: int) -> None:
    """Render ``count`` pictures into shards of `SHARD`, on ``workers`` processes; shards that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(render_shard, folder, number, number * SHARD // 2, SHARD // 2, split, classes)
            for number in range(max(1, count // SHARD))
        ]
        for job in jobs:
            job.result()


app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: options.Out,
    count: Annotated[int, typer.Option(help="Training pictures.")] = 40_000,
    validation: Annotated[int, typer.Option(help="Validation pictures.")] = 2_000,
    classes: Annotated[str, typer.Option(help="v0 (twelve classes) or all.")] = "all",
    workers: options.Workers = 2,
) -> None:
    """Render the training and validation pictures."""
    chosen = tuple(world.V0_CLASSES) if classes == "v0" else None
    render_set(out / "validation", validation, "validation", chosen, workers)
    render_set(out / "train", count, "train", chosen, workers)


if __name__ == "__main__":
    app()
