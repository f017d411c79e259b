"""The repository itself: addresses agree, requirements have lower bounds only, nothing private is in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import set_address  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


def texts(*suffixes: str) -> dict[str, str]:
    return {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in tracked() if p.suffix in suffixes}


def test_all_places_agree_on_the_address():
    name = re.compile(r"(?:github\.com|raw\.githubusercontent\.com|research\.google\.com/github)/([\w-]+/elite[\w.-]*)")
    own = set_address.forms(set_address.current())[1]
    found = {match.removesuffix(".git") for text in texts(".toml", ".yml", ".md", ".cff", ".ipynb", ".py").values()
             for match in name.findall(text)}  # fmt: skip
    assert found - {"someone/elite-book"} == {own}


def test_one_command_changes_the_address_everywhere(tmp_path):
    for path in set_address.places():
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    old = set_address.forms(set_address.current(tmp_path))[1]
    before = set_address.places(tmp_path)
    assert {path.name for path in before} >= {"pyproject.toml", "_config.yml", "CITATION.cff"}
    changed = set_address.set_address("https://github.com/someone/elite-book.git", tmp_path)
    assert changed == before
    assert all(old not in path.read_text() for path in changed)
    assert "https://someone.github.io/elite-book" in (tmp_path / "pyproject.toml").read_text()
    readme = (tmp_path / "README.md").read_text()
    assert readme.count("[Open in Colab]") == readme.count("| [![Open in Colab]") > 4  # in comments before
    assert set_address.current(tmp_path) == "https://github.com/someone/elite-book"
    assert set_address.set_address("https://github.com/someone/elite-book", tmp_path) == []  # a second run does nothing


def test_a_wrong_address_changes_nothing(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with pytest.raises(ValueError, match=r"must look like"):
        set_address.set_address("ftp://example.org/x", tmp_path)
    assert (tmp_path / "pyproject.toml").read_text() == (ROOT / "pyproject.toml").read_text()


def test_requirements_have_lower_bounds_only():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    extras = [line for group in PROJECT["optional-dependencies"].values() for line in group]
    for line in [*lines, *PROJECT["dependencies"], *extras]:
        # Jupyter Book 2 is another program; nothing else may hold a newer version back.
        assert re.fullmatch(r"[A-Za-z0-9_.-]+>=[0-9.]+", line) or line.startswith("jupyter-book>="), line


def test_requirements_are_those_of_the_package_and_the_book_with_the_same_bounds():
    lines = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"}
    extras = PROJECT["optional-dependencies"]
    assert {*PROJECT["dependencies"], *extras["book"]} <= lines
    assert lines <= {*PROJECT["dependencies"], *(line for group in extras.values() for line in group)}


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELITE_DEVICE", "cpu")
    exec(code.replace("fusion_weight=0.6", "fusion_weight=0.6, num_inference_steps=2"), {})
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"dog.png", "dog-mask.png", "snow.png", "dog.safetensors"}


def test_every_chapter_is_in_the_table_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    chapters = re.findall(r"book/\d\w+", (ROOT / "_toc.yml").read_text())
    assert len(chapters) >= 4
    for chapter in ["book/intro", *chapters]:
        row = next(line for line in readme.splitlines() if line.startswith("|") and f"({chapter}.ipynb)" in line)
        assert f"OWNER/elite-book/blob/main/{chapter}.ipynb" in row.replace(set_address.forms(set_address.current())[1],
                                                                            "OWNER/elite-book")  # fmt: skip


def test_commands_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    commands = set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text()))
    assert {"book", "test"} <= commands
    for command in commands:
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


def test_options_of_the_readme_exist():
    from typer.testing import CliRunner

    from elite.cli import app

    for line in re.findall(r"^elite (\w+) (.*(?:\\\n.*)*)", (ROOT / "README.md").read_text(), re.MULTILINE):
        shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, [line[0], "--help"])
        assert shown.exit_code == 0, line[0]
        for option in re.findall(r"--[a-z-]+", line[1]):
            assert option in shown.output, option


def test_links_of_the_documents_resolve():
    for name, text in texts(".md").items():
        if name.startswith("book/"):
            continue  # the build of the book checks those
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            if not link.startswith("http"):
                assert ((ROOT / name).parent / link).exists(), f"{name}: {link}"


def test_no_path_of_a_machine_is_committed():
    # Written in pieces, or this file would be the first to be found.
    private = re.compile("/" + r"(?:root|work)/[\w.]|/home/(?!runner)\w+/|/Users/\w+/")
    for name, text in texts(".py", ".md", ".toml", ".yml", ".ipynb", ".json", ".cff", ".cfg").items():
        assert not private.search(text), name


def test_versions_agree():
    import elite

    assert f"## {elite.__version__}" in (ROOT / "CHANGELOG.md").read_text()
