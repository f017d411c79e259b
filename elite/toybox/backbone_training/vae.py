"""Trains the autoencoder: squared and absolute error, a whisper of KL, and a little noise on the latents.

PSNR is the measure, so there is no perceptual or adversarial term; errors on the subject weigh more.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from elite.toybox.backbone_training import options
from elite.toybox.backbone_training.fit import Fit, FitSettings
from elite.toybox.backbone_training.matrices import hidden_matrices
from elite.toybox.backbone_training.pictures import PictureSet, to_float
from elite.toybox.backbone_training.shapes import build_vae
from elite.toybox.metrics import psnr

KL_WEIGHT = 1e-7
L1_WEIGHT = 0.1
SUBJECT_WEIGHT = 20.0  # of an error on the subject, which is small, detailed, and what everybody looks at


def initial_vae(init_from: Path | None = None) -> AutoencoderKL:
    """A fresh autoencoder, or the one of a weights folder, in float32."""
    if init_from is not None:
        return AutoencoderKL.from_pretrained(init_from, subfolder="vae", torch_dtype=torch.float32)
    vae = build_vae()
    with torch.no_grad():
        vae.quant_conv.bias[vae.config.latent_channels :] = -4.0  # little noise at first: it would drown the signal
    return vae


def vae_losses(vae: AutoencoderKL, images: Tensor, masks: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Losses of one batch.

    Args:
        vae: the autoencoder.
        images: (B, 3, 64, 64) in [-1, 1].
        masks: (B, 1, 64, 64) in [0, 1], 1 on the subject.
        generator: of the posterior's noise.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in vae.encoder.parameters())):
        posterior = vae.encode(images).latent_dist
    latents = posterior.sample(generator)
    reconstruction = vae.decode(latents).sample
    weights = 1 + (SUBJECT_WEIGHT - 1) * masks
    weights = weights / weights.mean()
    squared = (weights * (reconstruction - images).square()).mean()
    absolute = (weights * (reconstruction - images).abs()).mean()
    divergence = posterior.kl().mean()
    loss = squared + L1_WEIGHT * absolute + KL_WEIGHT * divergence
    return {"loss": loss, "mse": F.mse_loss(reconstruction, images), "kl": divergence}


def subject_masks(pictures: PictureSet, chosen: Tensor) -> Tensor:
    """Masks (B, 1, 64, 64) in [0, 1] of the pictures numbered ``chosen``."""
    return torch.from_numpy(pictures.masks[chosen.numpy()]).float().div(255).unsqueeze(1)


def train_vae(
    data: Path,
    out: Path,
    fit_settings: FitSettings,
    batch: int = 8,
    init_from: Path | None = None,
    decoder_only: bool = False,
) -> None:
    """Train on ``data``/train, measure on ``data``/validation, and write the averaged weights to ``out``/vae.

    With ``decoder_only`` the latents keep their meaning, so that a noise predictor trained on them stays good.
    """
    train, validation = PictureSet(data / "train"), PictureSet(data / "validation")
    vae = initial_vae(init_from)
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = torch.randint(len(train), (batch,), generator=generator)
        images, masks = to_float(train.images[chosen.numpy()]), subject_masks(train, chosen)
        flipped = torch.rand(batch, generator=generator) < 0.5
        images[flipped], masks[flipped] = images[flipped].flip(-1), masks[flipped].flip(-1)
        return vae_losses(vae, images, masks, generator)

    def evaluate() -> dict[str, float]:
        ratios, inside = [], []
        for chosen in torch.arange(min(256, len(validation))).split(32):
            images = to_float(validation.images[chosen.numpy()])
            rebuilt = vae.decode(vae.encode(images).latent_dist.mode()).sample
            ratios.append(psnr(rebuilt, images))
            inside.append(psnr(rebuilt, images, subject_masks(validation, chosen)))
        values = {"validation_psnr": torch.cat(ratios), "validation_psnr_inside_mask": torch.cat(inside)}
        means = {name: float(value.mean()) for name, value in values.items()}
        return {name: value if math.isfinite(value) else 0.0 for name, value in means.items()}

    fit = Fit(vae, out, fit_settings, evaluate, hidden_matrices(vae))
    fit.run(step)
    with fit.averaged():
        vae.save_pretrained(out / "vae")


app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: options.Data,
    out: options.Out,
    steps: options.Steps = None,
    minutes: options.Minutes = None,
    threads: options.Threads = 1,
    seed: options.Seed = 0,
    batch: options.Batch = 8,
    rate: options.Rate = 1e-3,
    init_from: options.InitFrom = None,
    stop_file: options.StopFile = None,
    bfloat16: options.BFloat16 = None,
    decoder_only: Annotated[bool, typer.Option("--decoder-only", help="Leave the latents as they are.")] = False,
) -> None:
    """Train the autoencoder."""
    options.start(threads, seed)
    chosen = options.settings(steps, minutes, rate, seed, stop_file, bfloat16)
    train_vae(data, out, chosen, batch, init_from, decoder_only)


if __name__ == "__main__":
    app()
