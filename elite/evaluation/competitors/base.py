"""What all competitors share: one interface, the loss of Eq. 1 on a few pictures, and the loop that descends it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elite.attention import remove_processors, restore_processors
from elite.evaluation.competitors.learned import Learned
from elite.evaluation.competitors.settings import Settings
from elite.evaluation.subjects import fill
from elite.prompts import tokenize

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from PIL.Image import Image

PHOTO = "a photo of a {}"
MAX_GRAD_NORM = 1.0  # of all these methods' scripts
PRIOR_BATCH = 16  # class pictures drawn at once
Progress = Callable[[Iterable[int]], Iterable[int]]  # wraps the steps, as tqdm does


class Competitor(ABC):
    """A method that optimises for each subject.

    Training happens on copies; the pipeline itself is only changed while `installed` is in force.

    Args:
        pipeline: the base model, in float32; an ELITE adapter in it does not matter.
        settings: see `Settings`.
        progress: wraps the steps, as tqdm does.

    Raises:
        ValueError: when the pipeline is in half precision.
    """

    name: str

    def __init__(self, pipeline: StableDiffusionPipeline, settings: Settings, progress: Progress = iter) -> None:
        if pipeline.unet.dtype != torch.float32:
            raise ValueError(f"competitors are trained in float32, but the pipeline is in {pipeline.unet.dtype}.")
        self.pipeline, self.settings, self.progress = pipeline, settings, progress
        self._priors: dict[str, tuple[list[Image], float]] = {}

    def learn(self, pictures: Sequence[Image], class_name: str, budget: int | None = None) -> Learned:
        """Learn a subject.

        Args:
            pictures: of it, at least one.
            class_name: what it is.
            budget: optimiser steps; those of the settings when left out.

        Returns:
            What `installed` draws with.

        Raises:
            ValueError: when there is no picture, or a budget below 1.
            FloatingPointError: when the loss is not finite.
        """
        *_, last = self.stages(pictures, class_name, [self.settings.steps if budget is None else budget])
        return last

    def stages(self, pictures: Sequence[Image], class_name: str, steps: Sequence[int]) -> Iterator[Learned]:
        """Learn a subject, and say what is known of it after some numbers of steps.

        Args:
            pictures, class_name: see `learn`.
            steps: when, rising.

        Yields:
            What was learnt until then.
        """
        if not pictures:
            raise ValueError("pictures must hold at least one picture of the subject, got none.")
        if not steps or min(steps) < 1 or list(steps) != sorted(set(steps)):
            raise ValueError(f"the numbers of steps must rise and begin above 0, got {list(steps)}.")
        return self._stages(list(pictures), class_name, list(steps))

    @abstractmethod
    def _stages(self, pictures: list[Image], class_name: str, steps: list[int]) -> Iterator[Learned]: ...

    @abstractmethod
    def installed(self, learned: Learned) -> AbstractContextManager[str]:
        """Within this context the pipeline draws the subject where a prompt holds the noun that it gives."""

    def _learned(self, class_name: str, step: int, seconds: float, preparation: float, tensors: Any) -> Learned:
        return Learned(self.name, class_name, step, seconds, preparation, tensors, asdict(self.settings))

    def _unet(self) -> UNet2DConditionModel:
        """A copy of the UNet to train, without ELITE's processors, all its weights frozen."""
        removed = remove_processors(self.pipeline.unet)
        try:
            unet = copy.deepcopy(self.pipeline.unet)
        finally:
            restore_processors(self.pipeline.unet, removed)
        return unet.requires_grad_(False).eval()

    def _text_encoder(self) -> nn.Module:
        """A copy of the text encoder to train, all its weights frozen."""
        return copy.deepcopy(self.pipeline.text_encoder).requires_grad_(False).eval()

    @torch.no_grad()
    def _moments(self, pictures: Sequence[Image]) -> tuple[Tensor, Tensor]:
        """Scaled mean and deviation of the pictures' latents, (P, C, h, w) each."""
        vae, side = self.pipeline.vae, self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        parts = [vae.encode(_pixels(picture, side).to(vae.device)).latent_dist for picture in pictures]
        scale = vae.config.scaling_factor
        return torch.cat([one.mean for one in parts]) * scale, torch.cat([one.std for one in parts]) * scale

    def _prior(self, class_name: str) -> tuple[list[Image], float]:
        """Pictures of the class, drawn by the base model once, and the seconds that took."""
        if class_name not in self._priors:
            started = perf_counter()
            drawn = self._draw_prior(class_name)
            self._priors[class_name] = drawn, perf_counter() - started
        return self._priors[class_name]

    def _preserving(self, pictures: list[Image], class_name: str) -> tuple[Callable[..., Tensor], float]:
        """The loss of a step with prior preservation, and the seconds that its preparation took.

        The loss is a function of the UNet and of two texts' features, (1, L, d) each: the subject's and the class's.
        """
        settings, scheduler = self.settings, self.pipeline.scheduler
        generator = torch.Generator().manual_seed(settings.seed)
        prior, preparation = self._prior(class_name)
        of_subject = Denoising(scheduler, self._moments(pictures), generator)
        of_class = Denoising(scheduler, self._moments(prior), generator) if prior else None

        def loss(unet: nn.Module, text: Tensor, class_text: Tensor) -> Tensor:
            value = of_subject(unet, text, settings.batch_size)
            if of_class is not None:
                value = value + settings.prior_weight * of_class(unet, class_text, settings.batch_size)
            return value

        return loss, preparation

    @torch.no_grad()
    def _draw_prior(self, class_name: str) -> list[Image]:
        """Always the same pictures of a class."""
        drawn: list[Image] = []
        while len(drawn) < self.settings.prior_pictures:
            count = min(PRIOR_BATCH, self.settings.prior_pictures - len(drawn))
            seeds = range(len(drawn), len(drawn) + count)
            generators = [torch.Generator().manual_seed(self.settings.seed * 100_000 + seed) for seed in seeds]
            text = fill(PHOTO, class_name)
            drawn += self.pipeline([text] * count, num_inference_steps=50, generator=generators).images
        return drawn

    def _ids(self, prompt: str, token: int | None = None) -> tuple[Tensor, Tensor]:
        """Token ids (1, L) of a prompt, with ``token`` where it holds "{}", and that position (1,)."""
        ids, position = tokenize(self.pipeline.tokenizer, prompt, "{}", require_placeholder=token is not None)
        if token is not None:
            ids[0, position[0]] = token
        return ids.to(self.pipeline.text_encoder.device), position


class Denoising:
    """The loss of Eq. 1 on a few pictures.

    Args:
        scheduler: of the pipeline, for its noise schedule.
        moments: mean and deviation of the pictures' latents, (P, C, h, w) each.
        generator: of rows, noise and timesteps; on the CPU.
    """

    def __init__(self, scheduler: Any, moments: tuple[Tensor, Tensor], generator: torch.Generator) -> None:
        from diffusers import DDPMScheduler

        self.schedule = DDPMScheduler.from_config(scheduler.config)
        self.mean, self.deviation = moments
        self.generator = generator

    def __call__(self, unet: nn.Module, text: Tensor, batch_size: int) -> Tensor:
        """Mean squared error of the predicted noise on noisy copies of the pictures.

        Args:
            unet: predicts.
            text: (1, L, d), of all of them.
            batch_size: how many copies.

        Returns:
            A scalar with gradient.
        """
        rows = torch.randint(len(self.mean), (batch_size,), generator=self.generator).to(self.mean.device)
        latents = self.mean[rows] + self.deviation[rows] * self._normal(batch_size)
        noise = self._normal(batch_size)
        steps = self.schedule.config.num_train_timesteps
        timesteps = torch.randint(steps, (batch_size,), generator=self.generator).to(latents.device)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        prediction = unet(noisy, timesteps, encoder_hidden_states=text.expand(batch_size, -1, -1)).sample
        return F.mse_loss(prediction.float(), noise.float())

    def _normal(self, count: int) -> Tensor:
        return torch.randn(count, *self.mean.shape[1:], generator=self.generator).to(self.mean)


def descend(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[], Tensor],
    stops: Sequence[int],
    settings: Settings,
    progress: Progress = iter,
) -> Iterator[tuple[int, float]]:
    """Descend a loss with AdamW.

    Args:
        parameters: what is trained.
        loss: gives the loss of the next step.
        stops: numbers of steps, rising.
        settings: learning rate and weight decay.
        progress: wraps the steps.

    Yields:
        At each of the stops: steps taken, and the seconds they took, what happens between the stops not counted.

    Raises:
        FloatingPointError: when the loss is not finite.
    """
    optimizer = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    seconds = 0.0
    for step in progress(range(1, stops[-1] + 1)):
        started = perf_counter()
        value = loss()
        if not bool(value.detach().isfinite()):
            raise FloatingPointError(f"the loss of step {step} is {float(value)}: lower learning_rate.")
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds += perf_counter() - started
        if step in stops:
            yield step, seconds


def _pixels(picture: Image, side: int) -> Tensor:
    """The middle square of a picture, (1, 3, side, side) in [-1, 1]."""
    from PIL import ImageOps
    from PIL.Image import Resampling

    square = ImageOps.fit(picture.convert("RGB"), (side, side), Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(square, dtype=np.float32))
    return values.permute(2, 0, 1)[None] / 127.5 - 1
