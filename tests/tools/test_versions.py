"""What is promised about versions is what the sessions and the workflows run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tools import colab_versions

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOXFILE = (ROOT / "noxfile.py").read_text(encoding="utf-8")
SESSIONS = re.findall(r'@nox\.session\(python="([\d.]+)"\)\ndef (\w+)', NOXFILE)  # (Python, name)
WORKFLOWS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml")}


def matrix_of(workflow: str, job: str) -> dict:
    return yaml.safe_load(WORKFLOWS[workflow])["jobs"][job]["strategy"]["matrix"]


def test_declared_pythons_are_those_that_are_tested():
    declared = [line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.", line)]
    tested = matrix_of("tests", "cpu")["python"]
    assert declared == tested
    assert PROJECT["requires-python"] == f">={declared[0]}"
    pythons = [python for python, _ in SESSIONS]
    assert min(pythons, key=_number) == declared[0]
    assert max(pythons, key=_number) == declared[-1]


def test_weekly_workflow_runs_every_session_on_its_python():
    included = matrix_of("weekly", "versions")["include"]
    assert {(entry["python"], entry["session"]) for entry in included} == set(SESSIONS)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_call_what_exists(name):
    text = WORKFLOWS[name]
    assert yaml.safe_load(text)["jobs"]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"run: make ([\w-]+)", text)) <= targets
    for path in re.findall(r"\b(?:tools|\.ci)/[\w./]+", text):
        assert (ROOT / path).is_file(), path


def test_colabs_versions_are_read_from_its_list(tmp_path, monkeypatch):
    freeze = "absl-py==1.4.0\nhuggingface-hub==1.9.0\ntorch==2.11.0+cu128\nelse @ file:///x\ndiffusers==0.39.0\n"
    source, target = tmp_path / "freeze.txt", tmp_path / "colab.txt"
    source.write_text(freeze)
    monkeypatch.setattr(colab_versions, "TARGET", target)
    colab_versions.main([str(source)])
    lines = [line for line in target.read_text().splitlines() if not line.startswith("#")]
    assert lines == ["diffusers==0.39.0", "huggingface-hub==1.9.0", "torch==2.11.0"]


def test_something_else_than_colabs_list_changes_nothing(tmp_path, monkeypatch, capsys):
    source, target = tmp_path / "page.html", tmp_path / "colab.txt"
    source.write_text("<html>Not found</html>")
    monkeypatch.setattr(colab_versions, "TARGET", target)
    with pytest.raises(SystemExit):
        colab_versions.main([str(source)])
    assert "holds no line torch==" in capsys.readouterr().err
    assert not target.exists()


def test_committed_colab_list_names_requirements_alone():
    lines = [line for line in colab_versions.TARGET.read_text().splitlines() if not line.startswith("#")]
    assert lines == colab_versions.constraints("\n".join(lines))


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
