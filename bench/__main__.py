"""Runs every measurement, prints a table and writes ``bench/results.json``."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer

from elite.io.files import write_json

from . import generation, measure, models, operations, train

RESULTS = Path(__file__).with_name("results.json")
# name of a result -> the most (or, for the authors' procedure, the least) it should be
AT_MOST = {
    "generation_over_plain": 1.10,
    "generation_over_plain_toybox": 1.15,
    "ops_per_step_over_plain": 1.08,
    "ops_per_step_over_plain_toybox": 1.08,
    "import_ms": 300.0,
}
AT_LEAST = {
    "naive_over_ours_generation": 1.5,
    "naive_over_ours_train_global": 1.3,
    "naive_over_ours_train_local": 1.1,
}
HEADINGS = ("sd_shaped", "sd_shaped_loop", "toybox", "toybox_loop", "train_global", "train_local")


def contestants(name: str, steps: int) -> dict[str, Callable]:
    """Everything measured under one of `HEADINGS`."""

    def pipelines(pipe, *options, ip_adapter: bool) -> dict[str, Callable]:
        return generation.pipelines(generation.bases(pipe, ip_adapter), *options)

    builders: dict[str, Callable[[], dict[str, Callable]]] = {
        "sd_shaped": lambda: pipelines(models.sd_shaped(), steps, 1, "latent", ip_adapter=True),
        "sd_shaped_loop": lambda: generation.procedures(models.sd_shaped(), steps),
        "toybox": lambda: pipelines(models.toybox(), 5 * steps, 8, "pil", ip_adapter=False),
        "toybox_loop": lambda: generation.procedures(models.toybox(), 5 * steps),
        "train_global": lambda: train.steps(train.sd_shaped_whole(), "global"),
        "train_local": lambda: train.steps(train.sd_shaped_whole(), "local"),
    }
    return builders[name]()


def missed(results: dict[str, float]) -> list[str]:
    """The results on the wrong side of their bars; NaN is on no right side."""
    slow = [name for name, bar in AT_MOST.items() if not results[name] <= bar]
    return slow + [name for name, bar in AT_LEAST.items() if not results[name] >= bar]


def concept_ms(repeats: int) -> float:
    """Median milliseconds from a picture to a concept, on the toybox."""
    from elite.toybox import world

    pipe = models.toybox()
    picture = world.sample_picture(0)
    encode = partial(pipe.encode_concept, picture.image, picture.mask)
    return 1e3 * median(measure.interleaved({"encode": encode}, repeats)["encode"])


def main(
    quick: Annotated[bool, typer.Option(help="One short round, to see that it works.")] = False,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = os.cpu_count() or 1,
    alone: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure side by side, interleaved, and print medians of the ratios within a round."""
    torch.set_num_threads(threads)
    steps, repeats = (1, 1) if quick else (3, 7)
    if alone is not None:
        heading, name = alone.split(":")
        contestants(heading, steps=1)[name]()
        typer.echo(measure.own_peak_mb())
        return
    results: dict[str, float] = {}
    seconds: dict[str, list[float]] = {}
    for heading in HEADINGS:
        runs = contestants(heading, steps)
        if heading == "sd_shaped_loop":
            results["naive_difference"] = generation.agree(runs)
        if heading.startswith("train"):
            results[f"naive_difference_{heading}"] = train.agree(runs)
        taken = measure.interleaved(runs, repeats)
        seconds |= {f"{heading}:{name}": values for name, values in taken.items()}
        typer.echo(f"{heading}: " + ", ".join(f"{name} {median(values):.3f} s" for name, values in taken.items()))
    for result, over, under in (
        ("generation_over_plain", "sd_shaped:elite", "sd_shaped:plain"),
        ("ip_adapter_over_plain", "sd_shaped:ip_adapter", "sd_shaped:plain"),
        ("generation_over_plain_toybox", "toybox:elite", "toybox:plain"),
        ("naive_over_ours_generation", "sd_shaped_loop:naive", "sd_shaped_loop:ours"),
        ("naive_over_ours_generation_toybox", "toybox_loop:naive", "toybox_loop:ours"),
        ("naive_over_ours_train_global", "train_global:naive", "train_global:ours"),
        ("naive_over_ours_train_local", "train_local:naive", "train_local:ours"),
    ):
        results[result] = measure.ratio(seconds, over, under)
    results["ops_per_step_over_plain"] = operations.over_plain(operations.sd_layers())
    results["ops_per_step_over_plain_toybox"] = operations.over_plain(models.toybox().unet)
    results["concept_ms"] = concept_ms(3 * repeats)
    results["import_ms"] = measure.import_ms(5)
    memory = {name: measure.peak_memory_mb(name) for name in seconds}

    typer.echo("")
    for name, value in results.items():
        bar = f"at most {AT_MOST[name]:g}" if name in AT_MOST else ""
        bar = f"at least {AT_LEAST[name]:g}" if name in AT_LEAST else bar
        typer.echo(f"{name:36s} {value:10.4g}   {bar}")
    for name, value in memory.items():
        typer.echo(f"{'peak MB ' + name:36s} {value:10.0f}")
    if quick:
        typer.echo("a quick run: nothing is written")
        return
    machine = {"processor": platform.machine(), "threads": threads, "torch": torch.__version__}
    medians = {name: median(values) for name, values in seconds.items()}
    write_json(RESULTS, {"results": results, "seconds": medians, "peak_memory_mb": memory, "machine": machine})
    typer.echo(f"wrote {RESULTS.parent.name}/{RESULTS.name}")
    if wrong := missed(results):
        typer.echo(f"missed: {', '.join(wrong)}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
