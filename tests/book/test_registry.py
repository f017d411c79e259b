"""The equation registry: no orphans, in either direction, and a chapter shows each equation once with its number."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def extension():
    spec = importlib.util.spec_from_file_location("elite_book", ROOT / "book" / "_ext" / "elite_book.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_eight_equations_have_code_tests_and_a_section(extension):
    entries = extension.read_registry()
    assert [entry["number"] for entry in entries] == list(range(1, 9))
    assert extension.registry_problems(entries) == []


def test_each_equation_is_shown_with_its_number_once_where_the_registry_says(extension):
    shown = []
    for page in [*(ROOT / "book").glob("*.ipynb"), *(ROOT / "book").glob("*.md")]:
        prose = page.read_text(encoding="utf-8")
        if page.suffix == ".ipynb":
            cells = json.loads(prose)["cells"]
            prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        shown += [(int(number), f"book/{page.stem}") for number in re.findall(r"\\tag\{(\d+)\}", prose)]
    assert sorted(shown) == [(entry["number"], entry["section"]) for entry in extension.read_registry()]


def test_an_orphan_is_found(extension):
    good = {"number": 9, "name": "n", "latex": "x", "section": "book/intro"}
    entry = {**good, "code": ["elite.attention.no_such"], "tests": ["tests/book/test_registry.py::test_no_such"]}
    assert extension.registry_problems([entry]) == [
        "equation 9: code elite.attention.no_such does not exist",
        "equation 9: test tests/book/test_registry.py::test_no_such does not exist",
    ]
    assert extension.registry_problems([{**good, "code": ["elite.attention.reweight"], "tests": []}]) == [
        "equation 9: tests is missing"
    ]


@pytest.mark.slow
def test_an_equation_shown_twice_is_reported_and_one_that_moved_is_not(tmp_path):
    pytest.importorskip("sphinx", reason="sphinx is not installed")
    extensions = "extensions = ['myst_parser', 'sphinx.ext.autodoc', 'elite_book']"
    path = f"import sys; sys.path.insert(0, {str(ROOT / 'book' / '_ext')!r})"
    (tmp_path / "conf.py").write_text(f"{path}\n{extensions}\nmyst_enable_extensions = ['dollarmath']\n")
    (tmp_path / "index.md").write_text("# Pages\n\n```{toctree}\na\nb\n```\n")

    def complaints(**formulas: str) -> list[str]:
        for name, formula in formulas.items():
            (tmp_path / f"{name}.md").write_text(f"# {name}\n\n{formula}\n")
        command = [sys.executable, "-m", "sphinx", "-b", "dummy", "-q", str(tmp_path), str(tmp_path / "out")]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        return re.findall(r"Eq\. 3 is shown .*", result.stderr)

    shown = r"$$ v \tag{3} $$"
    assert complaints(a=shown, b=shown) == ["Eq. 3 is shown with its number 2 times: a, b"]
    assert complaints(b="moved away") == []
    assert complaints(a="moved away", b=shown) == []  # read again in an order in which both seem to have it
