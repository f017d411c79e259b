"""How each competitor is trained: as the paper did for Stable Diffusion v1-4 (its B.1), and on the miniature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Settings:
    """Settings of a competitor.

    Attributes:
        steps: optimiser steps in all.
        learning_rate: of AdamW, constant.
        batch_size: noisy copies of the subject's picture in a step; as many of the class's stand beside them.
        weight_decay: of AdamW.
        prior_pictures: pictures of "a photo of a CLASS" that the base model draws beforehand, so that it does not
            forget the class; 0 has none.
        prior_weight: of their loss.
        rank: of a LoRA.
        train_text_encoder: whether DreamBooth trains it too.
        seed: of all draws.

    Raises:
        ValueError: for a number that cannot be.
    """

    steps: int
    learning_rate: float
    batch_size: int = 1
    weight_decay: float = 0.01
    prior_pictures: int = 0
    prior_weight: float = 1.0
    rank: int = 4
    train_text_encoder: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("weight_decay", "prior_pictures", "prior_weight", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}.")


# The paper's B.1; the number of class pictures and the LoRA's settings are those of the authors' or diffusers' scripts.
PAPER: Mapping[str, Settings] = MappingProxyType(
    {
        "textual-inversion": Settings(5000, 5e-3, weight_decay=0.0),
        "dreambooth": Settings(800, 1e-6, prior_pictures=200),
        "dreambooth-lora": Settings(500, 1e-4, train_text_encoder=False),
        "custom-diffusion": Settings(300, 1e-5, prior_pictures=200),
    }
)

# Chosen on subjects of the miniature that no table is measured on.
MINIATURE: Mapping[str, Settings] = MappingProxyType(
    {
        "textual-inversion": Settings(400, 2e-2, batch_size=4, weight_decay=0.0),
        "dreambooth": Settings(150, 1e-4, batch_size=4, prior_pictures=8),
        "dreambooth-lora": Settings(100, 2e-3, batch_size=4, train_text_encoder=False),
        "custom-diffusion": Settings(100, 1e-3, batch_size=4, prior_pictures=8),
    }
)
