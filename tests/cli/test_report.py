"""``elite report`` on the miniature, with two pictures of one subject."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elite.cli import app


def run(*words: object):
    return CliRunner().invoke(app, ["report", *(str(word) for word in words)])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    few = ["--subjects", 1, "--prompts", 2, "--steps", 2, "--device", "cpu", "--no-progress"]
    found = run("failures", "--results", folder / "results", "--pictures", folder / "pictures", *few)
    assert found.exit_code == 0, found.output
    assert "Fig. 9" in found.stdout and "clip_t" in found.stdout
    return folder


def check(home: Path, results: Path):
    return run("failures", "--check", "--results", results, "--pictures", home / "none", "--device", "cpu")


def test_a_stored_table_holds(home):
    found = check(home, home / "results")
    assert found.exit_code == 0, found.output
    assert "failures holds" in found.stdout
    assert (home / "pictures/failures.jpg").is_file() and not (home / "none").exists()
    worst = json.loads((home / "results/failures.json").read_text())["more"]["worst"]
    assert len(worst) == 1 and worst[0]["subject"] == 0


def test_one_changed_score_fails_the_check(home, tmp_path):
    value = json.loads((home / "results/failures.json").read_text())
    scores = value["rows"]["ELITE"]["scores"]["dino_i"]
    scores[0][1][0] = round(scores[0][1][0] + 0.015, 4)
    (tmp_path / "failures.json").write_text(json.dumps(value))
    found = check(home, tmp_path)
    assert found.exit_code == 2
    assert "was changed: in row ELITE, dino_i is not the mean of its scores" in " ".join(found.output.split())


def test_bad_input_is_one_sentence(tmp_path):
    for words, message in (
        (["table9"], "a report is one of table1"),
        (["table1", "--check", "--results", tmp_path], "elite report table1 makes it"),
        (
            ["table1", "--variants", tmp_path, "--pictures", tmp_path / "p", "--device", "cpu"],
            "variant single-word is not",
        ),
    ):
        found = run(*words)
        assert found.exit_code == 2 and message in " ".join(found.output.split())
