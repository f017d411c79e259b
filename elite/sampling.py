"""Noise predictions and LMS sampling outside a pipeline, number for number as the authors' code.

With state dicts of the libraries of 2022 and the two published files, everything is reached from here::

    from elite import clip_features, encode_prompts, load_official, patch_mask, select_words
    from elite.attention import Conditioning, condition
    from elite.io.legacy import load_text_encoder, load_unet, load_vision_encoder
    from elite.losses import global_loss, local_loss
    from elite.prompts import TokenizedPrompts
    from elite.sampling import guided_noise_prediction, sample_lms

    unet = load_unet(unet_config, unet_state_dict)                         # diffusers 0.11 names
    text_encoder = load_text_encoder(text_config, text_state_dict)         # transformers 4.26 names
    vision_encoder = load_vision_encoder(vision_config, vision_state_dict)
    adapter = load_official("global_mapper.pt", "local_mapper.pt", unet=unet)

    words = adapter.global_mapper(clip_features(vision_encoder, pixel_values, adapter.config.layers))  # (B, 5, d)
    mask = patch_mask(picture_mask, grid=16)                                                # (B, 256, 1)
    patches = adapter.local_mapper(clip_features(vision_encoder, masked_pixels, adapter.config.layers), mask)
    prompts = TokenizedPrompts(input_ids, index)                           # (B, 77), position of the placeholder
    text = encode_prompts(text_encoder, prompts, select_words(words, "w0"))                 # (B, 77, d)
    negative = encode_prompts(text_encoder, TokenizedPrompts(uncond_ids, index))
    asked = Conditioning(patches, index, fusion_weight=0.8, batchwide_maximum=True)         # the authors' maximum

    noise_pred = guided_noise_prediction(unet, latents, 999.0, text, negative, asked, guidance_scale=5.0)
    latents = sample_lms(unet, noise, text, negative, asked, num_inference_steps=100, guidance_scale=5.0)

One training step of each stage (add the noise with any DDPM scheduler; fusion weight 1)::

    for part in (unet, text_encoder, vision_encoder, adapter):
        part.requires_grad_(False)
    features = clip_features(vision_encoder, pixel_values, adapter.config.layers)

    for parameter in adapter.global_parameters():                          # global stage: M^g, K^g, V^g
        parameter.requires_grad_(True)
    words = adapter.global_mapper(features)                                # all five are injected
    with condition(unet, Conditioning(None, index)):
        noise_pred = unet(noisy_latents, t, encoder_hidden_states=encode_prompts(text_encoder, prompts, words)).sample
    global_loss(noise_pred, noise, words).backward()

    adapter.requires_grad_(False)
    for parameter in adapter.local_parameters():                           # local stage: M^l, K^l, V^l
        parameter.requires_grad_(True)
    text = encode_prompts(text_encoder, prompts, select_words(adapter.global_mapper(features), "w0"))
    patches = adapter.local_mapper(clip_features(vision_encoder, masked_pixels, adapter.config.layers), mask)
    with condition(unet, Conditioning(patches, index, batchwide_maximum=True)) as active:
        noise_pred = unet(noisy_latents, t, encoder_hidden_states=text).sample
        loss = local_loss(noise_pred, noise, latent_mask, active.local_values())
    loss.backward()
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from .attention import Conditioning, condition

# Stable Diffusion's noise schedule, as the authors give it to their scheduler.
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "timestep_spacing": "linspace",
    "prediction_type": "epsilon",
}


def guided_noise_prediction(
    unet: nn.Module,
    latents: Tensor,
    t: float | Tensor,
    encoder_hidden_states: Tensor,
    negative: Tensor | None = None,
    conditioning: Conditioning | None = None,
    guidance_scale: float = 5.0,
) -> Tensor:
    """Predicted noise with classifier-free guidance, by one batched pass [unconditional; conditional].

    Args:
        unet: a UNet; with ELITE's processors when ``conditioning`` is given.
        latents: model input (B, C, h, w).
        t: timestep in 0 … 999, not rounded; or one for each sample (B,).
        encoder_hidden_states: text features (B, L, d).
        negative: text features of the unconditional half (B, L, d); None leaves guidance out.
        conditioning: ELITE's conditioning of the B samples; None uses the base model.
        guidance_scale: 1 gives the conditional prediction.

    Returns:
        Predicted noise (B, C, h, w).

    Raises:
        ValueError: for batches that differ.
    """
    text = _guidance_text(latents, encoder_hidden_states, negative)
    guided = negative is not None
    with nullcontext() if conditioning is None else condition(unet, conditioning, guided):
        return _predict(unet, latents, t, text, guidance_scale)


def _guidance_text(latents: Tensor, text: Tensor, negative: Tensor | None) -> Tensor:
    """The text features of one pass: [unconditional; conditional] (2 B, L, d), or without guidance (B, L, d)."""
    for name, tensor in (("encoder_hidden_states", text), ("negative", negative)):
        if tensor is not None and tensor.shape[0] != latents.shape[0]:
            raise ValueError(f"{name} has {tensor.shape[0]} rows, but latents has {latents.shape[0]}.")
    return text if negative is None else torch.cat([negative, text])


def _predict(unet: nn.Module, latents: Tensor, t: float | Tensor, text: Tensor, scale: float) -> Tensor:
    """Predicted noise (B, C, h, w), by one pass, with guidance when the text has two rows for each sample."""
    if len(text) == len(latents):
        return unet(latents, t, encoder_hidden_states=text).sample
    if isinstance(t, Tensor) and t.ndim == 1:
        t = t.expand(len(latents)).repeat(2)  # (B,) -> (2 B,)
    unconditional, conditional = unet(torch.cat([latents, latents]), t, encoder_hidden_states=text).sample.chunk(2)
    return unconditional + scale * (conditional - unconditional)


@torch.no_grad()
def sample_lms(
    unet: nn.Module,
    latents: Tensor,
    encoder_hidden_states: Tensor,
    negative: Tensor | None = None,
    conditioning: Conditioning | None = None,
    num_inference_steps: int = 100,
    guidance_scale: float = 5.0,
    callback: Callable[[int, float, Tensor], None] | None = None,
) -> Tensor:
    """Sample latents with the linear multistep method of order 4, as the paper does (100 steps, guidance 5).

    Timesteps are ``linspace(0, 999, steps)`` backwards, never rounded; sigmas are interpolated linearly, the last is 0.

    Args:
        unet: a UNet; with ELITE's processors when ``conditioning`` is given.
        latents: standard normal noise (B, C, h, w); it is scaled by the largest sigma here.
        encoder_hidden_states: text features (B, L, d).
        negative: text features of the unconditional half, or None.
        conditioning: ELITE's conditioning, or None.
        num_inference_steps: number of steps, at least 1.
        guidance_scale: strength of guidance.
        callback: called after each step with its number, timestep and latents.

    Returns:
        Latents (B, C, h, w), to be divided by the VAE's scaling factor and decoded.

    Raises:
        ValueError: for a number of steps below 1, or batches that differ.
    """
    from diffusers import LMSDiscreteScheduler

    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps must be at least 1, got {num_inference_steps}.")
    scheduler = LMSDiscreteScheduler(**SCHEDULE)
    scheduler.set_timesteps(num_inference_steps)
    latents = latents * scheduler.init_noise_sigma
    # One text and one context for all steps: their keys and values are projected once.
    text = _guidance_text(latents, encoder_hidden_states, negative)
    with nullcontext() if conditioning is None else condition(unet, conditioning, negative is not None):
        for step, t in enumerate(scheduler.timesteps):
            model_input = scheduler.scale_model_input(latents, t)
            noise = _predict(unet, model_input, t, text, guidance_scale)
            latents = scheduler.step(noise, t, latents).prev_sample
            if callback is not None:
                callback(step, float(t), latents)
    return latents
