"""Checks for the exercises on diffusion and cross attention (chapter 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from elite.teaching.exercises._judge import judge, noise


def check_attention(attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Check cross attention (Eq. 2).

    Args:
        attention: takes query (B, Q, d′), key (B, L, d′), value (B, L, d′); returns (B, Q, d′).
    """
    query, key, value = noise(2, 4, 8, seed=1), noise(2, 5, 8, seed=2), noise(2, 5, 8, seed=3)
    scores = query @ key.mT  # (B, Q, L)
    root = 8**0.5
    judge(
        "attention",
        attention,
        {"query": query, "key": key, "value": value},
        torch.softmax(scores / root, dim=-1) @ value,
        mistakes={
            "the softmax runs over the queries. Each query distributes its attention over the words, so the "
            "probabilities must sum to 1 along the last axis, the keys: dim=-1.": lambda: (
                torch.softmax(scores / root, dim=1) @ value
            ),
            "the softmax runs over the batch. Each query distributes its attention over the words: dim=-1.": lambda: (
                torch.softmax(scores / root, dim=0) @ value
            ),
            "1/√d′ is missing. Without it the scores grow with the width of the heads and the softmax picks a "
            "single word: divide query·key by √d′ before the softmax.": lambda: torch.softmax(scores, dim=-1) @ value,
            "the scores are divided by d′; Eq. 2 divides by its root, √d′.": lambda: (
                torch.softmax(scores / 8, dim=-1) @ value
            ),
            "the scores are multiplied by √d′; Eq. 2 divides by it.": lambda: (
                torch.softmax(scores * root, dim=-1) @ value
            ),
            "1/√d′ comes after the softmax, which makes the rows sum to 1/√d′; it belongs inside.": lambda: (
                torch.softmax(scores, dim=-1) / root @ value
            ),
            "the scores are divided by the root of the number of words; Eq. 2 takes the width d′, the last "
            "dimension of the query.": lambda: torch.softmax(scores / 5**0.5, dim=-1) @ value,
            "the softmax is missing: scores are no probabilities yet.": lambda: scores / root @ value,
            "these are the attention probabilities. Eq. 2 goes on: multiply them by the values.": lambda: torch.softmax(
                scores / root, dim=-1
            ),
        },
        shape="(batch, queries, d′)",
        praise="each query takes a weighted mean of the values, as in Eq. 2.",
    )


def check_guidance(guidance: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Check classifier-free guidance.

    Args:
        guidance: takes the noise predicted without text (B, C, h, w), with text (B, C, h, w), and the guidance scale;
            returns (B, C, h, w).
    """
    without, with_text, scale = noise(2, 4, 3, 3, seed=4), noise(2, 4, 3, 3, seed=5), 5.0
    judge(
        "guidance",
        guidance,
        {"unconditional": without, "conditional": with_text, "scale": scale},
        without + scale * (with_text - without),
        mistakes={
            "the unconditional prediction is not added back: this is only the direction towards the text.": lambda: (
                scale * (with_text - without)
            ),
            "the predictions are swapped: guidance starts at the unconditional one and goes to the text.": lambda: (
                with_text + scale * (without - with_text)
            ),
            "the step starts at the prediction with text. It starts at the one without, so that a scale of 1 gives "
            "plain conditional sampling.": lambda: with_text + scale * (with_text - without),
            "the direction is turned round: it leads from without text to with text.": lambda: (
                without + scale * (without - with_text)
            ),
            "this is the prediction with text alone; the scale is not used.": lambda: with_text,
            "this is a mixture between the two. Guidance goes beyond the text's prediction.": lambda: (
                (without + scale * with_text) / (1 + scale)
            ),
        },
        shape="(batch, channels, height, width)",
        praise="a scale of 0 ignores the text, 1 follows it, more exaggerates it.",
    )


def check_add_noise(add_noise: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Check the noising of a latent, √ᾱ z + √(1 − ᾱ) ε.

    Args:
        add_noise: takes latents z (B, C, h, w), noise ε (B, C, h, w), and ᾱ (B,) in [0, 1]; returns (B, C, h, w).
    """
    latents, epsilon, alpha_bar = noise(2, 4, 3, 3, seed=6), noise(2, 4, 3, 3, seed=7), torch.tensor([0.9, 0.2])
    kept = alpha_bar[:, None, None, None]
    judge(
        "add_noise",
        add_noise,
        {"latents": latents, "noise": epsilon, "alpha_bar": alpha_bar},
        kept.sqrt() * latents + (1 - kept).sqrt() * epsilon,
        mistakes={
            "the roots are missing. Variances add up, not amplitudes: √ᾱ and √(1 − ᾱ) keep it at 1.": lambda: (
                kept * latents + (1 - kept) * epsilon
            ),
            "latents and noise are swapped: ᾱ is the share of the picture that is kept.": lambda: (
                (1 - kept).sqrt() * latents + kept.sqrt() * epsilon
            ),
            "the noise is weighted by 1 − √ᾱ; it should be √(1 − ᾱ).": lambda: (
                kept.sqrt() * latents + (1 - kept.sqrt()) * epsilon
            ),
            "the noise is not weighted: it should be √(1 − ᾱ) times the noise.": lambda: (
                kept.sqrt() * latents + epsilon
            ),
            "the latents are not weighted: √ᾱ belongs before them.": lambda: latents + (1 - kept).sqrt() * epsilon,
        },
        shape="(batch, channels, height, width)",
        praise="the picture fades with √ᾱ while the noise grows with √(1 − ᾱ).",
    )


def check_noise_schedule(schedule: Callable[[float, float, int], Tensor]) -> None:
    """Check Stable Diffusion's noise schedule: ᾱ for every timestep.

    Args:
        schedule: takes the first β, the last β and the number of steps; returns ᾱ (steps,), where the *roots* of β
            are evenly spaced and ᾱ is the product of all 1 − β up to that step.
    """
    first, last, steps = 0.00085, 0.012, 1000
    betas = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    plain = torch.linspace(first, last, steps, dtype=torch.float64)
    judge(
        "noise schedule",
        schedule,
        {"first": first, "last": last, "steps": steps},
        torch.cumprod(1 - betas, dim=0),
        mistakes={
            "the β themselves are evenly spaced. Stable Diffusion spaces their roots evenly: take the roots of both "
            "ends, then square.": lambda: torch.cumprod(1 - plain, dim=0),
            "these are the β. ᾱ is the product of all 1 − β up to each step.": lambda: betas,
            "these are the single 1 − β. ᾱ is their product up to each step: torch.cumprod.": lambda: 1 - betas,
            "this is the root of ᾱ; return ᾱ itself.": lambda: torch.cumprod(1 - betas, dim=0).sqrt(),
            "the values after linspace are not squared back: they are still roots of β.": lambda: torch.cumprod(
                1 - betas.sqrt(), dim=0
            ),
            "1 − β is summed up; what is left after many steps is a product.": lambda: torch.cumsum(1 - betas, dim=0),
            "this is what is lost, 1 − ᾱ; return what is kept.": lambda: 1 - torch.cumprod(1 - betas, dim=0),
        },
        shape="(steps,)",
        praise="ᾱ falls from almost 1 to almost 0.",
    )


def check_predict_latents(predict: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Check how clean latents follow from noisy ones and the predicted noise.

    Args:
        predict: takes noisy latents z_t (B, C, h, w), predicted noise (B, C, h, w) and ᾱ (B,); returns z (B, C, h, w).
    """
    noisy, epsilon, alpha_bar = noise(2, 4, 3, 3, seed=8), noise(2, 4, 3, 3, seed=9), torch.tensor([0.8, 0.3])
    kept = alpha_bar[:, None, None, None]
    judge(
        "predict latents",
        predict,
        {"noisy": noisy, "noise": epsilon, "alpha_bar": alpha_bar},
        (noisy - (1 - kept).sqrt() * epsilon) / kept.sqrt(),
        mistakes={
            "the noise is taken out, but what is left is still √ᾱ times the latents: divide by √ᾱ.": lambda: (
                noisy - (1 - kept).sqrt() * epsilon
            ),
            "the noise is taken out whole; only √(1 − ᾱ) of it is in the noisy latents.": lambda: (
                (noisy - epsilon) / kept.sqrt()
            ),
            "the division is by ᾱ; it should be by its root.": lambda: (noisy - (1 - kept).sqrt() * epsilon) / kept,
            "the roots are missing: √ᾱ and √(1 − ᾱ).": lambda: (noisy - (1 - kept) * epsilon) / kept,
            "the noise is added; it has to be taken out.": lambda: (noisy + (1 - kept).sqrt() * epsilon) / kept.sqrt(),
        },
        shape="(batch, channels, height, width)",
        praise="it undoes the noising exactly, if the noise is predicted exactly.",
    )
