"""A Stable Diffusion of a few channels, made from the real classes, with random weights and an ELITE adapter."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

WIDTH = 24  # of the text encoder, and of what the UNet attends to
LENGTH = 32  # text positions
PATCHES = 16  # patches of the image encoder, 4 × 4


def tiny_tokenizer():
    """A real CLIP tokenizer: byte-level BPE with a few merges, 32 positions."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    alphabet = sorted(ByteLevel.alphabet())
    merges = [("o", "f</w>"), ("p", "h"), ("ph", "o"), ("t", "o</w>"), ("pho", "to</w>"), ("t", "h"), ("th", "e</w>")]
    pieces = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def tiny_text_encoder(tokenizer):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_factor=10.0,  # random weights of the usual size would make all texts look alike
    )
    return CLIPTextModel(config).eval()


def tiny_image_encoder(num_hidden_layers: int = 6):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=20,
        intermediate_size=32,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        projection_dim=12,
        initializer_factor=3.0,
    )
    return CLIPVisionModelWithProjection(config).eval()


def tiny_unet():
    """Cross attention at 8², 4² and in the middle; 4 latent channels."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,  # the number of heads, for historical reasons
        cross_attention_dim=WIDTH,
    ).eval()


def tiny_pipeline(seed: int = 0):
    """An `ElitePipeline` whose adapter differs from the base model, as a trained one does; pictures of 16 pixels."""
    from diffusers import AutoencoderKL, PNDMScheduler

    from elite.adapter import EliteAdapter
    from elite.pipeline import ElitePipeline

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
        ).eval()
        scheduler = PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        )
        pipe = ElitePipeline(
            vae=vae,
            text_encoder=tiny_text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=tiny_unet(),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            image_encoder=tiny_image_encoder(),
            requires_safety_checker=False,
        )
        adapter = EliteAdapter.for_models(pipe.unet, pipe.text_encoder, pipe.image_encoder, hidden_dim=16)
        with torch.no_grad():
            for parameter in adapter.processors.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        pipe.attach_adapter(adapter)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.image_encoder, adapter):
        part.requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed: int = 0, size: tuple[int, int] = (20, 16)) -> Image.Image:
    """A random RGB picture, (width, height)."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def half_mask(size: tuple[int, int] = (20, 16)) -> Image.Image:
    """A mask, (width, height), that marks the left half."""
    values = np.zeros((size[1], size[0]), dtype=np.uint8)
    values[:, : size[0] // 2] = 255
    return Image.fromarray(values)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PROMPT = "a photo of a S* on the beach"


def generate(pipe, prompt=PROMPT, **options):
    """Latents of two steps from fixed noise, unless ``options`` say otherwise."""
    count = max(1, 1 if isinstance(prompt, str) else len(prompt)) * max(1, options.get("num_images_per_prompt", 1))
    chosen = {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": 5.0}
    if "generator" not in options:
        chosen["latents"] = torch.cat([draw(1, 4, 8, 8, seed=i) for i in range(count)])
    return pipe(prompt, **{**chosen, **options}).images
