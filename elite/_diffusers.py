"""Diffusers' Stable Diffusion pipeline, imported without the notices that torchvision is missing.

Importing it makes transformers look for torchvision and print two lines when it is not there. Nothing here needs it.
"""

from __future__ import annotations

from transformers.utils import logging

_verbosity = logging.get_verbosity()
logging.set_verbosity_error()
try:
    from diffusers import StableDiffusionPipeline
finally:
    logging.set_verbosity(_verbosity)

__all__ = ["StableDiffusionPipeline"]
