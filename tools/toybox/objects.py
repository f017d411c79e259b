"""What ELITE's stages are trained on: the frozen parts' view of every object, computed once.

Objects are cropped to squares as the authors crop theirs by their boxes. The reference, which the mappers see, is the
tight crop; the target, which is denoised, is the tight crop or a wider view of the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from elite.features import clip_features
from elite.toybox.world import IMAGE_SIZE
from tools.toybox.clip_pair import clip_pixels
from tools.toybox.pictures import Latents
from tools.toybox.rendering import PictureSet
from tools.toybox.windows import look_through, to_float

MARGIN = (10 / 256, 20 / 256)  # around a box, in units of half the picture: the authors' 10 to 20 of 512 pixels
BATCH = 128


@dataclass
class Crops:
    """Windows of N objects: centre (N, W, 2) and half side (N, W), the tight one first."""

    centre: Tensor
    half: Tensor

    @classmethod
    def draw(cls, boxes: Tensor, windows: int, seed: int) -> Crops:
        """Windows for boxes (N, 4), left, top, right, bottom as shares of the picture; all lie inside the picture."""
        generator = torch.Generator().manual_seed(seed)
        count = len(boxes)
        box = boxes * 2 - 1
        middle = (box[:, :2] + box[:, 2:]) / 2
        margin = MARGIN[0] + (MARGIN[1] - MARGIN[0]) * torch.rand(count, generator=generator)
        tight = ((box[:, 2:] - box[:, :2]).amax(1) / 2 + margin).clamp(max=1)
        wider = torch.rand(count, windows, generator=generator)
        wider[:, 0] = 0
        half = tight[:, None] + (1 - tight[:, None]) * wider
        # A wider window may lie anywhere as long as the object stays in it.
        slack = (half - tight[:, None])[..., None] * (torch.rand(count, windows, 2, generator=generator) * 2 - 1)
        reach = (1 - half)[..., None]
        centre = torch.maximum(torch.minimum(middle[:, None] + slack, reach), -reach)
        return cls(centre, half)


@dataclass
class Objects:
    """N objects as one stage of ELITE needs them.

    Attributes:
        features: of the reference, one (N, 1 + p², D) for each layer, in half precision; of the masked reference for
            the local stage.
        masks: of the reference, (N, 1, size, size), uint8, 1 on the object; None for the global stage.
        latents: of the targets, row ``windows`` · i + k the k-th of object i.
        windows: targets of each object.
        class_names: of the objects, N.
    """

    features: tuple[Tensor, ...]
    masks: Tensor | None
    latents: Latents
    windows: int
    class_names: list[str]


class ObjectSource:
    """Reads the objects' pictures and lets the frozen parts look at them.

    Args:
        source: the rendered pictures, one subject each.
        windows: targets of each object.
        seed: of the windows.
        device: where to compute, and where the results are kept.
        cache: folder for results on disk; None keeps them in memory, as on a GPU.
    """

    def __init__(
        self, source: PictureSet, windows: int, seed: int, device: torch.device, cache: Path | None = None
    ) -> None:
        self.source, self.windows, self.device, self.cache = source, windows, device, cache
        facts = source.facts()
        self.class_names = [each["class_name"] for each in facts]
        self.crops = Crops.draw(torch.tensor([each["box"] for each in facts]), windows, seed)
        self._images, self._masks = (torch.from_numpy(array) for array in source.open())

    def __len__(self) -> int:
        return len(self._images)

    def _views(self, window: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The pictures in [-1, 1] and the masks in {0, 1} through one window of each object, batch by batch."""
        for rows in torch.arange(len(self)).split(BATCH):
            images = to_float(self._images[rows].to(self.device))
            masks = self._masks[rows, None].to(self.device).float() / 255
            where = self.crops.centre[rows, window].to(self.device), self.crops.half[rows, window].to(self.device)
            seen = look_through(torch.cat([images, masks], dim=1), *where, IMAGE_SIZE)
            yield seen[:, :3], (seen[:, 3:] > 0.5).float()

    def latents(self, vae: AutoencoderKL) -> Latents:
        """Moments of the targets' latents."""

        def compute() -> Iterator[tuple[Tensor, Tensor]]:
            views = zip(*(self._views(window) for window in range(self.windows)), strict=True)
            for several in views:
                posteriors = [vae.encode(images).latent_dist for images, _ in several]
                moments = zip(*((p.mean.half(), p.std.half()) for p in posteriors), strict=True)
                yield tuple(torch.stack(parts, dim=1).flatten(0, 1) for parts in moments)

        mean, deviation = self._kept("latents", compute)
        return Latents(mean, deviation, float(vae.config.scaling_factor))

    def features(
        self, image_encoder: CLIPVisionModelWithProjection, layers: tuple[int, ...], masked: bool
    ) -> tuple[Tensor, ...]:
        """CLIP features of the tight crops, or of these with black for their background."""

        def compute() -> Iterator[tuple[Tensor, ...]]:
            for images, masks in self._views(0):
                pixels = (images + 1) * masks - 1 if masked else images
                yield tuple(f.half() for f in clip_features(image_encoder, clip_pixels(pixels), layers))

        name = f"features-{'-'.join(map(str, layers))}{'-masked' if masked else ''}"
        return self._kept(name, compute)

    def masks(self) -> Tensor:
        """Masks of the tight crops, (N, 1, size, size) uint8 in {0, 1}."""
        return torch.cat([masks.byte() for _, masks in self._views(0)])

    @torch.no_grad()
    def _kept(self, name: str, compute: Callable[[], Iterator[tuple[Tensor, ...]]]) -> tuple[Tensor, ...]:
        """What ``compute`` gives, batch after batch; from disk where it was computed before."""
        if self.cache is None:
            return tuple(torch.cat(parts) for parts in zip(*compute(), strict=True))
        files = sorted(self.cache.glob(f"{name}.*.npy"))
        if not (self.cache / f"{name}.whole").exists():
            for file in files:
                file.unlink()
            files = self._write(name, compute)
        return tuple(torch.from_numpy(np.load(file, mmap_mode="c")) for file in files)

    def _write(self, name: str, compute: Callable[[], Iterator[tuple[Tensor, ...]]]) -> list[Path]:
        self.cache.mkdir(parents=True, exist_ok=True)
        files, arrays, row = [], [], 0
        per_object = None
        for parts in compute():
            if per_object is None:
                per_object = len(parts[0]) // min(BATCH, len(self))
                files = [self.cache / f"{name}.{place:02d}.npy" for place in range(len(parts))]
                arrays = [
                    np.lib.format.open_memmap(file, "w+", np.float16, (len(self) * per_object, *part.shape[1:]))
                    for file, part in zip(files, parts, strict=True)
                ]
            for array, part in zip(arrays, parts, strict=True):
                array[row : row + len(part)] = part.cpu().numpy()
            row += len(parts[0])
        for array in arrays:
            array.flush()
        (self.cache / f"{name}.whole").write_text("")
        return files


