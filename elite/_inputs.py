"""Arguments of `ElitePipeline.__call__` that are looked at before any work is done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def check_prompts(prompt: Any) -> list[str]:
    """The prompts of a call with a concept, as a list.

    Raises:
        ValueError: when they are no texts.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(text, str) for text in prompts):
        raise ValueError(f"prompt must be a text or a list of texts when a concept is given, got {prompt!r}.")
    return prompts


def check_numbers(num_inference_steps: Any, num_images_per_prompt: Any, guidance_scale: Any) -> None:
    """Refuse numbers that the base class would fail on late, or draw nothing but noise from; None is its default.

    Raises:
        ValueError: naming the argument.
    """
    counts = {"num_inference_steps": num_inference_steps, "num_images_per_prompt": num_images_per_prompt}
    for name, number in counts.items():
        if number is not None and (not isinstance(number, Integral) or number < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}.")
    if guidance_scale is not None and (not isinstance(guidance_scale, Real) or not math.isfinite(guidance_scale)):
        raise ValueError(f"guidance_scale must be a finite number, got {guidance_scale!r}.")


def fusion_weights(value: float | Sequence[float] | Tensor, count: int) -> float | Tensor:
    """λ as one number, or one for each of ``count`` prompts (count,).

    Raises:
        ValueError: when it is not finite, or has another length.
    """
    value = value.tolist() if hasattr(value, "tolist") else value  # of numpy or torch
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(item, Real) and math.isfinite(item) for item in values):
        raise ValueError(f"fusion_weight must be a finite number or one for each prompt, got {value!r}.")
    if isinstance(value, Real):
        return float(value)
    if len(values) != count:
        raise ValueError(f"fusion_weight has {len(values)} numbers, but there are {count} prompts.")
    return torch.tensor(values, dtype=torch.float32)
