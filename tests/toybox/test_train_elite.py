"""The last links of the toybox's chain: an export, both stages on it, and the adapter among the weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from elite.io.checksums import SUMS
from elite.toybox import WEIGHTS, train_all, train_elite
from elite.training.config import TrainingConfig
from elite.training.presets import PRESETS


def test_the_local_stage_goes_on_from_the_global_one(tmp_path):
    paths = WEIGHTS, tmp_path / "data", tmp_path / "runs"
    first, second = (train_elite.stage_config(stage, *paths, seed=7) for stage in train_elite.STAGES)
    assert second.adapter == first.output and second.output != first.output
    assert (first.seed, second.seed) == (7, 7) and first.data == second.data == str(tmp_path / "data")
    assert (first.steps, second.steps) == (PRESETS["toybox-global"].steps, PRESETS["toybox-local"].steps)


def test_a_short_run_is_not_all_warm_up_beyond_its_end(tmp_path):
    assert train_elite.stage_config("global", WEIGHTS, tmp_path, tmp_path, steps=3).warmup == 3


def test_runs_of_another_backbone_are_kept_apart_and_of_another_adapter_are_not(tmp_path):
    lines = [f"{'ab' * 32}  unet/config.json", f"{'cd' * 32}  elite/config.json"]

    def identity(*sums: str) -> str:
        (tmp_path / SUMS).write_text("\n".join(sums) + "\n")
        return train_elite.backbone_id(tmp_path)

    assert identity(*lines) == identity(lines[0]) == identity(lines[0], lines[1].replace("cd", "ef"))
    assert identity(*lines) != identity(lines[0].replace("ab", "ba"), lines[1])
    with pytest.raises(FileNotFoundError, match="no weights folder"):
        train_elite.backbone_id(tmp_path / "nowhere")


def test_both_stages_run_in_order_and_the_last_adapter_is_bundled(tmp_path, monkeypatch):
    done = []

    def train(config: TrainingConfig) -> SimpleNamespace:
        done.append((config.stage, config.steps))
        return SimpleNamespace(adapter=f"adapter of the {config.stage} stage")

    monkeypatch.setattr(train_elite, "train", train)
    monkeypatch.setattr(train_elite, "update_adapter", lambda folder, adapter: done.append((folder, adapter)))
    train_elite.train_adapter(WEIGHTS, tmp_path / "data", tmp_path / "runs", steps=(5, None))
    local_steps = PRESETS["toybox-local"].steps
    assert done == [("global", 5), ("local", local_steps), (WEIGHTS, "adapter of the local stage")]


def test_the_chain_ends_with_the_export_and_both_stages(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(train_all, "launch", lambda *command: started.append([str(part) for part in command]))
    monkeypatch.setattr(train_all, "finish", lambda programs: None)
    train_all.chain(tmp_path, tmp_path / "run", Path("weights"), 1.0, 500, 3, "v0", None, 40, (8, None))
    export, elite = started[-2:]
    assert export[0] == "elite.toybox.export" and elite[0] == "elite.toybox.train_elite"
    assert elite[elite.index("--data") + 1] == export[export.index("--folder") + 1]
    assert export[export.index("--classes") + 1] == "v0" and export[export.index("--count") + 1] == "40"
    assert elite[elite.index("--global-steps") + 1] == "8" and "--local-steps" not in elite
    assert started[-3][0] == "assemble"  # the stages train on the finished backbone
