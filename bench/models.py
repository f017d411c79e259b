"""What is measured: the toybox, and a random Stable Diffusion with v1-4's shapes, at reduced and at full width."""

from __future__ import annotations

import copy

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from elite.backbones import load_pipeline
from elite.concept import Concept
from elite.pipeline import ElitePipeline
from elite.toybox import WEIGHTS

TEXT_WIDTH = 192
IMAGE_WIDTH = 64
VAE_BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}


def sd_shaped() -> ElitePipeline:
    """64 × 64 latents, 77 text positions, 256 patches, 16 cross attention layers with heads of 40, 80 and 160.

    SD v1-4 has eight heads in each layer, this has two: the shapes of one head are the same, the width is a quarter.
    """
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", model_max_length=77)
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(80, 160, 320, 320),
        layers_per_block=2,
        attention_head_dim=2,  # the number of heads, under its old name
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=IMAGE_WIDTH,
            intermediate_size=2 * IMAGE_WIDTH,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=224,
            patch_size=14,
            projection_dim=IMAGE_WIDTH,
        )
    )
    vae = AutoencoderKL(block_out_channels=(8, 8, 8, 8), latent_channels=4, norm_num_groups=4, **VAE_BLOCKS)
    return _ready(_assembled(tokenizer, text_encoder, unet, vae, image_encoder), hidden_dim=64)


def sd_v1_4(device: str, dtype: torch.dtype) -> ElitePipeline:
    """Random weights in the shapes of Stable Diffusion v1-4 with CLIP ViT-L/14, made on the device: nothing is read."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer", model_max_length=77)
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        text_encoder = CLIPTextModel(CLIPTextConfig(**text, eos_token_id=tokenizer.eos_token_id))
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, **VAE_BLOCKS
        )
        image_encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(**vision, image_size=224, patch_size=14, projection_dim=768)
        )
    for part in (unet, text_encoder, vae, image_encoder):
        part.to(device, dtype)
    return _ready(_assembled(tokenizer, text_encoder, unet, vae, image_encoder), hidden_dim=1024)


def _assembled(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    image_encoder: CLIPVisionModelWithProjection,
) -> ElitePipeline:
    return ElitePipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=image_encoder,
        requires_safety_checker=False,
    )


def toybox() -> ElitePipeline:
    """The bundled miniature."""
    return _ready(load_pipeline("toybox", device="cpu"))


def _ready(pipe: ElitePipeline, hidden_dim: int = 64) -> ElitePipeline:
    pipe.set_progress_bar_config(disable=True)
    if not pipe.has_adapter:
        from elite.adapter import EliteAdapter

        adapter = EliteAdapter.for_models(pipe.unet, pipe.text_encoder, pipe.image_encoder, hidden_dim=hidden_dim)
        pipe.attach_adapter(adapter)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.image_encoder, pipe.adapter):
        part.requires_grad_(False).eval()
    return pipe


def plain_twin(pipe: ElitePipeline) -> StableDiffusionPipeline:
    """The stock pipeline on a copy of the UNet that ELITE never touched."""
    pipe.adapter.detach()
    unet = copy.deepcopy(pipe.unet)
    pipe.adapter.attach(pipe.unet)
    parts = {name: part for name, part in pipe.components.items() if name != "adapter"}
    twin = StableDiffusionPipeline(**{**parts, "unet": unet}, requires_safety_checker=False)
    twin.set_progress_bar_config(disable=True)
    return twin


def random_concept(pipe: ElitePipeline) -> Concept:
    """A concept of the right shape; what it looks like does not change the time."""
    config, encoder = pipe.adapter.config, pipe.image_encoder.config
    patches = (encoder.image_size // encoder.patch_size) ** 2
    draw = torch.Generator().manual_seed(0)
    return Concept(
        0.02 * torch.randn(config.num_words, config.output_dim, generator=draw),
        torch.randn(patches, config.output_dim, generator=draw),
    )


def with_ip_adapter(twin: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """diffusers' IP-Adapter of four image tokens on a plain pipeline's UNet, with random weights."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection

    unet = twin.unet
    width = unet.config.cross_attention_dim
    processors = {}
    for name, processor in unet.attn_processors.items():
        if "attn2" in name:
            inner = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            processor = IPAdapterAttnProcessor2_0(inner, width, num_tokens=(4,), scale=0.6)
        processors[name] = processor
    unet.set_attn_processor(processors)
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([ImageProjection(IMAGE_WIDTH, width, 4)])
    unet.config.encoder_hid_dim_type = "ip_image_proj"
    unet.to(twin.device, unet.dtype)  # the new parts as well
    return twin
