"""Competitors that learn each subject by optimisation, on one interface: `learn`, and `installed` to draw with it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from elite.evaluation.competitors.base import Competitor, Progress
from elite.evaluation.competitors.custom_diffusion import CustomDiffusion
from elite.evaluation.competitors.dreambooth import DreamBooth, DreamBoothLora
from elite.evaluation.competitors.learned import Learned
from elite.evaluation.competitors.method import Learning
from elite.evaluation.competitors.settings import MINIATURE, PAPER, Settings
from elite.evaluation.competitors.textual_inversion import TextualInversion

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["COMPETITORS", "MINIATURE", "PAPER", "Competitor", "Learned", "Learning", "Settings", "competitor"]

COMPETITORS: Mapping[str, type[Competitor]] = MappingProxyType(
    {kind.name: kind for kind in (TextualInversion, DreamBooth, DreamBoothLora, CustomDiffusion)}
)


def competitor(
    name: str, pipeline: StableDiffusionPipeline, settings: Settings | None = None, progress: Progress = iter
) -> Competitor:
    """A competitor by its name.

    Args:
        name: one of `COMPETITORS`.
        pipeline: the base model in float32.
        settings: the paper's for pictures of 256 pixels and more, the miniature's below, when left out.
        progress: wraps the steps, as tqdm does.

    Raises:
        ValueError: for another name.
    """
    if name not in COMPETITORS:
        raise ValueError(f"competitor must be one of {', '.join(COMPETITORS)}, got {name!r}.")
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    known = PAPER if side >= 256 else MINIATURE
    return COMPETITORS[name](pipeline, settings or known[name], progress)
