"""The training pictures on the device: drawn while they are still being rendered, with their latents later on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from tools.toybox.rendering import PictureSet
from elite.toybox.shapes import LATENT_SIZE
from tools.toybox.windows import to_float

FIRST = 2000  # pictures that must be there before training begins


@dataclass
class Latents:
    """Moments of the autoencoder's posterior for N pictures, each (N, C, h, w) in half precision, and the factor.

    Attributes:
        mean: of the posterior.
        deviation: of the posterior.
        factor: gives drawn latents unit variance.
    """

    mean: Tensor
    deviation: Tensor
    factor: float

    def draw(self, rows: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) of some pictures, drawn from their posterior."""
        mean = self.mean[rows].float()
        return (mean + self.deviation[rows].float() * torch.randn_like(mean)) * self.factor


class Pictures:
    """A picture set for training.

    Attributes:
        images: (N, size, size, 3) uint8: on a GPU a copy there, elsewhere the mapped file.
        masks: (N, size, size) uint8.
        portraits: (N, 19), once all are rendered; see `rendering.portrait`.
        cells: share of each latent cell that the subject covers, (N, 16, 16) in half precision, likewise.
        latents: once `encode` was called.
    """

    def __init__(self, source: PictureSet, device: torch.device) -> None:
        self.source, self.device = source, device
        source.wait(FIRST)
        files = [torch.from_numpy(array) for array in source.open()]
        if device.type == "cuda":
            self.images, self.masks = (torch.empty(f.shape, dtype=torch.uint8, device=device) for f in files)
        else:
            self.images, self.masks = files
        self._files = files
        self._count = 0
        self.available = torch.zeros((), device=device)  # a tensor, which a graph reads anew
        self.portraits = self.cells = self.latents = None
        self.refresh()

    def refresh(self) -> None:
        """Take in what was rendered meanwhile."""
        whole = self.source.whole()
        if whole == self._count or (whole - self._count < FIRST and whole < self.source.count):
            return
        if self.device.type == "cuda":
            new = slice(self._count, whole)
            for mine, file in zip((self.images, self.masks), self._files, strict=True):
                mine[new] = file[new].to(self.device)
        self._count = whole
        self.available.fill_(whole)

    def complete(self) -> list[dict[str, Any]]:
        """Wait for all pictures; returns their facts."""
        facts = self.source.facts()
        self.refresh()
        if self.portraits is None:
            self.portraits = torch.tensor([f["portrait"] for f in facts], device=self.device)
            self.cells = torch.cat([mask_cells(part.to(self.device)) for part in self.masks.split(1000)])
        return facts

    def draw(self, count: int) -> Tensor:
        """Rows (B,) of those that are there."""
        return (torch.rand(count, device=self.device) * self.available).long().clamp(max=len(self.images) - 1)

    def images_of(self, rows: Tensor) -> Tensor:
        """(B, 3, size, size) in [-1, 1]."""
        return to_float(self.images[rows])

    def masks_of(self, rows: Tensor) -> Tensor:
        """(B, 1, size, size) in [0, 1]."""
        return self.masks[rows, None].float() / 255

    @torch.no_grad()
    def encode(self, vae: AutoencoderKL, batch: int = 128) -> Latents:
        """The latents of all pictures, computed once."""
        means, deviations = [], []
        for part in self.images.split(batch):
            posterior = vae.encode(to_float(part.to(self.device))).latent_dist
            means.append(posterior.mean.half())
            deviations.append(posterior.std.half())
        mean = torch.cat(means)
        self.latents = Latents(mean, torch.cat(deviations), round(float(1 / mean.float().std()), 5))
        return self.latents


def mask_cells(masks: Tensor) -> Tensor:
    """Share of each latent cell that is covered, (B, 16, 16) in half precision, of masks (B, H, W) uint8."""
    return F.adaptive_avg_pool2d(masks[:, None].float() / 255, LATENT_SIZE)[:, 0].half()
