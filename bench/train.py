"""Contestants in training: one step of ours and one of the authors' procedure, both in float32 and with AdamW."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from elite.adapter import EliteAdapter
from elite.features import clip_features, patch_grid, patch_mask
from elite.losses import global_loss, local_loss
from elite.pipeline import ElitePipeline
from elite.prompts import encode_prompts, select_words, tokenize
from elite.training.draws import noise_and_timesteps, posterior_noise
from elite.training.steps import StageModule

from . import models, naive

STAGES = ("global", "local")


def sd_shaped_whole() -> ElitePipeline:
    """`models.sd_shaped` with an autoencoder and image encoder at a quarter of v1-4's width, and all of its layers."""
    pipe = models.sd_shaped()
    torch.manual_seed(1)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(32, 64, 128, 128), layers_per_block=2, latent_channels=4, **blocks)
    vision = CLIPVisionConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=24,
        num_attention_heads=4,
        image_size=224,
        patch_size=14,
        projection_dim=192,
    )
    pipe.register_modules(vae=vae, image_encoder=CLIPVisionModelWithProjection(vision))
    adapter = EliteAdapter.for_models(pipe.unet, pipe.text_encoder, pipe.image_encoder, hidden_dim=256)
    pipe.attach_adapter(adapter)
    for part in (pipe.vae, pipe.image_encoder, adapter):
        part.requires_grad_(False).eval()
    return pipe


def random_batch(pipe: ElitePipeline, rows: int) -> dict[str, Any]:
    """A batch of the shapes that `elite.data.samples` gives."""
    draw = torch.Generator().manual_seed(0)
    side, cells = pipe.unet.config.sample_size * pipe.vae_scale_factor, pipe.unet.config.sample_size
    clip = pipe.image_encoder.config.image_size
    mask = torch.zeros(rows, 1, clip, clip)
    mask[:, :, clip // 8 : -clip // 8, clip // 8 : -clip // 8] = 1
    return {
        "pixel_values": torch.rand(rows, 3, side, side, generator=draw) * 2 - 1,
        "pixel_values_clip": torch.randn(rows, 3, clip, clip, generator=draw),
        "pixel_values_object": torch.randn(rows, 3, clip, clip, generator=draw),
        "mask": mask,
        "loss_mask": torch.ones(rows, 1, cells, cells),
        "prompt": ["a photo of a S*"] * rows,
    }


@dataclass
class Draws:
    """What a step draws, the same for both contestants."""

    noise: Tensor
    timesteps: Tensor
    posterior: Tensor


class NaiveStep:
    """The authors' step: autoencoder and CLIP every time, one call for each picture, explicit softmaxes."""

    def __init__(self, module: StageModule, pipe: ElitePipeline) -> None:
        self.module, self.pipe = module, pipe
        self.unet, self.state = naive.naive_unet(pipe)

    def __call__(self, batch: dict[str, Any], draws: Draws) -> Tensor:
        """The loss of Eq. 4 or Eq. 7."""
        pipe, adapter = self.pipe, self.pipe.adapter
        posterior = pipe.vae.encode(batch["pixel_values"]).latent_dist
        latents = (posterior.mean + posterior.std * draws.posterior) * pipe.vae.config.scaling_factor
        noisy = self.module.add_noise(latents, draws.noise, draws.timesteps)
        layers = adapter.config.layers
        words = adapter.global_mapper(clip_features(pipe.image_encoder, batch["pixel_values_clip"], layers))
        words = words if self.module.stage == "global" else select_words(words, "w0")
        tokenized = tokenize(pipe.tokenizer, batch["prompt"], num_words=words.shape[1])
        text = encode_prompts(pipe.text_encoder, tokenized, words)
        self.state.patches, self.state.index = None, tokenized.word_index
        if self.module.stage == "global":
            prediction = self.unet(noisy, draws.timesteps, encoder_hidden_states=text).sample
            return global_loss(prediction, draws.noise, words)
        features = clip_features(pipe.image_encoder, batch["pixel_values_object"], layers)
        mask = patch_mask(batch["mask"], patch_grid(pipe.image_encoder))
        self.state.patches = adapter.local_mapper(features, mask)
        values: list[Tensor] = []  # the regulariser reads the layers' outputs
        handles = [
            processor.to_v_local.register_forward_hook(lambda layer, args, output: values.append(output))
            for processor in adapter.processors.values()
        ]
        prediction = self.unet(noisy, draws.timesteps, encoder_hidden_states=text).sample
        for handle in handles:
            handle.remove()
        return local_loss(prediction, draws.noise, batch["loss_mask"], values)


def steps(pipe: ElitePipeline, stage: str, rows: int = 1) -> dict[str, Callable[[], Tensor]]:
    """One whole step, optimiser included, of "ours" and "naive"; each returns its loss and its gradient's norm.

    Ours is given what a run keeps (see `elite.training.caching`): in the global stage the latents, whose source is
    never changed, in the local stage the words. CLIP sees a changed picture at every step in both.
    """
    module = StageModule(pipe, stage)
    batch = random_batch(pipe, rows)
    draws = Draws(
        *noise_and_timesteps(range(rows), 0, 0, module.latent_shape, module.num_train_timesteps),
        posterior_noise(range(rows), 0, 0, module.latent_shape),
    )
    if stage == "global":
        kept = {**batch, "latents": module.latents(batch, draws.posterior)}
    else:
        kept = {**batch, "words": module.words_of(module.features(batch["pixel_values_clip"]))}
    authors = NaiveStep(module, pipe)
    contestants = {
        "ours": lambda: module(kept, draws.noise, draws.timesteps, draws.posterior)["loss"],
        "naive": lambda: authors(batch, draws),
    }
    return {name: _with_optimiser(module, loss) for name, loss in contestants.items()}


def _with_optimiser(module: StageModule, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    trained = list(module.trained().values())
    # A rate of zero: the work is the same, and the contestants keep the weights they share.
    optimiser = torch.optim.AdamW(trained, lr=0.0)

    def step() -> Tensor:
        value = loss()
        value.backward()
        norm = nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return torch.stack([value.detach(), norm])

    return step


def agree(contestants: dict[str, Callable[[], Tensor]]) -> float:
    """Largest difference between loss or gradient norm of "ours" and "naive", relative to their size."""
    ours, theirs = contestants["ours"](), contestants["naive"]()
    return float(((ours - theirs).abs() / theirs.abs()).max())
