"""The one training loop of all the parts: exact resuming, averaged weights, curves as JSON lines.

A step draws everything random from a generator seeded by (seed, step), so a resumed run repeats an uninterrupted one
bit for bit: there is no hidden state besides the checkpoint.

Several processes of one thread each may share a run: every one draws its own batch and the gradients are averaged once
a step. On a machine with other work this is far faster than one process of several threads, which wait for one another
thousands of times a step.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing, nn

from elite.toybox.backbone_training.matrices import Matrices

StepFunction = Callable[[int, torch.Generator], dict[str, Tensor]]


@dataclass(frozen=True)
class FitSettings:
    """How long and how a part is trained.

    Attributes:
        steps: optimiser steps in all; None leaves the length to ``minutes``.
        minutes: wall-clock minutes in all, over every resumed run; None leaves the length to ``steps``.
        learning_rate: peak of the schedule.
        warmup: steps of linear warm-up.
        decay: last part of the run, as a fraction, in which the rate falls to a hundredth along a cosine.
        weight_decay: AdamW's.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights; its early steps average over fewer.
        seed: of the initial weights and of every draw.
        checkpoint_minutes: between two checkpoints.
        stop_file: the run checkpoints and ends when this file exists.
        bfloat16: run the steps under autocast; on a processor that computes in bfloat16 they are up to twice as fast.
    """

    steps: int | None = None
    minutes: float | None = None
    learning_rate: float = 1e-3
    warmup: int = 100
    decay: float = 0.4
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    checkpoint_minutes: float = 3.0
    stop_file: Path | None = None
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("FitSettings needs `steps` or `minutes`: both are None, so the run would never end.")


def run_processes(target: Callable[..., None], arguments: tuple, processes: int) -> None:
    """Call ``target(*arguments)`` in this process, or in several that `Fit` then shares a run between."""
    if processes <= 1:
        target(*arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = f"file://{folder}/rendezvous"
        multiprocessing.spawn(_join, (processes, rendezvous, target, arguments), nprocs=processes)


def _join(rank: int, processes: int, rendezvous: str, target: Callable[..., None], arguments: tuple) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=processes)
    try:
        target(*arguments)
    finally:
        distributed.destroy_process_group()


def rate_factor(step: int, progress: float, warmup: int, decay: float) -> float:
    """The schedule at one step: linear warm-up, constant, then a cosine down to 0.01 over the last ``decay``."""
    rising = min(1.0, (step + 1) / max(1, warmup))
    if decay <= 0 or progress <= 1 - decay:
        return rising
    fallen = min(1.0, (progress - (1 - decay)) / decay)
    return rising * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fallen)))


def save_atomically(state: object, path: Path) -> None:
    """Write with ``torch.save`` to a temporary name and rename, so that a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    torch.save(state, temporary)
    os.replace(temporary, path)


class Fit:
    """Trains ``model`` by calling ``step_function(step, generator)``, which returns its losses, ``"loss"`` among them.

    Args:
        model: everything that is trained.
        folder: where ``checkpoint.pt`` and ``curve.jsonl`` are; a checkpoint found there is resumed.
        settings: see `FitSettings`.
        evaluate: called at every checkpoint with the averaged weights in the model; its numbers join the curve.
        matrices: weights that Muon trains (see `matrices.hidden_matrices`); AdamW trains all others.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        settings: FitSettings,
        evaluate: Callable[[], dict[str, float]] | None = None,
        matrices: Sequence[nn.Parameter] = (),
    ) -> None:
        self.model, self.folder, self.settings, self.evaluate = model, Path(folder), settings, evaluate
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters]
        taken = {id(weight) for weight in matrices}
        others = [p for p in self.parameters if id(p) not in taken]
        decayed, plain = [p for p in others if p.ndim > 1], [p for p in others if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(0.9, 0.99),
            fused=True,
        )
        self.matrices = Matrices(list(matrices), settings.learning_rate, settings.weight_decay) if matrices else None
        self.step, self.elapsed = 0, 0.0  # steps and seconds, over all runs
        shared = distributed.is_available() and distributed.is_initialized()
        self.processes, self.rank = (distributed.get_world_size(), distributed.get_rank()) if shared else (1, 0)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def resume(self) -> bool:
        """Load the checkpoint, if there is one; says whether there was."""
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.matrices is not None:
            self.matrices.optimizer.load_state_dict(state["matrices"])
        for mine, saved in zip(self.average, state["average"], strict=True):
            mine.copy_(saved)
        self.step, self.elapsed = state["step"], state["elapsed"]
        return True

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "elapsed": self.elapsed,
        }
        if self.matrices is not None:
            state["matrices"] = self.matrices.optimizer.state_dict()
        save_atomically(state, self.checkpoint)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with its averaged weights, in evaluation mode, for the time of the context."""
        kept = [p.detach().clone() for p in self.parameters]
        training = self.model.training
        self._assign(self.average)
        self.model.eval()
        try:
            yield self.model
        finally:
            self._assign(kept)
            self.model.train(training)

    def _assign(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def progress(self) -> float:
        """How much of the run is done, 0 to 1, by whichever limit is nearer."""
        by_steps = self.step / self.settings.steps if self.settings.steps else 0.0
        by_time = self.elapsed / (60 * self.settings.minutes) if self.settings.minutes else 0.0
        return max(by_steps, by_time)

    def run(self, step_function: StepFunction) -> None:
        """Train to the end of the settings, resuming where a checkpoint stands."""
        self.resume()
        self.model.train()
        started = last_save = last_log = time.monotonic()
        before, step_before, sums = self.elapsed, self.step, {}
        while self.progress() < 1:
            for name, value in self._one_step(step_function).items():
                sums[name] = sums.get(name, 0.0) + float(value)
            now = time.monotonic()
            stop = self.settings.stop_file is not None and self.settings.stop_file.exists()
            self.elapsed, stop = self._agree(before + now - started, stop)
            if now - last_log > 20:
                count = self.step - step_before
                self._log(
                    {name: total / count for name, total in sums.items()} | {"steps_per_s": count / (now - last_log)}
                )
                last_log, step_before, sums = now, self.step, {}
            if stop or now - last_save > 60 * self.settings.checkpoint_minutes:
                self._checkpoint_and_evaluate()
                last_save = time.monotonic()
            if stop:
                return
        self._checkpoint_and_evaluate()

    def _agree(self, elapsed: float, stop: bool) -> tuple[float, bool]:
        """The first process's clock and decision: all of them must leave the loop at the same step."""
        if self.processes == 1:
            return elapsed, stop
        message = torch.tensor([elapsed, float(stop)], dtype=torch.float64)
        distributed.broadcast(message, src=0)
        return float(message[0]), bool(message[1])

    def _share_gradients(self) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.processes
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _one_step(self, step_function: StepFunction) -> dict[str, Tensor]:
        settings = self.settings
        generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + self.step) * self.processes + self.rank)
        factor = rate_factor(self.step, self.progress(), settings.warmup, settings.decay)
        for group in self.optimizer.param_groups + (self.matrices.optimizer.param_groups if self.matrices else []):
            group["lr"] = settings.learning_rate * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            losses = step_function(self.step, generator)
        self.model.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if self.processes > 1:
            self._share_gradients()
        norm = nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        self.optimizer.step()
        if self.matrices is not None:
            self.matrices.step()
        self.step += 1
        keep = min(settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1 - keep)
        return {name: value.detach() for name, value in losses.items()} | {"gradient": norm}

    def _checkpoint_and_evaluate(self) -> None:
        if self.rank != 0:
            return
        self.save()
        if self.evaluate is not None:
            with self.averaged(), torch.no_grad():
                self._log(self.evaluate())

    def _log(self, numbers: dict[str, float]) -> None:
        if self.rank != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        line = {"step": self.step, "minutes": round(self.elapsed / 60, 3)} | {
            k: round(v, 5) for k, v in numbers.items()
        }
        with open(self.folder / "curve.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
