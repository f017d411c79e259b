"""The API reference: every public module of the package is in it, and every module says what it is."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "book").glob("api*.md"))


@pytest.fixture(scope="module")
def extension():
    spec = importlib.util.spec_from_file_location("elite_api", ROOT / "book" / "_ext" / "elite_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public_modules() -> dict[str, Path]:
    """Every module of the package without a leading underscore in its name, but for ``elite`` itself."""
    found = {}
    for path in (ROOT / "elite").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if len(parts) > 1 and not any(part.startswith("_") for part in parts):
            found[".".join(parts)] = path
    return found


def shown_patterns() -> list[str]:
    """What the directives of all its pages name."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    return [p for line in re.findall(r"\.\. api-modules::((?: +\S+|\n +\S+)+)", text) for p in line.split()]


def shown_modules(extension) -> list[str]:
    """The modules that these patterns stand for."""
    return [name for pattern in shown_patterns() for name in extension.matching_modules(pattern)]


def test_every_public_module_is_in_it(extension):
    modules, shown = public_modules(), shown_modules(extension)
    # a package that is given by its own name and lists what it gives speaks for its modules
    speakers = {
        name
        for name in shown_patterns()
        if name in modules
        and modules[name].name == "__init__.py"
        and "__all__" in modules[name].read_text(encoding="utf-8")
    }
    missing = [name for name in modules if name not in shown and name.rpartition(".")[0] not in speakers]
    assert not missing


def test_no_module_is_in_it_twice(extension):
    shown = shown_modules(extension)
    assert len(shown) == len(set(shown)) > 30


def test_a_module_that_does_not_exist_names_nothing(extension):
    assert extension.matching_modules("elite.no_such") == extension.matching_modules("elite.no_such.*") == []
    assert extension.matching_modules("elite.mapping") == ["elite.mapping"]
    assert "elite.data.index" in extension.matching_modules("elite.data.*")
    assert "elite.teaching.exercises._judge" not in extension.matching_modules("elite.teaching.exercises.*")


def test_every_public_module_says_what_it_is():
    silent = [
        name
        for name, path in public_modules().items()
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent
