"""Renders the training pictures once, to disk: arrays of pictures and masks, and one line of facts for each.

A folder holds ``images.npy`` (N, 64, 64, 3) uint8, ``masks.npy`` (N, 64, 64) uint8 and ``facts.jsonl``. It is written
in shards, so that an interrupted run continues where it was.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import typer
from torch import Tensor

from elite.toybox.backbone_training import options

SHARD = 500  # pictures
VALIDATION_SEED = 10_000_000  # first seed of the validation pictures


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
