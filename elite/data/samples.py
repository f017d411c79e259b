"""Training samples of the two stages, as torch datasets.

Every random choice of a sample comes from (seed, step, index): the same three numbers give the same sample, in any
process and in any order, so a resumed run needs no record of random states.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from elite.data import augment, crops
from elite.data.index import Index
from elite.data.layout import OpenImagesFolder
from elite.features import preprocess
from elite.prompts import PLACEHOLDER, TEMPLATES

CROPS = ("stretch", "square")


class BrokenFileError(ValueError):
    """A picture or mask that cannot be used; the message names the file and what is wrong with it."""


class TooManyBrokenFilesError(RuntimeError):
    """More files were broken than the settings allow; the message names the first few."""

    def __init__(self, message: str) -> None:
        # A data loader raises a worker's error anew with its traceback, which ends with the message.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


@dataclass(frozen=True)
class SampleSettings:
    """Sizes and options of the samples.

    Attributes:
        resolution: side S of the pictures in pixels: 512 for Stable Diffusion v1-4, 64 for the toybox.
        clip_size: side s of the CLIP input in pixels.
        cell: pixels per latent cell, so that latents are S // cell per side.
        crop: "stretch" resizes the object's box to a square, as the authors do; "square" takes more of the picture
            instead, which keeps the object's proportions.
        augment: False leaves references and placement as they are, and fixes the padding (validation, caching).
        templates: captions, each with one "{}".
        placeholder: what replaces it.
        seed: first of the three numbers that determine a sample.
        max_broken: the share of broken files, of those tried, that stops the run.
    """

    resolution: int = 512
    clip_size: int = 224
    cell: int = 8
    crop: str = "stretch"
    augment: bool = True
    templates: tuple[str, ...] = TEMPLATES
    placeholder: str = PLACEHOLDER
    seed: int = 0
    max_broken: float = 0.05

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ValueError(f"crop is {self.crop!r}; use one of {', '.join(CROPS)}.")
        if self.resolution < 16 or self.resolution % (2 * self.cell):
            raise ValueError(f"resolution is {self.resolution}; it must be a multiple of {2 * self.cell}, at least 16.")
        if not 0 <= self.max_broken < 1:
            raise ValueError(f"max_broken is {self.max_broken}; it is a share, 0 <= max_broken < 1.")
        if not self.templates or any(t.count("{}") != 1 for t in self.templates):
            raise ValueError('templates must hold at least one caption, each with exactly one "{}".')

    @classmethod
    def for_pipeline(cls, pipeline: Any, **changes: Any) -> SampleSettings:
        """The sizes of a pipeline's own UNet, autoencoder and image encoder; ``changes`` replaces other fields."""
        cell = pipeline.vae_scale_factor
        sizes = {
            "resolution": pipeline.unet.config.sample_size * cell,
            "clip_size": pipeline.image_encoder.config.image_size,
            "cell": cell,
        }
        return cls(**{**sizes, **changes})


def caption(template: str, placeholder: str, words: str = "a") -> str:
    """A training prompt; ``words`` other than "a" ("very small") take the place of the template's article.

    >>> caption("the photo of a {}", "S*", "a far away")
    'a far away photo of a S*'
    """
    if words != "a":
        article, _, rest = template.partition(" ")
        template = f"{words} {rest if article in ('a', 'the') else template}"
    return template.format(placeholder)


class Samples(Dataset):
    """What both stages share: random choices by key, and the handling of broken files.

    ``samples[index]`` is the sample at step 0, ``samples[index, step]`` the one at a later step (see
    :class:`elite.data.order.StepBatches`, which yields such pairs). A file that cannot be read is counted and the
    next object of the index taken in its place; ``sample["skipped"]`` says how many were skipped.

    Raises (on access):
        TooManyBrokenFilesError: more than ``settings.max_broken`` of the objects tried were broken. Each process
            of a data loader counts its own. Until a hundred were tried, the share is taken of a hundred, or of the
            whole index if it is smaller.
    """

    kind = ""
    stage = -1  # keeps the two stages' random choices apart

    def __init__(self, index: Index, folder: OpenImagesFolder, settings: SampleSettings | None = None) -> None:
        """Raises ValueError for an index of the other stage, or an empty one."""
        if index.kind != self.kind:
            raise ValueError(f"index holds {index.kind}; {type(self).__name__} needs an index of {self.kind}.")
        if len(index) == 0:
            raise ValueError(f"index is empty, so there is nothing to train on.\n{index.summary()}")
        self.index = index
        self.folder = folder
        self.settings = settings or SampleSettings()
        self.broken: dict[int, str] = {}  # row of the index -> what is wrong
        self._tried: set[int] = set()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, step = key if isinstance(key, tuple) else (key, 0)
        if not 0 <= index < len(self) or step < 0:
            raise IndexError(f"index, step are {index}, {step}; use 0 <= index < {len(self)}, step >= 0.")
        for skipped in range(len(self)):
            row = (index + skipped) % len(self)
            sample = self._try(row, step)
            if sample is not None:
                return {**sample, "index": row, "skipped": skipped}
        raise TooManyBrokenFilesError(self._complaint())

    def _try(self, row: int, step: int) -> dict[str, Any] | None:
        if row in self.broken:
            return None
        self._tried.add(row)
        generator = np.random.default_rng([self.settings.seed, self.stage, step, row])
        try:
            return self._make(self.index.frame.row(row, named=True), generator)
        except BrokenFileError as error:
            self.broken[row] = str(error)
            warnings.warn(f"{str(error).rstrip('.')}; the next object is taken instead.", stacklevel=3)
        base = max(len(self._tried), min(100, len(self)))
        if len(self.broken) > self.settings.max_broken * base:
            raise TooManyBrokenFilesError(self._complaint())
        return None

    def _complaint(self) -> str:
        first = "".join(f"\n  {reason}" for reason in list(self.broken.values())[:5])
        share = f"{self.settings.max_broken:.0%} are allowed (max_broken)"
        return f"{len(self.broken)} of the {len(self._tried)} objects tried are broken, {share}. The first:{first}"

    def report(self) -> str:
        """How many objects this process tried, and which were broken."""
        lines = [f"{len(self._tried)} objects tried, {len(self.broken)} broken and skipped"]
        return "\n".join(lines + [f"  {reason}" for reason in self.broken.values()])

    def _make(self, row: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} is only the common part; use GlobalSamples or LocalSamples.")

    def _template(self, generator: np.random.Generator) -> str:
        return self.settings.templates[generator.integers(len(self.settings.templates))]

    def _window(self, box: crops.Box, size: tuple[int, int]) -> crops.Box:
        return crops.square_box(box, size) if self.settings.crop == "square" else box


class GlobalSamples(Samples):
    """Samples of the global stage: the object's box, and a changed view of it for CLIP.

    Keys: ``pixel_values`` (3, S, S) float32 in [-1, 1], never augmented, so its latents can be cached;
    ``pixel_values_clip`` (3, s, s) float32, CLIP-normalised; ``prompt`` str with the placeholder;
    ``class_name`` str; ``index`` int, the row; ``skipped`` int.
    """

    kind = "boxes"
    stage = 0

    def _make(self, row: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        settings = self.settings
        path = self.folder.image(row["image_id"])
        picture = _read(path, lambda p: p.convert("RGB"))
        width, height = picture.size
        edges = (row["x_min"] * width, row["y_min"] * height, row["x_max"] * width, row["y_max"] * height)
        box = crops.padded_box(edges, picture.size, crops.scaled(10, settings.resolution))
        cut = crops.crop(picture, self._window(box, picture.size))
        prompt = caption(self._template(generator), settings.placeholder)
        reference = cut.resize((settings.clip_size,) * 2, Image.Resampling.BICUBIC)
        if settings.augment:
            change = augment.draw_reference_change(generator, settings.clip_size)
            reference = augment.change_reference(reference, change)
        frame = augment.as_signed(cut.resize((settings.resolution,) * 2, Image.Resampling.BICUBIC))
        return {
            "pixel_values": _channels_first(frame),
            "pixel_values_clip": preprocess(reference, settings.clip_size)[0],
            "prompt": prompt,
            "class_name": row["class_name"],
        }


class LocalSamples(Samples):
    """Samples of the local stage: the object near or far, and its masked, changed reference.

    Keys: ``pixel_values`` (3, S, S) float32 in [-1, 1]; ``loss_mask`` (1, S // cell, S // cell) float32 in {0, 1};
    ``pixel_values_clip`` (3, s, s) float32, CLIP-normalised, the crop with its background, unchanged, for the global
    mapper; ``pixel_values_object`` (3, s, s) float32, CLIP-normalised, background black; ``mask`` (1, s, s) float32
    in {0, 1}, the object in it; ``prompt`` str with the placeholder; ``class_name``, ``index``, ``skipped``.
    """

    kind = "masks"
    stage = 1

    def _make(self, row: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        settings = self.settings
        size = (settings.clip_size,) * 2
        picture = _read(self.folder.image(row["image_id"]), lambda p: p.convert("RGB"))
        mask_path = self.folder.mask(row["mask"])
        # Mask files may have another size than their picture.
        mask = _read(mask_path, lambda p: p.convert("L").resize(picture.size, Image.Resampling.NEAREST))
        mask = mask.point(lambda value: 255 * (value > 0))
        try:
            tight = crops.tight_box(np.asarray(mask) > 0)
        except ValueError as error:
            raise BrokenFileError(f"{mask_path}: {error}") from error
        padding = int(generator.integers(10, 20)) if settings.augment else 15
        box = crops.padded_box(tight, picture.size, crops.scaled(padding, settings.resolution))
        window = self._window(box, picture.size)
        cut, cut_mask = crops.crop(picture, window), crops.crop(mask, window, fill=0)

        placement = augment.Placement(settings.resolution, 0, 0, "a")
        change = augment.ObjectChange()
        if settings.augment:
            placement = augment.draw_placement(generator, settings.resolution)
            change = augment.draw_object_change(generator, settings.clip_size)
        frame, loss_mask = augment.place(cut, placement, settings.resolution, settings.cell)
        masked = Image.composite(cut, Image.new("RGB", cut.size), cut_mask)
        reference, reference_mask = augment.change_object(
            masked.resize(size, Image.Resampling.BICUBIC), cut_mask.resize(size, Image.Resampling.NEAREST), change
        )
        return {
            "pixel_values": _channels_first(frame),
            "loss_mask": torch.from_numpy(loss_mask)[None],
            "pixel_values_clip": preprocess(cut, settings.clip_size)[0],
            "pixel_values_object": preprocess(reference, settings.clip_size)[0],
            "mask": torch.from_numpy(np.asarray(reference_mask, dtype=np.float32)[None] / 255),
            "prompt": caption(self._template(generator), settings.placeholder, placement.words),
            "class_name": row["class_name"],
        }


collate = default_collate  # tensors are stacked (B, …), numbers become long tensors (B,), texts stay a list of B


def _channels_first(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))  # (3, S, S)


def _read(path: Any, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Decode a whole file. The tables' boxes belong to the stored pixels, so EXIF rotation is not applied."""
    try:
        with Image.open(path) as picture:
            return convert(picture)
    # PIL reports damage as OSError (truncated, unknown), SyntaxError (PNG chunks) or ValueError (nonsense sizes).
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenFileError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
