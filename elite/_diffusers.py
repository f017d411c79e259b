"""What we take from diffusers' core, imported without the notices that torchvision is missing.

Importing it makes transformers look for torchvision and print two lines when it is not there. Nothing here needs it.
"""

from __future__ import annotations

from transformers.utils import logging

_verbosity = logging.get_verbosity()
logging.set_verbosity_error()
try:
    from diffusers import AutoencoderKL, ConfigMixin, ModelMixin, StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.configuration_utils import FrozenDict, register_to_config
    from diffusers.image_processor import PipelineImageInput
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from diffusers.schedulers import KarrasDiffusionSchedulers
    from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection
finally:
    logging.set_verbosity(_verbosity)

__all__ = [
    "AutoencoderKL",
    "CLIPImageProcessor",
    "CLIPTextModel",
    "CLIPTokenizer",
    "CLIPVisionModelWithProjection",
    "ConfigMixin",
    "FrozenDict",
    "KarrasDiffusionSchedulers",
    "ModelMixin",
    "PipelineImageInput",
    "StableDiffusionPipeline",
    "StableDiffusionSafetyChecker",
    "UNet2DConditionModel",
    "register_to_config",
]
