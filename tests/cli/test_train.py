"""``elite train CONFIG`` hands on settings and errors; the runs themselves are in tests/training."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from elite.cli import app
from elite.training.config import TrainingConfig
from elite.training.presets import PRESETS


@pytest.fixture
def trained(monkeypatch):
    """The settings that a command would train with, in place of a run."""
    seen: list[TrainingConfig] = []

    def run(config, *, resume, progress):
        seen.append(config)
        return SimpleNamespace(validation=[(0, 0.5)], skipped=0, step=config.steps)

    monkeypatch.setattr("elite.training.loop.train", run)
    return seen


def train(*words: object):
    return CliRunner().invoke(app, ["train", *map(str, words)])


def test_settings_come_from_the_preset_or_file_then_the_options(trained, tmp_path):
    path = TrainingConfig("local", output=str(tmp_path / "run"), seed=4).save(tmp_path / "mine.yaml")
    done = train(path, "--steps", 7, "--set", "ema_decay=0.5", "--set", "trackers=[]", "--set", "learning_rate=1e-4")
    assert done.exit_code == 0 and "7 steps taken" in done.output
    assert trained == [TrainingConfig.from_file(path, steps=7, ema_decay=0.5, learning_rate=1e-4)]
    assert train("toybox-global", "--output", tmp_path / "toy").exit_code == 0
    assert trained[1] == PRESETS["toybox-global"].with_changes(output=str(tmp_path / "toy"))


def test_the_form_of_0_1_still_works(trained, tmp_path):
    output = ["--output", tmp_path / "run"]
    assert train("global", *output).exit_code == train("local", "--config", "sd14-local", *output).exit_code == 0
    assert [config.stage for config in trained] == ["global", "local"] and trained[1].model == "sd14"
    other = train("global", "--config", "sd14-local", *output)
    assert other.exit_code == 2 and "is for the local stage" in other.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["no-such.yaml"], "must be one of sd14-global"),
        (["toybox-global", "--set", "stpes=3"], "unknown setting 'stpes'; is steps meant?"),
        (["toybox-global", "--set", "steps"], "must be NAME=VALUE"),
        (["toybox-global", "--steps", "0"], "steps must be a whole number, at least 1, got 0"),
    ],
)
def test_bad_settings_get_one_sentence(trained, words, says):
    refused = train(*words)
    assert refused.exit_code == 2 and refused.stderr.startswith("error: ") and says in refused.stderr
    assert trained == []


def test_the_schema_names_every_setting():
    assert set(json.loads(train("schema").output)["properties"]) == set(TrainingConfig.model_fields)
