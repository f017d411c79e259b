"""The API reference: every module that a pattern names, from its docstrings.

``.. api-modules:: elite.pipeline elite.data.*`` writes one ``automodule`` for each module; ``PACKAGE.*`` stands for the
package and all modules directly in it, so a new module is in the book without anyone listing it. A package that has
``__all__`` and is given by its own name speaks for its modules. Nothing is shown in two places: links would not know
where to lead.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]


def matching_modules(pattern: str) -> list[str]:
    """The public modules that ``pattern`` names, in order; none if there are none.

    Args:
        pattern: a module, or ``PACKAGE.*``.
    """
    if not pattern.endswith(".*"):
        return [pattern] if _exists(ROOT.joinpath(*pattern.split("."))) else []
    package = pattern.removesuffix(".*")
    folder = ROOT.joinpath(*package.split("."))
    names = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return [package, *(f"{package}.{name}" for name in names)] if _exists(folder) else []


def _exists(path: Path) -> bool:
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


class ApiModules(SphinxDirective):
    """``.. api-modules:: PATTERN …``: a heading and the docstrings of each module; for ``eval-rst`` blocks."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        for pattern in self.arguments[0].split():
            found = matching_modules(pattern)
            if not found:
                raise self.error(f"api-modules: {pattern} names no module of the package")
            for name in found:
                lines += [f".. rubric:: {name}", "   :class: elite-module", "", f".. automodule:: {name}"]
                alone = name == pattern and self._speaks_for_its_modules(name)
                lines += ["   :members:", "   :imported-members:" if alone else "   :ignore-module-all:", ""]
        box = nodes.container(classes=["elite-api"])
        self.state.nested_parse(StringList(lines, source=self.get_source_info()[0]), self.content_offset, box)
        return box.children

    def _speaks_for_its_modules(self, name: str) -> bool:
        module = importlib.import_module(name)
        return hasattr(module, "__path__") and hasattr(module, "__all__")


def skip_foreign(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: object) -> bool | None:
    """Leave out what a module only passes on from another library; that library documents it."""
    home = getattr(obj, "__module__", None)
    if what == "module" and isinstance(home, str) and home.partition(".")[0] != "elite":
        return True
    return None  # as autodoc would


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("api-modules", ApiModules)
    app.connect("autodoc-skip-member", skip_foreign)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
