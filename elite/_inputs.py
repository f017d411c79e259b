"""Arguments of `ElitePipeline.__call__` that are looked at before any work is done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

# diffusers takes these by its **kwargs; anything else there it would drop unseen.
_KNOWN = {"callback", "callback_steps"}


def check_prompts(prompt: Any, given: Mapping[str, Any]) -> list[str]:
    """The prompts of a call with a concept, as a list.

    Args:
        prompt: text or texts.
        given: all arguments for the base class, by name.

    Raises:
        TypeError: for an unknown argument.
        ValueError: when they are no texts, or an argument cannot be used with a concept.
    """
    unknown = set(given.get("kwargs", {})) - _KNOWN
    if unknown:
        raise TypeError(f"unknown argument {min(unknown)!r}.")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(text, str) for text in prompts):
        raise ValueError(f"prompt must be a text or a list of texts when a concept is given, got {prompt!r}.")
    if given.get("prompt_embeds") is not None:
        raise ValueError("prompt must be a text or a list of texts when a concept is given (not prompt_embeds).")
    if given.get("clip_skip") is not None:
        raise ValueError("clip_skip cannot be used with a concept: its words are trained for the last text layer.")
    return prompts


def check_numbers(given: Mapping[str, Any]) -> None:
    """Refuse numbers that the base class would fail on late, or draw nothing but noise from.

    Raises:
        ValueError: naming the argument.
    """
    for name in ("num_inference_steps", "num_images_per_prompt"):
        number = given.get(name)
        if number is not None and (not isinstance(number, Integral) or number < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}.")
    guidance = given.get("guidance_scale", 1.0)
    if not isinstance(guidance, Real) or not math.isfinite(guidance):
        raise ValueError(f"guidance_scale must be a finite number, got {guidance!r}.")


def fusion_weights(value: float | Sequence[float] | Tensor, count: int) -> float | Tensor:
    """λ as one number, or one for each of ``count`` prompts (count,).

    Raises:
        ValueError: when it is not finite, or has another length.
    """
    value = value.tolist() if hasattr(value, "tolist") else value  # of numpy or torch
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(item, Real) and math.isfinite(item) for item in values):
        raise ValueError(f"fusion_weight must be a finite number or one for each prompt, got {value!r}.")
    if not isinstance(value, (list, tuple)):
        return float(value)
    if len(values) != count:
        raise ValueError(f"fusion_weight has {len(values)} numbers, but there are {count} prompts.")
    return torch.tensor(values, dtype=torch.float32)
