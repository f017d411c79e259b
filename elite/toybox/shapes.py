"""The frozen shapes of every part of the toybox backbone, each built with random weights.

The classes are those of Stable Diffusion v1-4 and CLIP ViT-L/14; only the numbers are smaller. Everything that loads
the bundled folder relies on these numbers, so they change together with a new set of weights or not at all.
"""

from __future__ import annotations

from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTModel,
)

from elite.toybox.world import IMAGE_SIZE

PATCH_SIZE = 8  # pixels, of the image encoder
LATENT_SIZE = 16  # the autoencoder divides by 8
LATENT_CHANNELS = 8
TEXT_POSITIONS = 32
TEXT_WIDTH = 128
VISION_WIDTH = 160
PROJECTION_WIDTH = 128
VOCABULARY_SIZE = 1024
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own, so that its image processor serves unchanged
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
NOISE_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


def build_text_encoder() -> CLIPTextModel:
    """A CLIP text encoder of 4 layers of width 128 over 32 positions, with random weights."""
    eos = VOCABULARY_SIZE - 1  # the highest id, as in CLIP: the old and the new pooling rule then agree
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=TEXT_POSITIONS,
            projection_dim=PROJECTION_WIDTH,
            bos_token_id=eos - 1,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    )


def build_image_encoder() -> CLIPVisionModelWithProjection:
    """A CLIP vision encoder of 6 layers of width 160 over 1 + 16 x 16 tokens, with random weights."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=VISION_WIDTH,
            intermediate_size=4 * VISION_WIDTH,
            num_hidden_layers=6,
            num_attention_heads=5,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            projection_dim=PROJECTION_WIDTH,
        )
    )


def build_vae() -> AutoencoderKL:
    """An autoencoder from (B, 3, 128, 128) to (B, 8, 16, 16), narrow where the picture is large, with random weights."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,  # four channels or more a group: with one channel a group colour is normalised away
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
    )


def build_unet() -> UNet2DConditionModel:
    """A noise predictor on (B, 8, 16, 16) with cross attention at 16 x 16 and 8 x 8, with random weights."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 128, 192),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # the number of heads, under the name that diffusers keeps for old configurations
        norm_num_groups=8,
    )


def build_scheduler() -> PNDMScheduler:
    """The sampler that Stable Diffusion v1-4 ships, on its noise schedule."""
    return PNDMScheduler(**NOISE_SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)


def training_noise() -> DDPMScheduler:
    """The forward process of training, on the same schedule."""
    return DDPMScheduler(**NOISE_SCHEDULE)


def build_identity_encoder() -> ViTModel:
    """A vision transformer of 4 layers of width 128 on 128 x 128 pictures, with random weights."""
    return ViTModel(
        ViTConfig(
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            image_size=IMAGE_SIZE,
            patch_size=16,
        ),
        add_pooling_layer=False,
    )


def build_judge(labels: list[str]) -> ResNetForImageClassification:
    """A small residual network with one output for each of ``labels``, with random weights."""
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 128],
            depths=[1, 2, 2],
            layer_type="basic",
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
        )
    )
