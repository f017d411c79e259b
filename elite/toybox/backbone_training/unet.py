"""Trains the noise predictor on cached latents: Stable Diffusion's schedule, min-SNR weights, dropped captions.

Beside the noise, it learns to look at a subject through its noun (see `looking`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from diffusers import UNet2DConditionModel
from torch import Tensor

from elite.toybox.backbone_training import options
from elite.toybox.backbone_training.fit import Fit, FitSettings, run_processes
from elite.toybox.backbone_training.looking import WEIGHT, looking_loss, watch
from elite.toybox.backbone_training.shapes import build_unet, training_noise

CAPTION_DROPOUT = 0.1
SNR_LIMIT = 5.0


class LatentBatch(NamedTuple):
    """Scaled latents (B, 8, 16, 16), text features (B, 32, 128), the noun's position (B,), and masks (B, 16, 16)."""

    latents: Tensor
    text: Tensor
    nouns: Tensor
    masks: Tensor


class CachedLatents:
    """What `cache_latents` wrote for one split.

    Attributes:
        means, deviations: (N, 8, 16, 16) half.
        masks: share of each cell that the subject covers, times 255: (N, 16, 16) uint8.
        texts: features of all different captions, (T, 32, 128) half; number 0 is the empty prompt.
        nouns: where each caption names the class, (T,) long; -1 where it does not.
        captions: which captions each picture has, (N, C) long.
        factor: scales the latents to unit variance.
    """

    def __init__(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, mmap=True)
        self.means, self.deviations = state["means"], state["deviations"]
        self.masks, self.nouns = state["masks"], state["nouns"]
        self.texts, self.captions, self.factor = state["texts"], state["captions"], state["factor"]

    def __len__(self) -> int:
        return len(self.means)

    def batch(self, size: int, generator: torch.Generator) -> LatentBatch:
        """What a step needs of pictures drawn at random, some of them with the empty prompt."""
        chosen = torch.randint(len(self), (size,), generator=generator)
        noise = torch.randn(size, *self.means.shape[1:], generator=generator)
        latents = (self.means[chosen].float() + self.deviations[chosen].float() * noise) * self.factor
        column = torch.randint(self.captions.shape[1], (size,), generator=generator)
        number = self.captions[chosen, column]
        dropped = torch.rand(size, generator=generator) < CAPTION_DROPOUT
        number = number.masked_fill(dropped, 0)
        masks = self.masks[chosen].float() / 255
        return LatentBatch(latents, self.texts[number].float(), self.nouns[number], masks)


def snr_weights(alphas_cumprod: Tensor, limit: float = SNR_LIMIT) -> Tensor:
    """Weight of each timestep's squared error of the noise: min(SNR, limit) / SNR (Hang et al. 2023), (T,)."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=limit) / snr


def train_unet(
    cached: Path, out: Path, fit_settings: FitSettings, batch: int = 16, init_from: Path | None = None
) -> None:
    """Train on the latents of ``cached`` and write the averaged weights to ``out``/unet.

    The loss is the weighted squared error of the predicted noise, and the looking loss of every cross attention layer
    (``looking`` in the curve); ``validation`` is the plain mean of the squared error over fixed pictures, noises and
    timesteps.
    """
    torch.manual_seed(fit_settings.seed)
    train, validation = CachedLatents(cached / "train.pt"), CachedLatents(cached / "validation.pt")
    unet = build_unet()
    if init_from is not None:
        unet = UNet2DConditionModel.from_pretrained(init_from, subfolder="unet", torch_dtype=torch.float32)
    unet = unet.to(memory_format=torch.channels_last)
    watched = watch(unet)
    schedule = training_noise()
    weights = snr_weights(schedule.alphas_cumprod)

    def errors(source: CachedLatents, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        latents, text, nouns, masks = source.batch(size, generator)
        noise = torch.randn(latents.shape, generator=generator)
        # One timestep from each of B equal parts of the schedule: every batch sees all noise levels.
        times = (torch.arange(size) + torch.rand(size, generator=generator)) * (len(weights) / size)
        times = times.long().clamp(max=len(weights) - 1)
        noisy = schedule.add_noise(latents, noise, times).contiguous(memory_format=torch.channels_last)
        predicted = unet(noisy, times, encoder_hidden_states=text, return_dict=False)[0]
        looking = torch.stack([looking_loss(layer.scores, nouns, masks) for layer in watched]).mean()
        return (predicted.float() - noise).square().mean((1, 2, 3)), weights[times], looking

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        error, weight, looking = errors(train, batch, generator)
        return {"loss": (error * weight).mean() + WEIGHT * looking, "error": error.mean(), "looking": looking}

    def evaluate() -> dict[str, float]:
        generator = torch.Generator().manual_seed(1)
        total = [errors(validation, 64, generator)[0].mean() for _ in range(4)]
        unet.save_pretrained(out / "unet")  # the averaged weights, so that samples can be looked at while it trains
        return {"validation": float(torch.stack(total).mean())}

    Fit(unet, out, fit_settings, evaluate).run(step)


app = typer.Typer(add_completion=False)


@app.command()
def main(
    cached: Annotated[Path, typer.Option(help="Folder of the cached latents.")],
    out: options.Out,
    steps: options.Steps = None,
    minutes: options.Minutes = None,
    processes: options.Workers = 2,
    seed: options.Seed = 0,
    batch: options.Batch = 16,
    rate: options.Rate = 1e-3,
    init_from: options.InitFrom = None,
    stop_file: options.StopFile = None,
    bfloat16: options.BFloat16 = None,
) -> None:
    """Train the noise predictor; ``batch`` is each process's share."""
    chosen = options.settings(steps, minutes, rate, seed, stop_file, bfloat16)
    run_processes(train_unet, (cached, out, chosen, batch, init_from), processes)


if __name__ == "__main__":
    app()
