"""The one training loop of all the parts: a length in seconds or samples, checkpoints, averaged weights, curves.

On CUDA a whole step, from drawing the batch to averaging the weights, is captured once as a graph and then replayed: a
small model's step is mostly the launching of small kernels otherwise. So a step must not wait for the device, and
everything that changes from step to step is a tensor that the graph reads anew.

A run that was stopped goes on from its last checkpoint. On a CPU it then repeats what an uninterrupted one would have
done bit for bit; a graph draws its random numbers elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from elite.training.attention import training_attention
from tools.toybox.muon import Muon
from tools.toybox.recipe import Part

Step = Callable[[], dict[str, Tensor]]
CHECKPOINT_SECONDS = 150.0
LINES = 60  # of a curve


class OutOfTimeError(Exception):
    """The time that this call may take is over; what was trained is in the checkpoint."""


def best_device() -> torch.device:
    """A GPU when there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def say(*what: object) -> None:
    """A line of the log, at once."""
    print(time.strftime("%H:%M:%S"), *what, flush=True)


class Fit:
    """Trains some parameters as a part of the recipe says.

    Args:
        folder: of checkpoint and curve.
        name: of the part, in the log.
        parameters: what is trained; all on one device.
        part: batch, rate and length.
        matrices: those of ``parameters`` that Muon trains.
        slow: those that learn at ``slow_scale`` of the rate.
        buffers: what else changes in training and belongs to the part, such as running means.
        by_samples: count the length in samples on a GPU as well.
        deadline: `time.monotonic` at which to stop.

    Raises:
        ValueError: if the checkpoint in ``folder`` is of other weights.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        parameters: Sequence[nn.Parameter],
        part: Part,
        matrices: Sequence[nn.Parameter] = (),
        slow: Sequence[nn.Parameter] = (),
        slow_scale: float = 1.0,
        buffers: Sequence[Tensor] = (),
        by_samples: bool = False,
        deadline: float = math.inf,
    ) -> None:
        self.folder, self.name, self.part, self.deadline = folder, name, part, deadline
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.buffers = list(buffers)
        self.device = self.parameters[0].device
        self.on_cuda = self.device.type == "cuda"
        self.by_samples = by_samples or not self.on_cuda
        self._optimizers(list(matrices), {id(parameter) for parameter in slow}, slow_scale)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.fresh = torch.ones((), device=self.device)  # share of the newest weights in the average
        self.sums = torch.zeros(16, device=self.device)
        self.steps, self.elapsed, self.curve, self.names = 0, 0.0, [], []
        self.graph: Any = None
        self._resume()

    def _optimizers(self, matrices: list[nn.Parameter], slow: set[int], slow_scale: float) -> None:
        taken = {id(parameter) for parameter in matrices}
        others = [parameter for parameter in self.parameters if id(parameter) not in taken]
        groups = [
            ([p for p in others if p.ndim > 1 and id(p) not in slow], self.part.weight_decay, 1.0),
            ([p for p in others if p.ndim <= 1 and id(p) not in slow], 0.0, 1.0),
            ([p for p in others if id(p) in slow], self.part.weight_decay, slow_scale),
        ]
        groups = [group for group in groups if group[0]]
        self.scales = [scale for _, _, scale in groups]
        self.rates = [torch.zeros((), device=self.device) for _ in groups]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": some, "weight_decay": decay, "lr": rate if self.on_cuda else 0.0}
                for (some, decay, _), rate in zip(groups, self.rates, strict=True)
            ],
            betas=(0.9, 0.99),
            fused=True,
            capturable=self.on_cuda,
        )
        self.muon = Muon(matrices, self.part.weight_decay) if matrices else None
        self.muon_rate = torch.zeros((), device=self.device)

    @property
    def progress(self) -> float:
        """Share of the length that is done, from 0 to 1."""
        if self.by_samples:
            return self.steps * self.part.batch / self.part.samples
        return self.elapsed / self.part.seconds

    @property
    def checkpoint(self) -> Path:
        """Where the state of the run is kept."""
        return self.folder / f"{self.name}.checkpoint"

    def run(self, step: Step, before: Callable[[], None] | None = None, looks: int = 0,
            look: Callable[[], dict[str, float]] | None = None) -> None:  # fmt: skip
        """Train to the end, and leave the averaged weights in the parameters.

        Args:
            step: draws a batch and gives "loss", a scalar, with others to log, all on the device.
            before: called before every twentieth step, outside of the graph.
            looks: how many times ``look`` is called, with the averaged weights in place: the last time at the end.
            look: gives numbers for the curve.

        Raises:
            OutOfTimeError: at the deadline, with a checkpoint written.
        """
        if self.progress >= 1:
            self.put_average()
            return
        begun = time.monotonic()
        if before:
            before()
        whole = self._captured(step)
        kind = "a graph" if self.graph else "eager"
        say(f"{self.name}: {self.progress:.0%} done, goes on ({kind}, ready in {time.monotonic() - begun:.1f} s)")
        start = saved = noted = time.monotonic() - self.elapsed
        saved = noted = time.monotonic()
        count = 0
        seen = math.floor(self.progress * looks)
        line_seconds = max(1.0, self.part.seconds / LINES) if not self.by_samples else 20.0
        while self.progress < 1:
            if before and self.steps % 20 == 0:
                before()
            self._set_rates()
            whole()
            self.steps += 1
            count += 1
            if self.steps % 8:
                continue
            self.sums[0].item()  # replays are queued far ahead otherwise
            now = time.monotonic()
            self.elapsed = now - start
            if now - noted > line_seconds or self.progress >= 1:
                self._note(count, now - noted)
                noted, count = now, 0
            if look and looks and math.floor(self.progress * looks) > seen and self.progress < 1:
                seen = math.floor(self.progress * looks)
                self._look(look)
                looked = time.monotonic() - now
                start, noted, saved = start + looked, noted + looked, saved + looked  # looking is not training
            if now > self.deadline and self.progress < 1:
                self.save()
                raise OutOfTimeError(f"{self.name} stopped at {self.progress:.0%}")
            if now - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()
                start, noted = start + saved - now, noted + saved - now
        self.elapsed = time.monotonic() - start
        self.graph = None
        self.put_average()
        if look and looks:
            self._log({"step": self.steps, **look()})
        self.save(finished=True)
        say(f"{self.name}: {self.steps} steps, {self.steps * self.part.batch} samples, {self.elapsed:.0f} s")

    def _whole_step(self, step: Step) -> None:
        native = self.on_cuda or torch.cpu._is_avx512_bf16_supported()
        with training_attention(self.device, gradient_checkpointing=False):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=native, cache_enabled=False):
                losses = step()
            for parameter in self.parameters:
                parameter.grad = None
            losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        if self.muon:
            self.muon.step(self.muon_rate)
        with torch.no_grad():
            newer = torch._foreach_sub(self.parameters, self.average)
            torch._foreach_mul_(newer, self.fresh)
            torch._foreach_add_(self.average, newer)
            self.names = list(losses)
            self.sums[: len(losses)].add_(torch.stack([value.detach().float() for value in losses.values()]))

    def _set_rates(self) -> None:
        part = self.part
        fallen = max(0.0, (min(1.0, self.progress) - (1 - part.decay)) / part.decay)
        rate = part.rate * min(1.0, (self.steps + 1) / part.warmup)
        rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fallen))
        for group, value, scale in zip(self.optimizer.param_groups, self.rates, self.scales, strict=True):
            value.fill_(rate * scale)
            if not self.on_cuda:
                group["lr"] = rate * scale
        self.muon_rate.fill_(rate)
        self.fresh.fill_(1 - min(part.ema, (1 + self.steps) / (10 + self.steps)))

    def _captured(self, step: Step) -> Callable[[], None]:
        """The step as a CUDA graph, or as it is elsewhere."""
        eager = functools.partial(self._whole_step, step)
        if not self.on_cuda or os.environ.get("ELITE_NO_GRAPH"):
            return eager
        self._set_rates()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                eager()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            eager()
        self.graph = graph
        self.sums.zero_()
        return graph.replay

    def _note(self, count: int, seconds: float) -> None:
        values = (self.sums[: len(self.names)] / max(1, count)).tolist()
        if not all(map(math.isfinite, values)):
            raise FloatingPointError(f"{self.name}: the loss is not finite any more after {self.steps} steps.")
        line = {"step": self.steps, "samples_per_s": round(count * self.part.batch / seconds)}
        self._log(line | {name: round(value, 5) for name, value in zip(self.names, values, strict=True)})
        self.sums.zero_()

    def _log(self, line: dict[str, float]) -> None:
        self.curve.append(line)
        say(self.name, json.dumps(line))

    def _look(self, look: Callable[[], dict[str, float]]) -> None:
        with self.averaged():
            self._log({"step": self.steps, **look()})

    @contextlib.contextmanager
    def averaged(self):
        """Within this context the parameters hold the averaged weights."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
        self.put_average()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, kept)

    @torch.no_grad()
    def put_average(self) -> None:
        """Put the averaged weights into the parameters, for good."""
        torch._foreach_copy_(self.parameters, self.average)
        for parameter in self.parameters:
            parameter.grad = None

    def save(self, finished: bool = False) -> None:
        """Write the checkpoint and the curve, each all at once; a finished one holds the averaged weights alone."""
        state: dict[str, Any] = {"steps": self.steps, "elapsed": self.elapsed, "average": self.average}
        state |= {"buffers": self.buffers, "curve": self.curve, "finished": finished}
        if not finished:
            state |= {
                "parameters": [parameter.detach() for parameter in self.parameters],
                "optimizer": self.optimizer.state_dict(),
                "momenta": self.muon.momenta if self.muon else {},
                "random": torch.get_rng_state(),
            }
            if self.on_cuda:
                state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_state(self.checkpoint, state)
        lines = "".join(json.dumps(line) + "\n" for line in self.curve)
        temporary = self.folder / f".{self.name}.jsonl.{os.getpid()}"
        temporary.write_text(lines, encoding="utf-8")
        os.replace(temporary, self.folder / f"{self.name}.jsonl")

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        shapes = [value.shape for value in state["average"]]
        if shapes != [parameter.shape for parameter in self.parameters]:
            raise ValueError(f"{self.checkpoint} holds other weights than {self.name} has: remove it to begin anew.")
        self.steps, self.elapsed, self.curve = state["steps"], state["elapsed"], state["curve"]
        with torch.no_grad():
            torch._foreach_copy_(self.average, state["average"])
            torch._foreach_copy_(self.parameters, state["average" if state["finished"] else "parameters"])
            for buffer, value in zip(self.buffers, state["buffers"], strict=True):
                buffer.copy_(value)
        if state["finished"]:
            # A longer recipe goes on from the average; a shorter one has nothing left to do.
            return
        self.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            if self.on_cuda:
                group["lr"] = rate  # the tensor that the graph reads
        if self.muon:
            for name, momentum in state["momenta"].items():
                self.muon.momenta[name].copy_(momentum)
        torch.set_rng_state(state["random"].cpu())
        if self.on_cuda and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """`torch.save` under a temporary name, then a rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(state, temporary)
    os.replace(temporary, path)
