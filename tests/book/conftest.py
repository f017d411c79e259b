"""The built book, made once for all tests that look at pages."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def without_network() -> list[str]:
    """What to put before a command so that it finds no network at all; nothing where the system does not allow it."""
    wrapper = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*wrapper, "true"], capture_output=True).returncode:
        return []  # dead proxies have to do
    return wrapper


@pytest.fixture(scope="session")
def built_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of HTML pages. Built with warnings as errors and without the network."""
    if shutil.which("jupyter-book") is None and not (Path(sys.executable).parent / "jupyter-book").exists():
        pytest.skip("jupyter-book is not installed: the built book is not tested")
    output = tmp_path_factory.mktemp("book")
    program = [sys.executable, "-m", "jupyter_book.cli.main"]
    tool = Path(sys.executable).parent / "jupyter-book"
    command = [str(tool)] if tool.exists() else program
    command += ["build", str(ROOT), "--path-output", str(output), "-W", "-n", "--keep-going", "-q"]
    dead = {name: "http://127.0.0.1:9" for name in PROXIES}
    environment = {**os.environ, **dead, "HF_HUB_OFFLINE": "1"}
    command = without_network() + command
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert result.returncode == 0, (
        f"the book does not build without warnings:\n{result.stdout[-3000:]}{result.stderr[-3000:]}"
    )
    return output / "_build" / "html"


@pytest.fixture(scope="session")
def book_address(built_book: Path) -> Iterator[str]:
    """The built book behind a web server on this machine."""
    handler = functools.partial(QuietHandler, directory=str(built_book))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Say nothing: requests are no news in a test run."""
