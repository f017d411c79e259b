"""What the book builds from data: the equation registry, the timings page, readable docstrings.

A formula with ``\\tag{N}`` in a chapter becomes the target ``eq-N``, so that ``[Eq. N](#eq-N)`` links to it from every
page. The registry (``book/equations.yml``) names for each equation of the paper its code, its tests and its chapter;
an equation without them, or a name that does not exist, is a warning, and warnings are errors in this book.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "book" / "equations.yml"
TIMINGS = ROOT / "book" / "timings.yml"
TAG = re.compile(r"\\tag\{(\d+)\}")

logger = logging.getLogger(__name__)


class SectionLink(nodes.General, nodes.Element):
    """Stands for a link to an equation's section until all pages have been read."""


def read_registry() -> list[dict[str, Any]]:
    """The registry: one mapping an equation, with number, name, latex, code, tests and section."""
    return yaml.safe_load(REGISTRY.read_text(encoding="utf-8"))


def registry_problems(entries: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the registry apart from its sections: a missing field, code or test that does not exist."""
    problems = []
    for entry in entries:
        number = entry.get("number")
        for key in ("number", "name", "latex", "code", "tests", "section"):
            if not entry.get(key):
                problems.append(f"equation {number}: {key} is missing")
        problems += [
            f"equation {number}: code {name} does not exist" for name in entry.get("code", ()) if not _resolves(name)
        ]
        problems += [
            f"equation {number}: test {name} does not exist" for name in entry.get("tests", ()) if not _has_test(name)
        ]
    return problems


class EquationRegistry(SphinxDirective):
    """``{equation-registry}``: a table of the equations with their code, tests and sections."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(REGISTRY))
        rows = []
        for entry in read_registry():
            link = SectionLink(number=entry["number"])
            code = literals(entry["code"])
            rows.append(
                [
                    str(entry["number"]),
                    entry["name"],
                    nodes.math("", entry["latex"]),
                    code,
                    literals(entry["tests"]),
                    link,
                ]
            )
        return [make_table(["Eq.", "What", "Formula", "Code", "Test", "Section"], rows)]


class ChapterTimings(SphinxDirective):
    """``{chapter-timings}``: seconds each chapter took when it was last executed, and its budget."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(TIMINGS))
        seconds = yaml.safe_load(TIMINGS.read_text(encoding="utf-8")) if TIMINGS.exists() else {}
        rows = []
        for notebook in sorted((ROOT / "book").glob("*.ipynb"), key=lambda path: (path.stem != "intro", path.stem)):
            taken = seconds.get(notebook.stem)
            metadata = yaml.safe_load(notebook.read_text(encoding="utf-8"))["metadata"]
            budget = metadata.get("elite", {}).get("budget", {}).get("seconds")
            size = f"{notebook.stat().st_size / 1e3:.0f} kB"
            rows.append(
                [
                    notebook.stem,
                    "not recorded" if taken is None else f"{taken:.0f} s",
                    f"{budget} s" if budget else "none",
                    size,
                ]
            )
        return [make_table(["Page", "Took", "Budget", "File"], rows)]


def numbered_in(env: BuildEnvironment) -> dict[str, list[str]]:
    """The numbers of the equations that each page shows, kept from build to build."""
    if not hasattr(env, "elite_numbered"):
        env.elite_numbered = {}
    return env.elite_numbered


def forget_page(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """A page that changed is read again, or is gone."""
    numbered_in(env).pop(docname, None)


def merge_pages(app: Sphinx, env: BuildEnvironment, docnames: set[str], other: BuildEnvironment) -> None:
    """Take over what another process read."""
    numbered_in(env).update({name: found for name, found in numbered_in(other).items() if name in docnames})


def number_equations(app: Sphinx, document: nodes.document) -> None:
    """Give every formula with a ``\\tag{N}`` the project-wide label ``eq-N``."""
    labels = app.env.get_domain("std").data["labels"]
    for block in list(document.findall(nodes.math_block)):
        match = TAG.search(block.astext())
        if match is None:
            continue
        label = f"eq-{match[1]}"
        numbered_in(app.env).setdefault(app.env.docname, []).append(match[1])
        target = nodes.target("", "", ids=[label], names=[label])
        document.note_explicit_target(target)
        block.parent.insert(block.parent.index(block), target)
        labels[label] = (app.env.docname, label, f"Eq. {match[1]}")
        app.env.get_domain("std").data["anonlabels"][label] = (app.env.docname, label)


def check_registry(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn about every orphan: an equation without code, test or section, and a section without an entry."""
    entries = read_registry()
    for problem in registry_problems(entries):
        logger.warning("book/equations.yml: %s", problem)
    labels = env.get_domain("std").data["labels"]
    for entry in entries:
        label, section = f"eq-{entry['number']}", entry["section"]
        if label not in labels:
            logger.warning("book/equations.yml: equation %s is shown in no chapter", entry["number"])
        elif labels[label][0] != section:
            logger.warning(
                "book/equations.yml: equation %s is in %s, not in %s", entry["number"], labels[label][0], section
            )
    shown = [(number, page) for page, numbers in numbered_in(env).items() for number in numbers]
    for number in sorted({number for number, _ in shown}):
        pages = sorted(page for one, page in shown if one == number)
        if len(pages) > 1:
            logger.warning("Eq. %s is shown with its number %d times: %s", number, len(pages), ", ".join(pages))
    known = {f"eq-{entry['number']}" for entry in entries}
    for label in labels:
        if re.fullmatch(r"eq-\d+", label) and label not in known:
            logger.warning("book/equations.yml: %s (in %s) has no entry", label, labels[label][0])


def resolve_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the link to its section in every row of the registry."""
    labels = app.env.get_domain("std").data["labels"]
    for node in list(doctree.findall(SectionLink)):
        label = f"eq-{node['number']}"
        if label not in labels:
            node.replace_self(nodes.Text("none"))
            continue
        target = labels[label][0]
        title = app.env.titles[target].astext()
        node.replace_self(make_refnode(app.builder, docname, target, label, nodes.Text(title)))


def escape_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are prose, not reStructuredText: keep ``S*``, ``|v|`` and ``name_`` as they are written."""
    for index, line in enumerate(lines):
        pieces = re.split(r"(``.*?``)", line)
        for place in range(0, len(pieces), 2):
            piece = re.sub(r"(?<!\\)([*|])", r"\\\1", pieces[place])
            pieces[place] = re.sub(r"(\w)_(?!\w)", r"\1\\_", piece)
        lines[index] = "".join(pieces)


def drop_thebe(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Leave out the scripts of a live-code service on the network: no button starts it, and they fail on every page."""
    scripts = context.get("script_files", [])
    context["script_files"] = [s for s in scripts if "thebe" not in f"{s} {getattr(s, 'attributes', {})}".lower()]


def _resolves(name: str) -> bool:
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def _has_test(name: str) -> bool:
    path, _, function = name.partition("::")
    source = ROOT / path
    if not source.is_file():
        return False
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in ast.walk(tree))


def literals(names: list[str]) -> nodes.Element:
    """Names one under the other, with places to break a long one on a narrow screen."""
    box = nodes.line_block()
    for name in names:
        box += nodes.line("", "", nodes.literal("", name))
    return box


def make_table(head: list[str], rows: list[list[Any]]) -> nodes.table:
    """A table of texts, inline nodes and line blocks."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    header, body = nodes.thead(), nodes.tbody()
    header += nodes.row("", *(nodes.entry("", nodes.paragraph("", text)) for text in head))
    for row in rows:
        line = nodes.row()
        for value in row:
            block = value if isinstance(value, nodes.line_block) else nodes.paragraph()
            if block is not value:
                block += nodes.Text(value) if isinstance(value, str) else value
            line += nodes.entry("", block)
        body += line
    group += [header, body]
    table = nodes.table("", group)
    table["classes"].append("elite-registry")
    return table


def _find_package() -> None:
    """Let the build import the package of this checkout, installed or not."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))


def setup(app: Sphinx) -> dict[str, Any]:
    _find_package()
    app.add_node(SectionLink)
    app.add_directive("equation-registry", EquationRegistry)
    app.add_directive("chapter-timings", ChapterTimings)
    app.connect("env-purge-doc", forget_page)
    app.connect("env-merge-info", merge_pages)
    app.connect("doctree-read", number_equations)
    app.connect("env-check-consistency", check_registry)
    app.connect("doctree-resolved", resolve_links)
    app.connect("html-page-context", drop_thebe, priority=999)
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)  # before napoleon reads the sections
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
