"""The benchmark compares like with like: its contestants give the same numbers, and time is taken in turns."""

from __future__ import annotations

import json

import psutil
import pytest
import torch
import typer
from typer.testing import CliRunner

from bench import __main__ as bench
from bench import generation, gpu, measure, operations, train
from tests.helpers import tiny_pipeline


def test_contestants_take_turns_and_the_first_run_does_not_count():
    calls = []
    seconds = measure.interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert [len(taken) for taken in seconds.values()] == [3, 3]


def test_a_ratio_is_the_median_over_rounds():
    assert measure.ratio({"a": [2.0, 9.0, 3.0], "b": [1.0, 3.0, 3.0]}, "a", "b") == 2.0


def test_the_authors_procedure_gives_our_latents(fresh):
    """Otherwise its time would be that of something else."""
    assert generation.agree(generation.procedures(fresh, steps=3)) < 1e-4


def test_pipelines_on_one_unet_draw_with_and_without_the_subject(fresh):
    contestants = generation.pipelines(generation.bases(fresh, ip_adapter=True), 2, 1, "latent")
    pictures = {name: run().images for name, run in contestants.items()}
    assert pictures["elite"].shape == pictures["plain"].shape == (1, 4, 8, 8)
    assert not pictures["elite"].allclose(pictures["plain"], atol=1e-2)


def test_peak_memory_grows_with_what_is_held_and_does_not_fall_again():
    before = measure.own_peak_mb()
    assert before > 0.95 * psutil.Process().memory_info().rss / 2**20
    held = torch.ones(2**27)  # 512 MB
    after = measure.own_peak_mb()
    assert after > psutil.Process().memory_info().rss / 2**20 * 0.95
    del held
    assert measure.own_peak_mb() > 0.98 * after  # the kernel counts in coarse steps


@pytest.mark.parametrize(("slower", "status"), [(1.0, 0), (1.3, 1)])
def test_a_missed_bar_fails_the_run_after_its_results_are_written(monkeypatch, tmp_path, slower, status):
    seconds = {"plain": 1.0, "ip_adapter": 1.0, "elite": slower, "naive": 9.0, "ours": 1.0}
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(bench, "contestants", lambda heading, steps: seconds)
    monkeypatch.setattr(bench, "concept_ms", lambda repeats: 1.0)
    monkeypatch.setattr(operations, "over_plain", lambda unet: 1.0)
    monkeypatch.setattr(measure, "interleaved", lambda runs, repeats: {name: [taken] for name, taken in runs.items()})
    for module, name in ((measure, "import_ms"), (measure, "peak_memory_mb"), (generation, "agree"), (train, "agree")):
        monkeypatch.setattr(module, name, lambda given: 0.0)
    app = typer.Typer()
    app.command()(bench.main)
    run = CliRunner().invoke(app, ["--threads", "1"])
    assert run.exit_code == status, run.output
    assert (tmp_path / "results.json").is_file()
    assert ("missed: generation_over_plain, generation_over_plain_toybox" in run.output) == bool(status)


@pytest.fixture
def gpu_of_the_mind(monkeypatch):
    """`bench.gpu` on the CPU with tiny models: what is measured is nonsense, that it is measured is not."""
    for name in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    held = iter(range(0, 10**9, 10**6))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: next(held))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: next(held))
    monkeypatch.setattr(gpu.models, "sd_v1_4", lambda device, dtype: tiny_pipeline(seed=0))


def test_memory_is_what_a_run_takes_and_its_own_weights_once(gpu_of_the_mind):
    layer = torch.nn.Linear(250, 1000, bias=False)  # 1 MB
    assert gpu.peak_memory_mb(lambda: None, [layer, torch.nn.Sequential(layer)]) == pytest.approx(1 + 1)


def test_generation_on_a_gpu_measures_all_three(gpu_of_the_mind):
    result = gpu.generate(batch=2, steps=2, repeats=1)
    assert set(result["seconds"]) == set(result["peak_memory_mb"]) == {"elite", "plain", "ip_adapter"}
    assert result["elite_over_plain"] == pytest.approx(result["seconds"]["elite"] / result["seconds"]["plain"])


@pytest.mark.parametrize("stage", ["global", "local"])
@pytest.mark.parametrize("variant", ["float32", "bf16, fused AdamW, checkpointing"])
def test_training_on_a_gpu_measures_a_step(gpu_of_the_mind, stage, variant):
    result = gpu.train_step(stage, 2, variant, repeats=1)
    assert result["step_ms"] > 0 and result["peak_memory_mb"] > 1


def test_a_part_that_fails_leaves_the_others_alone(monkeypatch, tmp_path):
    def fails():
        raise RuntimeError("no reason")

    def lacks():
        raise gpu.NotHereError("not measured: it is not installed")

    given = {"a": fails, "b": lambda: {"elite_over_plain": 1.04}, "c": lambda: {"elite_over_plain": 1.06}, "d": lacks}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "parts", lambda quick: given)
    monkeypatch.setattr(gpu, "machine", dict)
    app = typer.Typer()
    app.command()(gpu.main)
    run = CliRunner().invoke(app, ["--output", str(tmp_path / "gpu.json")])
    assert run.exit_code == 1
    assert "failed or missed: a; c\n" in run.output
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert results["a"] == {"failed": "RuntimeError: no reason"}
    assert results["b"] == {"elite_over_plain": 1.04}
    assert results["d"] == {"not_measured": "not measured: it is not installed"}
