"""Dependencies point one way: the import graph, drawn from the source, imports inside functions included.

What only a type checker imports (``if TYPE_CHECKING``) is left out: it names types, and nothing is loaded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "elite").rglob("*.py"))
}


def imported(name: str, path: Path) -> Iterator[str]:
    """The names that a module imports, wherever in it, as absolute dotted paths."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _loaded(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
            "import_module",
            "__import__",
        ):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def _loaded(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _loaded(node)


def module_of(name: str) -> str | None:
    """The module of the package that an imported name stands for or in."""
    while name:
        if name in MODULES:
            return name
        name = name.rpartition(".")[0]
    return None


def graph() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    return {
        name: {found for target in imported(name, path) if (found := module_of(target)) not in (None, name)}
        for name, path in MODULES.items()
    }


def test_no_module_imports_itself_by_a_detour():
    """A package counts as its ``__init__`` alone, so its modules may import one another through their own names."""
    try:
        list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_folders_depend_on_each_other_in_one_direction():
    """Also as wholes: what lies in one folder of `elite` never leads back into it by way of another."""
    folders: dict[str, set[str]] = {}
    for name, targets in graph().items():
        folders.setdefault(folder(name), set()).update({folder(target) for target in targets} - {folder(name)})
    try:
        list(TopologicalSorter(folders).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def folder(name: str) -> str:
    parts = name.split(".")
    is_folder = len(parts) > 1 and (ROOT / "elite" / parts[1]).is_dir()
    return f"elite.{parts[1]}" if is_folder else name


def test_only_what_stands_above_the_toybox_imports_it():
    above = ("elite.cli", "elite.evaluation", "elite.teaching", "elite.toybox")
    below = {name: targets for name, targets in graph().items() if not name.startswith(above)}
    assert not {name for name, targets in below.items() if any(t.startswith("elite.toybox") for t in targets)}


def test_the_package_needs_nothing_of_the_repository_around_it():
    outside = {
        (name, target)
        for name, path in MODULES.items()
        for target in imported(name, path)
        if target.split(".")[0] in ("book", "bench", "tools", "tests", "conftest")
    }
    assert not outside


def test_the_graph_sees_hidden_imports():
    assert "elite.pipeline" in graph()["elite.backbones"]  # inside a function
    assert len(graph()["elite.training.loop"]) > 5
