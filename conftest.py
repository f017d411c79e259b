"""Make the bare ``pytest --nbval book/`` right: kernels, comparison rules, and every chapter's time budget.

A chapter names its budget in its notebook metadata, ``{"elite": {"budget": {"seconds": 60}}}``: seconds on two cores.
A run that takes longer fails. ``ELITE_BUDGET_FACTOR`` widens the budgets on slower machines; 0 turns them off.

``ELITE_NOISE=1e-5`` runs the chapters as a device would that computes a little differently (`tools/perturbation.py`).
Cells tagged ``two-ways``, which compare two ways of computing the same, are left out of the noise, not of the run.

What a cell writes to stderr differs from machine to machine and is not compared; ``-rP`` shows it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
SANITIZER = ROOT / "nbval_sanitize.cfg"

# What the chapters' kernels need whoever starts them; pages must not depend on bars and notices of a machine.
KERNEL_ENVIRONMENT = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTHONHASHSEED": "0",
}

# Runs in every kernel before its first cell, as a file in IPython's startup folder.
NOISE = """
from tools.perturbation import start
start(get_ipython(), relative={relative})
"""

_seconds: dict[Path, float] = defaultdict(float)


def prepare_kernels() -> None:
    """Set the environment that kernels inherit: they start in ``book/`` and must find this checkout's package."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT) + (os.pathsep + before if before else "")
    for name, value in KERNEL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def chapter_budget(notebook: Path) -> float | None:
    """Seconds that a chapter may take on two cores, by its own metadata; None where it names none."""
    metadata = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]
    return metadata.get("elite", {}).get("budget", {}).get("seconds")


@pytest.fixture(scope="session")
def kernel_environment() -> dict[str, str]:
    """What a chapter's kernel needs in its environment, for tests that start kernels themselves."""
    return dict(KERNEL_ENVIRONMENT)


def pytest_configure(config: pytest.Config) -> None:
    option = config.option
    if not (getattr(option, "nbval", False) or getattr(option, "nbval_lax", False)):
        return
    prepare_kernels()
    if not option.nbval_sanitize_with:
        option.nbval_sanitize_with = str(SANITIZER)
    # the running interpreter, unless the caller asked for a kernel by name
    if not option.nbval_kernel_name:
        option.nbval_current_env = True
    if relative := os.environ.get("ELITE_NOISE"):
        folder = tempfile.TemporaryDirectory(prefix="elite-ipython-")
        config.add_cleanup(folder.cleanup)
        startup = Path(folder.name, "profile_default", "startup")
        startup.mkdir(parents=True)
        startup.joinpath("noise.py").write_text(NOISE.format(relative=float(relative)))
        os.environ["IPYTHONDIR"] = folder.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not hasattr(item.parent, "skip_compare"):
            continue  # not a cell
        if "stderr" not in item.parent.skip_compare:
            item.parent.skip_compare += ("stderr",)
        if os.environ.get("ELITE_NOISE") and "two-ways" in item.cell.metadata.get("tags", []):
            item.cell.source = f"# two-ways\n{item.cell.source}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    if call.when == "call":
        for output in getattr(item, "test_outputs", None) or []:
            if output.get("name") == "stderr":
                report.sections.append(("what the cell wrote to stderr", output["text"]))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    path = report.nodeid.split("::")[0]
    if path.endswith(".ipynb"):
        _seconds[ROOT / path] += report.duration


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and _over_budget() and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _seconds:
        return
    terminalreporter.section("chapters: seconds")
    for notebook, taken in sorted(_seconds.items()):
        budget = chapter_budget(notebook) if notebook.exists() else None
        terminalreporter.write_line(f"{notebook.name}: {taken:.1f} of {budget or 'no budget'}")
    for line in _over_budget():
        terminalreporter.write_line(f"over budget: {line}", red=True)


def _over_budget() -> list[str]:
    factor = float(os.environ.get("ELITE_BUDGET_FACTOR", "1"))
    over = []
    for notebook, taken in sorted(_seconds.items()):
        budget = chapter_budget(notebook) if notebook.exists() else None
        if budget and factor and taken > budget * factor:
            over.append(f"{notebook.name} took {taken:.1f} s, its budget is {budget * factor:.0f} s")
    return over


sys.path.insert(0, str(ROOT))  # tests see this checkout's package even where another one is installed
