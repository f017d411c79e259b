"""How a run is watched: a loss on fixed latents, timesteps and noise, and how much drawings resemble their subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from elite.data.samples import Samples, collate
from elite.features import preprocess
from elite.io.files import replacing
from elite.prompts import word_embeddings
from elite.training.config import TrainingConfig
from elite.training.draws import noise_and_timesteps
from elite.training.steps import CLASS_WORD, StageModule

if TYPE_CHECKING:
    from transformers import CLIPVisionModel

    from elite.concept import Concept
    from elite.pipeline import ElitePipeline

SEED = 1234  # of the triples: the same for all runs, so that their numbers can be compared


@torch.no_grad()
def clip_similarity(
    image_encoder: CLIPVisionModel, given: Sequence[Image.Image], drawn: Sequence[Image.Image]
) -> float:
    """Mean cosine, in [-1, 1], of the CLIP embeddings of B pictures and of the B that were drawn for them."""
    both = preprocess([*given, *drawn], image_encoder.config.image_size)  # (2 B, 3, s, s)
    out = image_encoder(both.to(image_encoder.device, image_encoder.dtype))
    embeddings = out.image_embeds if "image_embeds" in out else out.pooler_output
    one, other = embeddings.float().chunk(2)  # (B, d) each
    return float(torch.cosine_similarity(one, other).mean())


class Validation:
    """Samples, timesteps and noise that never change, so that losses differ by the weights alone.

    Args:
        config: settings of the run.
        stage: the module that is trained.
        pipeline: what draws the grid.
        samples: without augmentation; the first ``validation_rows`` of them are used.
    """

    def __init__(self, config: TrainingConfig, stage: StageModule, pipeline: ElitePipeline, samples: Samples) -> None:
        self.config, self.stage, self.pipeline = config, stage, pipeline
        count = min(config.validation_rows, len(samples))
        self.batch = collate([samples[row] for row in range(count)])
        self.noise, drawn = noise_and_timesteps(range(count), 0, SEED, stage.latent_shape, stage.num_train_timesteps)
        # Spread over the schedule, each somewhere in its own part: a few samples see all noise levels.
        steps = stage.num_train_timesteps
        self.timesteps = (torch.arange(count) * steps + drawn) // count

    @torch.no_grad()
    def loss(self) -> float:
        """Mean of the diffusion part of the loss (Eq. 1) over the triples."""
        batch = {key: value for key, value in self.batch.items() if key != "skipped"}
        return float(self.stage(batch, self.noise, self.timesteps)["diffusion"])

    @torch.no_grad()
    def pictures(self) -> tuple[list[Image.Image], list[Image.Image]]:
        """What was encoded, and ``validation_prompt`` drawn with it, from fixed seeds."""
        config, pipeline = self.config, self.pipeline
        concepts = self._concepts()
        shown = dict(getattr(pipeline, "_progress_bar_config", {}))
        pipeline.set_progress_bar_config(disable=True)  # the run's own bar is enough
        generators = [torch.Generator().manual_seed(SEED + number) for number in range(len(concepts))]
        options: dict[str, Any] = {
            "fusion_weight": config.validation_fusion_weight if config.stage == "local" else 0.0,
            "num_inference_steps": config.validation_inference_steps,
            "guidance_scale": config.validation_guidance_scale,
        }
        if self.stage.words == CLASS_WORD:  # one by one: the names of classes have different numbers of tokens
            pairs = zip(concepts, generators, strict=True)
            drawn = [
                pipeline(config.validation_prompt, concept=one, words="all", generator=generator, **options).images[0]
                for one, generator in pairs
            ]
        else:
            prompts = [config.validation_prompt] * len(concepts)
            drawn = pipeline(prompts, concept=concepts, generator=generators, **options).images
        pipeline.set_progress_bar_config(**shown)
        return [self._picture(pixels) for pixels in self.batch["pixel_values"]], drawn

    def similarity(self, given: list[Image.Image], drawn: list[Image.Image]) -> float:
        """`clip_similarity` by the model's own image encoder."""
        return clip_similarity(self.pipeline.image_encoder, given, drawn)

    @staticmethod
    def write_grid(path: Path, given: list[Image.Image], drawn: list[Image.Image]) -> Path:
        """Write both rows of `pictures` as one PNG, whole or not at all."""
        from diffusers.utils import make_image_grid

        size = drawn[0].size
        sheet = make_image_grid([*(picture.resize(size) for picture in given), *drawn], rows=2, cols=len(drawn))
        with replacing(path) as temporary:
            sheet.save(temporary, format="PNG")
        return path

    def _concepts(self) -> list[Concept]:
        """The concepts of the validation samples, by the pipeline's own way from pictures and masks.

        Where the stage learns beside the class word, its embeddings are the concept's words.
        """
        concepts = self._encoded()
        if self.stage.words != CLASS_WORD:
            return concepts
        encoder, tokenizer = self.pipeline.text_encoder, self.pipeline.tokenizer
        named = [word_embeddings(encoder, tokenizer, name) for name in self.batch["class_name"]]
        return [replace(concept, words=words) for concept, words in zip(concepts, named, strict=True)]

    def _encoded(self) -> list[Concept]:
        pictures = [self._picture(pixels) for pixels in self.batch["pixel_values"]]
        if "mask" not in self.batch:
            return self.pipeline.encode_concepts(pictures)
        masks = [Image.fromarray((mask[0] * 255).byte().numpy()) for mask in self.batch["mask"]]
        masks = [m.resize(p.size, Image.Resampling.NEAREST) for m, p in zip(masks, pictures, strict=True)]
        return self.pipeline.encode_concepts(pictures, masks)

    @staticmethod
    def _picture(pixels: Tensor) -> Image.Image:
        """A PIL picture of pixels (3, S, S) in [-1, 1]."""
        array = ((pixels.float().cpu() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        return Image.fromarray(array)
