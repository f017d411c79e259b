"""The benchmark compares like with like: its contestants give the same numbers, and time is taken in turns."""

from __future__ import annotations

import psutil
import pytest
import torch
import typer
from typer.testing import CliRunner

from bench import __main__ as bench
from bench import generation, measure, operations, train


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
    contestants = generation.pipelines(fresh, 2, 1, "latent", ip_adapter=False)
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
