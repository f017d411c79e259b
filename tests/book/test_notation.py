"""The notation page: a row for every symbol of the equations, names that exist, a shape for every tensor."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "book" / "notation.ipynb"

BASE = r"\\(?:mathcal|mathbb|mathrm|operatorname)\{\w+\}|\\[A-Za-z]+|[A-Za-z]"
SCRIPTS = r"(?:'|[_^](?:\{[^{}]*\}|\\[A-Za-z]+|\w))*"
# layout and signs that everybody knows
PLAIN = {r"\left", r"\right", r"\frac", r"\sqrt", r"\lVert", r"\ldots", r"\text"}
# what the first run through the model has to show
TENSORS = [
    "x",
    "m",
    "f",
    "v",
    "w_0",
    "e",
    "z_t",
    r"\epsilon",
    "Q",
    "K^g",
    "V^g",
    "K^l",
    "V^l",
    "A^g_{w_0}",
    "A^l",
    r"\lambda",
]


def symbols(latex: str) -> set[str]:
    """The symbols of a formula, each with its indexes: ``K^l``, ``A^g_{w_0}``, ``\\mathcal{L}_{LDM}``."""
    latex = latex.replace(r"^\top", "").replace("{K^l}", "K^l")
    return set(re.findall(f"(?:{BASE}){SCRIPTS}", latex)) - PLAIN


def rows(text: str) -> list[list[str]]:
    """The cells of every table row of Markdown text."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(PAGE.read_text(encoding="utf-8"))["cells"]


@pytest.fixture(scope="module")
def explained(cells) -> list[list[str]]:
    return rows("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"))


def test_symbols_are_found_with_their_indexes():
    latex = r"A^l = \operatorname{Softmax}\left(\frac{Q {K^l}^\top}{\sqrt{d'}}\right) \odot \frac{A^g_{w_0}}{\max(x)}"
    expected = {"A^l", r"\operatorname{Softmax}", "Q", "K^l", "d'", r"\odot", "A^g_{w_0}", r"\max", "x"}
    assert symbols(latex) == expected
    assert symbols(r"\lVert v \rVert_1 + \mathcal{L}_{LDM}") == {"v", r"\rVert_1", r"\mathcal{L}_{LDM}"}


def test_every_symbol_of_an_equation_has_a_row(explained):
    known = set().union(*(symbols(math) for row in explained for math in re.findall(r"\$([^$]+)\$", row[0])))
    missing = {
        (entry["number"], symbol)
        for entry in yaml.safe_load((ROOT / "book" / "equations.yml").read_text(encoding="utf-8"))
        for symbol in symbols(entry["latex"]) - known
    }
    assert not missing


def test_every_row_says_what_it_means_and_names_code(explained):
    assert all(len(row) == 3 and all(row) for row in explained), [row for row in explained if len(row) != 3]


def test_names_of_the_package_exist(explained):
    spec = importlib.util.spec_from_file_location("elite_book", ROOT / "book" / "_ext" / "elite_book.py")
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    names = {name for row in explained for name in re.findall(r"`(elite\.[\w.]+)`", row[2])}
    assert len(names) > 10
    assert not {name for name in names if not extension._resolves(name)}


def test_every_tensor_of_the_method_has_its_shape(cells):
    outputs = [output.get("data", {}).get("text/markdown", "") for cell in cells for output in cell.get("outputs", [])]
    shown = {row[0].strip("$"): row[1].replace("\u00a0", " ") for text in outputs for row in rows("".join(text))}
    assert set(TENSORS) <= set(shown)
    assert shown["f"].endswith(")") and " × (1, " in shown["f"]
    assert re.fullmatch(r"\(1, \d+, \d+, \d+\)", shown["A^l"])
