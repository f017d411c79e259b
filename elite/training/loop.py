"""Training of either stage on accelerate: order, draws and schedule are functions of the step, so resuming is exact."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from elite.adapter import EliteAdapter
from elite.data.order import StepBatches
from elite.data.samples import collate
from elite.training.caching import StageCache, rows_digest
from elite.training.config import TrainingConfig
from elite.training.draws import noise_and_timesteps, posterior_noise, weighted_timesteps
from elite.training.explicit_attention import training_attention
from elite.training.run_folder import Checkpoint, RunFolder
from elite.training.setting_up import Data, check_shared, load_model, make_accelerator, settled, stage_data
from elite.training.state import TrainedState
from elite.training.steps import StageModule
from elite.training.validation import Validation

if TYPE_CHECKING:
    from accelerate import Accelerator

    from elite.pipeline import ElitePipeline

OnStep = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run.

    Attributes:
        step: optimiser steps taken, those before a resume included.
        adapter: the trained adapter, attached to ``pipeline``: the averaged weights where an average is kept.
        pipeline: base model with the adapter.
        losses: (step, loss) of every step of this call.
        validation: (step, loss on the fixed triples), before the first step of a run among them.
        samples_per_second: of this call, without caching and validation.
        skipped: samples that were replaced because their files are broken.
        output: folder of the run; None when nothing was saved.
    """

    step: int
    adapter: EliteAdapter
    pipeline: ElitePipeline
    losses: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    samples_per_second: float = 0.0
    skipped: int = 0
    output: Path | None = None


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """The rate of one step: linear warm-up, then constant, or along a cosine to zero at the last step."""
    peak = config.peak_learning_rate
    if step < config.warmup:
        return peak * (step + 1) / config.warmup
    if config.lr_schedule == "constant":
        return peak
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    config: TrainingConfig,
    *,
    pipeline: ElitePipeline | None = None,
    save: bool = True,
    resume: bool = True,
    progress: bool = True,
    on_step: OnStep | None = None,
) -> TrainingResult:
    """Train one stage (Eq. 4 or Eq. 7) to ``config.steps``, going on from the newest whole checkpoint in its output.

    Two lines train the global stage on an export of the toybox world::

        from elite.training import load_config, train
        result = train(load_config("toybox-global", data="data/toybox", steps=200))

    Args:
        config: settings; see `TrainingConfig`.
        pipeline: base model with an adapter to train, instead of those that ``config`` names. It is changed.
        save: False keeps everything in memory: no checkpoints, curves, grids or trackers.
        resume: False refuses an output folder that holds checkpoints.
        progress: progress bars, with loss and samples per second.
        on_step: called after every optimiser step with its number (from 1) and its losses, gradient norm and rate.

    Returns:
        See `TrainingResult`.

    Raises:
        ValueError: for settings that do not fit the data, the model, the number of processes, or a checkpoint.
        FileNotFoundError: when the data, the model or the adapter is not there.
        elite.training.run_folder.OutputLockedError: when another process trains in the same folder.
        elite.training.run_folder.CheckpointError: when a checkpoint cannot be written, or all are damaged.
        elite.data.samples.TooManyBrokenFilesError: when too many pictures are broken.
        FloatingPointError: when the loss or its gradient is not finite; nothing of that step is kept.
    """
    folder = RunFolder(config.output) if save else None
    with ExitStack() as stack:
        config = settled(config, pipeline, folder)
        accelerator = make_accelerator(config, pipeline, folder)
        if folder is not None and accelerator.is_main_process:
            stack.enter_context(folder.lock())
        accelerator.wait_for_everyone()
        found = folder.last() if folder is not None else None
        check_shared(accelerator, folder, found)
        if folder is not None and found is not None:
            if not resume:
                raise ValueError(
                    f"output {folder.path} holds {found.folder.name}: choose another folder, or resume it."
                )
            folder.check_settings(config, found.folder)
        pipeline = load_model(config, pipeline)
        data = stage_data(config, pipeline)
        if progress and accelerator.is_main_process:
            print(data.index.summary(), file=sys.stderr)
        run = Run(config, accelerator, pipeline, data, folder, progress)
        run.start(found)
        return run.to_the_end(on_step)


class Run:
    """One run of `train`: the parts that a step needs, and how far it is."""

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        pipeline: ElitePipeline,
        data: Data,
        folder: RunFolder | None,
        progress: bool,
    ) -> None:
        from tqdm.auto import tqdm

        self.config, self.accelerator, self.pipeline, self.data = config, accelerator, pipeline, data
        self.folder, self.step, self.skipped = folder, 0, 0
        self.bar = partial(tqdm, disable=not (progress and accelerator.is_main_process), dynamic_ncols=True)
        # Autocast casts on the way; what a processor holds in float32 stays exact for drawing afterwards.
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(config.mixed_precision)
        half = None if accelerator.device.type == "cpu" else half
        self.stage = StageModule(pipeline, config.stage, frozen_dtype=half, **config.stage_options())
        trained = self.stage.trained()
        optimizer = torch.optim.AdamW(
            _groups(trained, config), config.peak_learning_rate, config.betas, weight_decay=config.weight_decay
        )
        self.module, optimizer = accelerator.prepare(self.stage, optimizer)
        trained = self.stage.trained()  # prepare may have moved them
        self.state = TrainedState(trained, optimizer, accelerator.scaler, config.ema_decay)
        self.cache: StageCache | None = None
        self.validation = Validation(config, self.stage, pipeline, data.validation) if config.validate_every else None

    def start(self, found: Checkpoint | None) -> None:
        """Begin, or go on from a checkpoint; fill the caches."""
        if self.folder is not None and found is not None:
            adapter = self.pipeline.adapter
            rows = rows_digest(self.data.training)
            self.folder.check_inputs(found, self.config, adapter, self.state.weights, rows)
            self.state.restore(found, adapter)
            self.step, self.skipped = found.step, found.extra["skipped"]
        if self.config.cache != "off":  # after restoring: the words are those of the checkpoint's global mapper
            kept = getattr(torch, self.config.cache_dtype)
            words = self.config.cache == "words"
            self.cache = StageCache(self.stage, self.data.training, dtype=kept, words=words)
            shards = partial(self.bar, desc="caching", unit="file", leave=False)
            self.cache.fill(shards, process=self.accelerator.process_index, processes=self.accelerator.num_processes)
        self.accelerator.wait_for_everyone()
        if self.folder is not None:
            if self.accelerator.is_main_process:
                self.folder.cut_curve(self.step)
            if self.config.trackers:
                values = self.config.model_dump(mode="json").items()
                plain = {name: value if isinstance(value, int | float | str) else str(value) for name, value in values}
                self.accelerator.init_trackers("elite", config=plain)

    def to_the_end(self, on_step: OnStep | None) -> TrainingResult:
        """Take all steps that are left."""
        losses: list[tuple[int, float]] = []
        checked: list[tuple[int, float]] = []
        config, first, saved, seconds = self.config, self.step, self.step, 0.0
        if self.step == 0 and self.validation is not None:
            checked.append(self._validate(self.validation))
        with self.bar(total=config.steps, initial=first, desc=config.stage, unit="step") as bar:
            started = perf_counter()
            for batch in self._batches():
                numbers = self._step(batch)
                seconds += perf_counter() - started
                rate = (self.step - first) * config.batch_size / seconds
                losses.append((self.step, numbers["loss"]))
                self._log({**numbers, "samples_per_s": rate})
                bar.set_postfix(loss=f"{numbers['loss']:.4f}", samples_per_s=f"{rate:.1f}", refresh=False)
                bar.update()
                if on_step is not None:
                    on_step(self.step, numbers)
                last = self.step == config.steps
                if self.validation is not None and (last or self.step % config.validate_every == 0):
                    checked.append(self._validate(self.validation))
                if last or self.step % config.checkpoint_every == 0:
                    self._save()
                    saved = self.step
                started = perf_counter()
        if saved != self.step:
            self._save()
        self._finish()
        return TrainingResult(
            step=self.step,
            adapter=self.pipeline.adapter,
            pipeline=self.pipeline,
            losses=losses,
            validation=checked,
            samples_per_second=(self.step - first) * config.batch_size / seconds if seconds else 0.0,
            skipped=self.skipped,
            output=self.folder.path if self.folder is not None else None,
        )

    def _batches(self) -> Iterator[dict[str, Any]]:
        config, accelerator = self.config, self.accelerator
        order = StepBatches(
            len(self.data.training),
            config.batch_size,
            stop=config.steps,
            start=self.step,
            seed=config.seed,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        # Not prepared by accelerate: each process has its own part of every batch already.
        yield from DataLoader(
            self.data.training,
            batch_sampler=order,
            collate_fn=collate,
            num_workers=config.num_workers,
            persistent_workers=False,
        )

    def _step(self, batch: dict[str, Any]) -> dict[str, float]:
        """One optimiser step on this process's part of a batch, in pieces; its mean losses over all processes."""
        config, accelerator = self.config, self.accelerator
        skipped = (batch.pop("skipped") > 0).sum().to(accelerator.device)
        self.skipped += int(accelerator.reduce(skipped, "sum"))
        for group in self.state.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, config) * group["lr_scale"]
        pieces = _pieces(batch, config.gradient_accumulation_steps)
        totals: dict[str, Tensor] = {}
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            shared = nullcontext() if last else accelerator.no_sync(self.module)
            with shared, training_attention(accelerator.device, config.gradient_checkpointing):
                losses = self._losses(piece)
                accelerator.backward(losses["loss"])  # divides by the number of pieces
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.detach().float() / len(pieces)
        means = {name: float(accelerator.reduce(value, "mean")) for name, value in totals.items()}
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(f"the loss after step {self.step} is {means['loss']}: lower learning_rate.")
        means["gradient"] = float(accelerator.clip_grad_norm_(self.state.weights.values(), config.max_grad_norm))
        if accelerator.scaler is None and not math.isfinite(means["gradient"]):  # a scaler skips such a step itself
            raise FloatingPointError(
                f"the gradient after step {self.step} is {means['gradient']}: lower learning_rate."
            )
        self.state.step()
        self.step += 1
        return {**means, "learning_rate": learning_rate_at(self.step - 1, config)}

    def _losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        rows, seed, shape = batch["index"], self.config.seed, self.stage.latent_shape
        noise, timesteps = noise_and_timesteps(rows, self.step, seed, shape, self.stage.num_train_timesteps)
        posterior = posterior_noise(rows, self.step, seed, shape)
        if self.config.timesteps == "weighted":
            timesteps, weights = weighted_timesteps(timesteps, self.stage.timestep_weights)
            batch = {**batch, "sample_weights": weights}
        if self.cache is not None:
            batch = self.cache.extend(batch, posterior)
        return self.module(batch, noise, timesteps, posterior)

    def _validate(self, watched: Validation) -> tuple[int, float]:
        """The loss on the fixed triples with the averaged weights; where files are kept, also pictures."""
        numbers: dict[str, float] = {}
        with self.state.averaged(), self.accelerator.autocast():
            loss = numbers["validation_loss"] = watched.loss()
            if self.folder is not None and self.accelerator.is_main_process:
                given, drawn = watched.pictures()
                watched.write_grid(self.folder.path / f"samples-{self.step:07d}.png", given, drawn)
                numbers["validation_similarity"] = watched.similarity(given, drawn)
        self._log(numbers)
        self.accelerator.wait_for_everyone()
        return self.step, loss

    def _save(self) -> None:
        if self.folder is not None and self.accelerator.is_main_process:
            tensors = self.state.tensors()  # before: while the adapter is written, the weights are their average
            extra = {**self.state.extra(), "skipped": self.skipped, "rows": rows_digest(self.data.training)}
            with self.state.averaged():
                self.folder.save(self.step, tensors, self.pipeline.adapter, self.config, extra)
        self.accelerator.wait_for_everyone()

    def _log(self, numbers: dict[str, float]) -> None:
        if self.folder is not None:
            if self.config.trackers:
                self.accelerator.log(numbers, step=self.step)
            if self.accelerator.is_main_process:
                self.folder.log(self.step, numbers)

    def _finish(self) -> None:
        """Leave the averaged weights in the adapter, and the pipeline as it was for drawing."""
        self.state.keep_average()
        self.pipeline.adapter.requires_grad_(False)
        self.pipeline.unet.disable_gradient_checkpointing()
        if self.folder is not None and self.config.trackers:
            self.accelerator.end_training()


def _pieces(batch: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """A collated batch in ``count`` equal parts."""
    size = len(batch["index"]) // count
    return [{key: value[n * size : (n + 1) * size] for key, value in batch.items()} for n in range(count)]


def _groups(trained: dict[str, torch.nn.Parameter], config: TrainingConfig) -> list[dict[str, Any]]:
    """The mappers' weights, and the keys and values with a rate of their own."""
    mappers = [parameter for name, parameter in trained.items() if not name.startswith("processors.")]
    attention = [parameter for name, parameter in trained.items() if name.startswith("processors.")]
    return [{"params": mappers, "lr_scale": 1.0}, {"params": attention, "lr_scale": config.attention_lr_scale}]
