"""What a GPU is needed to measure, at Stable Diffusion v1-4's full size: ``python -m bench.gpu --output results.json``.

Random weights of the published shapes, so nothing is downloaded. The file is written anew after every part, and a part
that fails says so in it, so that a run that is cut short has given what it measured until then.
"""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from torch import nn

from elite.io.files import write_json
from elite.training.draws import noise_and_timesteps, posterior_noise
from elite.training.explicit_attention import training_attention
from elite.training.steps import StageModule

from . import generation, measure, models, train

ELITE_OVER_PLAIN = 1.05  # the most a concept should cost
# name -> (mixed precision, gradient checkpointing, optimiser)
TRAINING: dict[str, tuple[str, bool, str]] = {
    "float32": ("no", False, "adamw"),
    "bf16": ("bf16", False, "adamw"),
    "bf16, fused AdamW": ("bf16", False, "fused"),
    "bf16, 8-bit AdamW": ("bf16", False, "8-bit"),
    "bf16, fused AdamW, checkpointing": ("bf16", True, "fused"),
}
PRESET_BATCH = {"global": 16, "local": 8}  # of one step, as in the presets for v1-4


class NotHereError(RuntimeError):
    """Something that a measurement needs is not installed."""


def finished(run: Callable[[], object]) -> Callable[[], None]:
    """``run``, and after it a wait until the device has done all of it."""

    def timed() -> None:
        run()
        torch.cuda.synchronize()

    return timed


def peak_memory_mb(run: Callable[[], object], weights: Iterable[nn.Module]) -> float:
    """Device memory of one run in MB: what it takes beside everything there already, and its own weights."""
    distinct = {id(p): p for module in weights for p in module.parameters()}
    own = sum(p.numel() * p.element_size() for p in distinct.values())
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before + own) / 1e6


def generate(batch: int, steps: int, repeats: int) -> dict[str, Any]:
    """Whole pipelines up to the latents in fp16, side by side: seconds, their ratios, and peak memory."""
    pipe = models.sd_v1_4("cuda", torch.float16)
    contestants = generation.bases(pipe, ip_adapter=True)
    runs = {name: finished(run) for name, run in generation.pipelines(contestants, steps, batch, "latent").items()}
    seconds = measure.interleaved(runs, repeats)
    memory = {name: peak_memory_mb(runs[name], [pipe.text_encoder, contestants[name].unet]) for name in runs}
    return {
        "elite_over_plain": measure.ratio(seconds, "elite", "plain"),
        "ip_adapter_over_plain": measure.ratio(seconds, "ip_adapter", "plain"),
        "seconds": {name: median(taken) for name, taken in seconds.items()},
        "peak_memory_mb": memory,
    }


def optimiser_of(kind: str) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """AdamW with a rate of zero: the work is the same, and the weights stay finite."""
    if kind == "8-bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise NotHereError("not measured: bitsandbytes is not installed") from None
        return partial(AdamW8bit, lr=0.0)
    return partial(torch.optim.AdamW, lr=0.0, **({"fused": True} if kind == "fused" else {}))


def train_step(stage: str, batch_size: int, variant: str, repeats: int) -> dict[str, float]:
    """One optimiser step of a stage as `elite.training.loop` takes it: milliseconds, and peak memory."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    precision, checkpointing, kind = TRAINING[variant]
    make_optimiser = optimiser_of(kind)
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision)
    pipe = models.sd_v1_4("cuda", torch.float32)
    half = torch.bfloat16 if precision == "bf16" else None
    module = StageModule(pipe, stage, gradient_checkpointing=checkpointing, frozen_dtype=half)
    trained = list(module.trained().values())
    prepared, optimiser = accelerator.prepare(module, make_optimiser(trained))
    batch = {
        key: value.to(accelerator.device) if isinstance(value, torch.Tensor) else value
        for key, value in train.random_batch(pipe, batch_size).items()
    }
    tokens = module.tokenize(batch.pop("prompt"))
    batch |= {"input_ids": tokens.input_ids.to(accelerator.device)}
    batch["word_index"] = tokens.word_index.to(accelerator.device)
    noise, timesteps = noise_and_timesteps(range(batch_size), 0, 0, module.latent_shape, module.num_train_timesteps)
    posterior = posterior_noise(range(batch_size), 0, 0, module.latent_shape)
    drawn = [tensor.to(accelerator.device) for tensor in (noise, timesteps, posterior)]

    def step() -> None:
        with training_attention(accelerator.device, checkpointing):
            accelerator.backward(prepared(batch, *drawn)["loss"])
        accelerator.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    run = finished(step)
    for _ in range(2):
        run()
    memory = peak_memory_mb(run, [module])
    milliseconds = []
    for _ in range(repeats):
        start = perf_counter()
        run()
        milliseconds.append(1e3 * (perf_counter() - start))
    # the optimiser's state was there before the measured run
    state = [v for kept in optimiser.state.values() for v in kept.values() if isinstance(v, torch.Tensor)]
    memory += sum(v.numel() * v.element_size() for v in state) / 1e6
    return {"step_ms": median(milliseconds), "peak_memory_mb": memory}


def parts(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Everything that is measured, by name; the most important first."""
    steps, repeats = (2, 1) if quick else (50, 4)
    named: dict[str, Callable[[], dict[str, Any]]] = {
        f"generation, batch {batch}": partial(generate, batch, steps, repeats) for batch in (1, 4)
    }
    for stage, batch in PRESET_BATCH.items():
        for variant in ("bf16, fused AdamW", "bf16, fused AdamW, checkpointing"):
            named[f"training, {stage}, batch {batch}, {variant}"] = partial(train_step, stage, batch, variant, repeats)
    for variant in TRAINING:
        for stage in train.STAGES:
            named[f"training, {stage}, batch 4, {variant}"] = partial(train_step, stage, 4, variant, repeats)
    return named


def machine() -> dict[str, Any]:
    """What it was measured on."""
    device = torch.cuda.get_device_properties(0)
    versions = {name: importlib.metadata.version(name) for name in ("diffusers", "transformers", "accelerate")}
    return {"device": device.name, "memory_mb": device.total_memory / 1e6, "torch": torch.__version__, **versions}


def main(
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("bench/gpu.json"),
    quick: Annotated[bool, typer.Option(help="Few steps, to see that it works.")] = False,
    seconds: Annotated[float, typer.Option(help="No part is begun after this many seconds.")] = 600.0,
) -> None:
    """Measure on a GPU at full size, part by part. Exits with 1 when a part failed or a bar was missed."""
    if not torch.cuda.is_available():
        raise typer.BadParameter("a GPU is needed, and torch finds none here; python -m bench measures on the CPU.")
    start, wrong = perf_counter(), []
    results: dict[str, Any] = {}
    for name, measured in parts(quick).items():
        if perf_counter() - start > seconds:
            results[name] = {"failed": f"not begun within {seconds:.0f} seconds"}
        else:
            results[name] = attempt(measured)
        if "failed" in results[name] or results[name].get("elite_over_plain", 0) > ELITE_OVER_PLAIN:
            wrong.append(name)
        typer.echo(f"{perf_counter() - start:6.1f} s  {name}: {results[name]}")
        write_json(output, {"results": results, "machine": machine()})
    if wrong:
        typer.echo(f"failed or missed: {'; '.join(wrong)}", err=True)
        raise typer.Exit(1)


def attempt(measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a part measured, or why it did not; the device's memory is free for the next one."""
    try:
        return measured()
    except NotHereError as error:
        return {"not_measured": str(error)}
    except torch.cuda.OutOfMemoryError:
        return {"does_not_fit": "out of memory"}
    except Exception as error:  # the other parts are measured all the same
        return {"failed": f"{type(error).__name__}: {error}"}
    finally:
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    typer.run(main)
