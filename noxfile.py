"""Every version that is promised: ``nox -s oldest newest colab`` runs tests and two chapters from the built wheel.

uv does the installing, as only it can resolve the oldest versions that pyproject.toml allows. A session whose
interpreter is not there is skipped with a message; what no session ran is not declared in pyproject.toml.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["oldest", "newest", "colab"]
ROOT = Path(__file__).parent
CHAPTERS = ("book/01_cross_attention.ipynb", "book/03_local_mapping.ipynb")
EXTRAS = ("book", "train", "test")
# These look at the checkout itself, not at an installed package, or at the book as built.
CHECKOUT = ("tests/book", "tests/test_repository.py", "tests/test_imports.py")


def check(session: nox.Session, *options: str) -> None:
    """Install the wheel with all extras, and run tests and chapters where nothing but the wheel has ``elite``."""
    session.run("uv", "build", "--wheel", "--quiet", "--out-dir", session.create_tmp(), ".", external=True)
    (wheel,) = Path(session.create_tmp()).glob("elite-*.whl")
    extras = [f"--extra={name}" for name in EXTRAS]
    session.install(*options, "--requirements", str(ROOT / "pyproject.toml"), *extras)  # of these the options speak
    session.install("--no-deps", str(wheel))
    session.run("uv", "pip", "list", external=True)
    copy = Path(session.create_tmp()) / "checkout"
    shutil.rmtree(copy, ignore_errors=True)
    left_out = ("elite", "elite.egg-info", ".git", ".venv", ".nox", "build", "_build", "__pycache__", ".whl")
    shutil.copytree(ROOT, copy, ignore=lambda folder, names: left_out if Path(folder) == ROOT else ["__pycache__"])
    session.chdir(copy)
    session.run("python", "-c", "import elite, sys; sys.exit('site-packages' not in elite.__file__)")
    ignored = [f"--ignore={path}" for path in CHECKOUT]
    session.run("python", "-m", "pytest", "tests", *ignored, *session.posargs)
    session.run("python", "-m", "pytest", "--nbval", *CHAPTERS, env={"ELITE_BUDGET_FACTOR": "0"})


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The lowest versions that pyproject.toml allows, on the oldest Python."""
    check(session, "--resolution=lowest-direct")


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """The newest versions of everything, on the newest Python that was tried."""
    check(session, "--upgrade")


@nox.session(python="3.13")
def colab(session: nox.Session) -> None:
    """The versions that Google Colab brings."""
    check(session, "--constraints", str(ROOT / "tools" / "colab.txt"))
