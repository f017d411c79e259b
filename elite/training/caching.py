"""What is frozen and never changes, computed once: the latents' moments, CLIP features, the local stage's words.

A cache's folder is named by a hash of everything its contents depend on: another model, another picture or another
size makes another folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elite.data.layout import files_in
from elite.data.samples import GlobalSamples, LocalSamples, Samples
from elite.io.content_id import content_hash
from elite.io.files import cache_folder
from elite.training.row_cache import Progress, RowCache
from elite.training.steps import CLASS_WORD, StageModule

VERSION = 2
_SOURCES = {"latents": "pixel_values", "features": "pixel_values_clip", "words": "pixel_values_clip"}


class StageCache:
    """The caches of one stage's run; `extend` puts their rows in a batch.

    Args:
        module: the stage; its frozen parts decide what is kept.
        samples: its data set.
        root: folder of all caches; ``training`` in ``ELITE_CACHE`` (``~/.cache/elite``) when left out.
        dtype: type of what is kept.
        words: keep the local stage's words although the crop's padding is drawn anew for each sample: the words come
            from the crop with the middle padding. Without it they are kept only where nothing is augmented.
    """

    def __init__(
        self,
        module: StageModule,
        samples: Samples,
        root: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        words: bool = False,
    ) -> None:
        self.module, self.samples, self.dtype = module, samples, dtype
        self.root = cache_folder("training") if root is None else Path(root)
        self.caches: dict[str, RowCache] = {}
        still, is_global = not samples.settings.augment, isinstance(samples, GlobalSamples)
        config = module.adapter.config
        if still or is_global:  # the global stage changes what CLIP sees, never what is drawn
            self._add("latents", [module.vae], scale=module.vae.config.scaling_factor)
        if still and is_global:
            self._add("features", [module.image_encoder], layers=config.layers)
        if (still or words) and not is_global and module.words != CLASS_WORD:
            parts = [module.image_encoder, module.adapter.global_mapper]
            self._add("words", parts, layers=config.layers, scale=config.output_scale)

    def _add(self, kind: str, parts: Sequence[torch.nn.Module], **settings: Any) -> None:
        samples, chosen = self.samples, self.samples.settings
        inputs = {
            "version": VERSION,
            "kind": kind,
            "stage": self.module.stage,
            "weights": [content_hash(part.state_dict()) for part in parts],
            "settings": settings,
            "dtype": str(self.dtype),
            "sizes": [chosen.resolution, chosen.clip_size, chosen.cell, chosen.crop],
            "data": _data_fingerprint(samples),
        }
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:20]
        self.caches[kind] = RowCache(self.root / f"{kind}-{key}", len(samples))

    def fill(self, progress: Progress = iter, batch_size: int = 16, process: int = 0, processes: int = 1) -> None:
        """Compute what is missing.

        Args:
            progress: wraps the numbers of the shards, as tqdm does.
            batch_size: samples computed at once.
            process, processes: this process fills its share; all of them have to be done before `extend`.

        Raises:
            OSError: when the caches cannot be written.
            TooManyBrokenFilesError: as the data set raises it.
        """
        still = _still(self.samples)
        for kind, cache in self.caches.items():
            mine = range(process, cache.shards, processes)
            cache.fill(still, getattr(self, f"_{kind}"), self.dtype, batch_size, progress, mine)

    def extend(self, batch: dict[str, Any], posterior_noise: Tensor | None = None) -> dict[str, Any]:
        """The batch with "latents", "features" or "words" from the caches in place of the pictures they come from.

        Args:
            batch: collated samples; its "index" names the rows.
            posterior_noise: (B, C, h, w), standard normal, for the latents; their mean without.

        Returns:
            A new batch, as `StageModule.forward` takes it; what is new in it is on the CPU.

        Raises:
            FileNotFoundError: when the caches are not filled.
        """
        batch = {key: value for key, value in batch.items() if key not in {_SOURCES[kind] for kind in self.caches}}
        for kind, cache in self.caches.items():
            found = cache(batch["index"])
            if kind == "latents":
                mean = found["mean"]
                batch["latents"] = mean if posterior_noise is None else mean + found["std"] * posterior_noise.to(mean)
            elif kind == "features":
                batch["features"] = tuple(found[name] for name in sorted(found))
            else:
                batch["words"] = found["words"]
        return batch

    def _latents(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        vae = self.module.vae
        posterior = vae.encode(batch["pixel_values"].to(vae.device, vae.dtype)).latent_dist
        scale = vae.config.scaling_factor
        return {"mean": posterior.mean * scale, "std": posterior.std * scale}

    def _features(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {f"layer_{i:02d}": f for i, f in enumerate(self.module.features(batch["pixel_values_clip"]))}

    def _words(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"words": self.module.words_of(self.module.features(batch["pixel_values_clip"]))}


def _still(samples: Samples) -> Samples:
    """The same data set without augmentation."""
    kind = GlobalSamples if isinstance(samples, GlobalSamples) else LocalSamples
    return kind(samples.index, samples.folder, replace(samples.settings, augment=False))


def rows_digest(samples: Samples) -> str:
    """A hash of the rows of a data set and their boxes, wherever its files lie."""
    return hashlib.sha256(samples.index.frame.write_csv().encode()).hexdigest()[:20]


def _data_fingerprint(samples: Samples) -> str:
    """A hash of the rows, their boxes, and the sizes and times of their files."""
    digest = hashlib.sha256(rows_digest(samples).encode())
    wanted = {f"{name}.jpg" for name in samples.index.frame.get_column("image_id").to_list()}
    listing = {n: s for n, s in files_in(samples.folder.images_dir, ".jpg").items() if n in wanted}
    digest.update(json.dumps(listing, sort_keys=True).encode())
    if isinstance(samples, LocalSamples):
        masks = set(samples.index.frame.get_column("mask").to_list())
        listing = {n: s for n, s in files_in(samples.folder.masks_dir, ".png").items() if n in masks}
        digest.update(json.dumps(listing, sort_keys=True).encode())
    return digest.hexdigest()[:20]
