"""Contestants in generation: ELITE, plain Stable Diffusion, IP-Adapter, and the authors' procedure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from diffusers import DiffusionPipeline

from elite.attention import Conditioning
from elite.pipeline import ElitePipeline
from elite.prompts import encode_prompts, tokenize
from elite.sampling import sample_lms

from . import models, naive

GUIDANCE = 5.0
WEIGHT = 0.6


def bases(pipe: ElitePipeline, ip_adapter: bool) -> dict[str, DiffusionPipeline]:
    """The pipelines that are compared, each with its own UNet of the same weights: "elite", "plain", "ip_adapter"."""
    others = {"ip_adapter": models.with_ip_adapter(models.plain_twin(pipe))} if ip_adapter else {}
    return {"elite": pipe, "plain": models.plain_twin(pipe), **others}


def pipelines(
    contestants: Mapping[str, DiffusionPipeline], steps: int, batch: int, output_type: str
) -> dict[str, Callable]:
    """Whole runs of each of `bases`."""
    pipe = contestants["elite"]
    concept = models.random_concept(pipe)
    options = {"num_inference_steps": steps, "guidance_scale": GUIDANCE, "output_type": output_type}
    draw = torch.Generator().manual_seed(0)
    embeds = torch.randn(2 * batch, 1, models.IMAGE_WIDTH, generator=draw).to(pipe.device, pipe.dtype)
    own = {
        "elite": {"prompt": ["a S* in the snow"] * batch, "concept": concept, "fusion_weight": WEIGHT},
        "plain": {"prompt": ["a dog in the snow"] * batch},
        "ip_adapter": {"prompt": ["a dog in the snow"] * batch, "ip_adapter_image_embeds": [embeds]},
    }

    def run(name: str) -> object:
        seeds = [torch.Generator().manual_seed(number) for number in range(batch)]
        return contestants[name](**own[name], generator=seeds, **options)

    return {name: partial(run, name) for name in contestants}


def procedures(pipe: ElitePipeline, steps: int, batch: int = 1) -> dict[str, Callable]:
    """The sampling loop alone: "ours" and "naive", which give the same latents at batch 1."""
    concept = models.random_concept(pipe)
    config = pipe.unet.config
    shape = (batch, config.in_channels, config.sample_size, config.sample_size)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    tokenized = tokenize(pipe.tokenizer, ["a S* in the snow"] * batch)
    empty = tokenize(pipe.tokenizer, [""] * batch, require_placeholder=False)
    with torch.no_grad():
        text = encode_prompts(pipe.text_encoder, tokenized, concept.words[:1].expand(batch, -1, -1))
        negative = encode_prompts(pipe.text_encoder, empty)
    patches = concept.patch_embeddings.expand(batch, -1, -1)
    asked = Conditioning(patches, tokenized.word_index, fusion_weight=WEIGHT, batchwide_maximum=True)
    unet, state = naive.naive_unet(pipe)
    return {
        "ours": lambda: sample_lms(pipe.unet, latents, text, negative, asked, steps, GUIDANCE),
        "naive": lambda: naive.sample(
            unet, state, latents, text, negative, patches, tokenized.word_index, WEIGHT, steps, GUIDANCE
        ),
    }


def agree(contestants: dict[str, Callable]) -> float:
    """Largest difference between the latents of "ours" and "naive", relative to their size."""
    ours, theirs = contestants["ours"](), contestants["naive"]()
    return float((ours - theirs).abs().max() / theirs.abs().max())
