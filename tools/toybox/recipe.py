"""The recipe of the bundled miniature: how much of the world is drawn, and how long and how each part is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field

FILE = Path(__file__).with_name("recipe.yaml")

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(_Checked):
    """How one part is trained.

    Attributes:
        batch: samples a step.
        rate: peak learning rate.
        seconds: length on a GPU.
        samples: length elsewhere.
        ema: decay of the averaged weights; early steps average over fewer.
        decay: last share of the length, over which the rate falls to a hundredth along a cosine.
        weight_decay: AdamW's, and Muon's.
        warmup: steps over which the rate rises.
    """

    batch: Count
    rate: Positive
    seconds: Positive
    samples: Count
    ema: Fraction = 0.999
    decay: Annotated[float, Field(gt=0, le=1)] = 0.5
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Count = 100


class Recipe(_Checked):
    """Everything that decides what comes out, beside the programs themselves; see ``recipe.yaml``."""

    seed: int = 0
    pictures: Count
    validation: Count
    objects: Count
    object_size: Annotated[int, Field(ge=128)]
    windows: Count
    parts: dict[str, Part]
    looking: Annotated[float, Field(ge=0)]
    snr_gamma: dict[str, Positive]
    regularizer: dict[str, Annotated[float, Field(ge=0)]]
    attention_lr_scale: Positive
    looks: dict[str, Annotated[int, Field(ge=0)]]

    def shortened(self, share: float) -> Recipe:
        """The same recipe at a share of its lengths and pictures, with batches that the fewer pictures fill."""

        def fewer(count: int, least: int) -> int:
            return max(least, 2 * round(count * share / 2))

        parts = {
            name: part.model_copy(
                update={
                    "seconds": part.seconds * share,
                    "samples": max(part.batch, round(part.samples * share)),
                    "batch": part.batch if share >= 0.1 else min(part.batch, 32),
                    "warmup": max(1, round(part.warmup * min(1.0, share * 10))),
                }
            )
            for name, part in self.parts.items()
        }
        looks = self.looks if share >= 0.1 else dict.fromkeys(self.looks, 0)
        counts = {"pictures": fewer(self.pictures, 96), "validation": fewer(self.validation, 96)}
        return self.model_copy(update=counts | {"objects": fewer(self.objects, 48), "parts": parts, "looks": looks})


def load_recipe(path: Path = FILE) -> Recipe:
    """Read and check a recipe.

    Raises:
        ValueError: for a setting that is missing, unknown or out of range.
    """
    return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
