"""The training losses: Eq. 1, 4 and 7, with the authors' exact normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._values import visible

GLOBAL_WEIGHT = 0.01  # λ_global of Eq. 4
LOCAL_WEIGHT = 1e-4  # λ_local of Eq. 7


class LossParts(NamedTuple):
    """A stage's loss and what it is made of, scalars.

    Attributes:
        loss: the total: ``diffusion`` plus the weighted ``regularizer``.
        diffusion: Eq. 1, in the local stage where the picture is.
        regularizer: mean absolute value of the words (Eq. 4) or of the local values (Eq. 7), unweighted.
    """

    loss: Tensor
    diffusion: Tensor
    regularizer: Tensor


def _exact(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in its own type where that is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _check(noise_pred: Tensor, noise: Tensor) -> None:
    if noise_pred.shape != noise.shape or noise.ndim != 4:
        raise ValueError(
            "noise_pred and noise must both be (batch, channels, height, width), "
            f"got {tuple(noise_pred.shape)} and {tuple(noise.shape)}."
        )


def min_snr_weights(alphas_cumprod: Tensor, timesteps: Tensor, gamma: float) -> Tensor:
    """Weight of each sample's squared error of the noise: min(SNR, γ) / SNR (Hang et al. 2023).

    Args:
        alphas_cumprod: of the noise schedule, (T,), in (0, 1).
        timesteps: (B,), long, in [0, T).
        gamma: γ > 0, the signal-to-noise ratio from which on less noise means less weight.

    Returns:
        (B,) in (0, 1], float32.
    """
    kept = alphas_cumprod.to(timesteps.device, torch.float32)[timesteps]
    snr = kept / (1 - kept)
    return snr.clamp(max=gamma) / snr


def check_mask(mask: Tensor) -> None:
    """Refuse a mask (B, 1, h, w) that is empty for a sample.

    Only a mask on the CPU is looked at, so give it before it is moved: on a device the CPU would have to wait in every
    step. There a sample with an empty mask makes the loss NaN.

    Raises:
        ValueError: when no position of a sample counts.
    """
    if visible(mask) and not all(mask.detach().flatten(1).any(dim=1).tolist()):
        raise ValueError("mask is empty for at least one sample: the loss needs one position that counts in each.")


def diffusion_loss(
    noise_pred: Tensor, noise: Tensor, mask: Tensor | None = None, sample_weights: Tensor | None = None
) -> Tensor:
    """Mean squared error of the predicted noise (Eq. 1).

    Args:
        noise_pred: prediction (B, C, h, w).
        noise: target, same shape.
        mask: (B, 1, h, w) in [0, 1], 1 where the picture is. With it the squared error is summed over channels and
            averaged over the masked positions of each sample, then over samples: C times a per-element mean.
        sample_weights: (B,), factors of the samples' errors, such as `min_snr_weights`; all 1 when left out.

    Returns:
        A scalar, computed in float32, or in the prediction's type where that is wider.

    Raises:
        ValueError: for shapes that do not fit, or a sample with an empty mask; see `check_mask`.
    """
    _check(noise_pred, noise)
    squared = (_exact(noise_pred) - _exact(noise)).square()  # (B, C, h, w)
    if sample_weights is not None:
        if sample_weights.shape != noise.shape[:1]:
            raise ValueError(f"sample_weights must be ({noise.shape[0]},), got {tuple(sample_weights.shape)}.")
        squared = squared * sample_weights.to(squared).view(-1, 1, 1, 1)
    if mask is None:
        return squared.mean()
    if mask.shape != (noise.shape[0], 1, *noise.shape[2:]):
        raise ValueError(f"mask must be {(noise.shape[0], 1, *noise.shape[2:])}, got {tuple(mask.shape)}.")
    mask = mask.to(squared)
    check_mask(mask)
    covered = mask.sum(dim=(1, 2, 3))  # (B,)
    return ((squared * mask).sum(dim=(1, 2, 3)) / covered).mean()


def global_loss_parts(
    noise_pred: Tensor,
    noise: Tensor,
    words: Tensor,
    weight: float = GLOBAL_WEIGHT,
    sample_weights: Tensor | None = None,
) -> LossParts:
    """Loss of the global stage (Eq. 4) with its parts: Eq. 1 plus the mean absolute value of the words.

    Args:
        noise_pred: prediction (B, C, h, w).
        noise: target, same shape.
        words: (B, N, d), as injected in the prompts.
        weight: λ_global.
        sample_weights: see `diffusion_loss`.

    Returns:
        See `LossParts`.

    Raises:
        ValueError: for shapes that do not fit.
    """
    diffusion = diffusion_loss(noise_pred, noise, sample_weights=sample_weights)
    regularizer = _exact(words).abs().mean()
    return LossParts(diffusion + weight * regularizer, diffusion, regularizer)


def global_loss(
    noise_pred: Tensor,
    noise: Tensor,
    words: Tensor,
    weight: float = GLOBAL_WEIGHT,
    sample_weights: Tensor | None = None,
) -> Tensor:
    """The total of `global_loss_parts`, a scalar (Eq. 4)."""
    return global_loss_parts(noise_pred, noise, words, weight, sample_weights).loss


def local_loss_parts(
    noise_pred: Tensor,
    noise: Tensor,
    mask: Tensor,
    values_local: Sequence[Tensor],
    weight: float = LOCAL_WEIGHT,
    sample_weights: Tensor | None = None,
) -> LossParts:
    """Loss of the local stage (Eq. 7) with its parts: Eq. 1 where the picture is, plus the mean absolute local value.

    Args:
        noise_pred: prediction (B, C, h, w).
        noise: target, same shape.
        mask: (B, 1, h, w) in [0, 1], 1 where the picture is.
        values_local: V^l of every layer, each (B, p², inner); zeroed background patches count.
        weight: λ_local.
        sample_weights: see `diffusion_loss`.

    Returns:
        See `LossParts`.

    Raises:
        ValueError: for shapes that do not fit, an empty mask, or no local values.
    """
    if not values_local:
        raise ValueError("values_local is empty: give V^l of every layer, as attention.local_values returns them.")
    regularizer = torch.stack([_exact(value).abs().mean() for value in values_local]).mean()
    diffusion = diffusion_loss(noise_pred, noise, mask, sample_weights)
    return LossParts(diffusion + weight * regularizer, diffusion, regularizer)


def local_loss(
    noise_pred: Tensor,
    noise: Tensor,
    mask: Tensor,
    values_local: Sequence[Tensor],
    weight: float = LOCAL_WEIGHT,
    sample_weights: Tensor | None = None,
) -> Tensor:
    """The total of `local_loss_parts`, a scalar (Eq. 7)."""
    return local_loss_parts(noise_pred, noise, mask, values_local, weight, sample_weights).loss
