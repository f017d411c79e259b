"""The chapters as they are committed: executed, without errors, described for readers who cannot see, and small."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
LARGEST = 1_000_000  # bytes
SLOWEST = 75  # seconds

# what differs from machine to machine or from run to run and would make a stored output wrong elsewhere
UNSTABLE = [
    r"\bcuda(:\d+)?\b",
    r"device\(type=",
    r"\b\d+(\.\d+)? ?(ms|s|sec|seconds|minutes|it/s)\b",
    r"/home/|/root/|/tmp/|site-packages",
    r"Warning\b",
]


class Images(HTMLParser):
    """Collects the attributes of every ``<img>``."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


def outputs(notebook: Path) -> list[tuple[int, dict]]:
    """(cell number, output) of every output that nbval compares."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    found = []
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code" and "nbval-ignore-output" not in cell["metadata"].get("tags", []):
            found += [(number, output) for output in cell["outputs"]]
    return found


def text_of(output: dict) -> str:
    """What an output says in words, without the pictures' data."""
    pieces = [output.get("text", "")]
    pieces += [output.get("data", {}).get(kind, "") for kind in ("text/plain", "text/html", "text/markdown")]
    text = "\n".join(piece if isinstance(piece, str) else "".join(piece) for piece in pieces)
    return re.sub(r"data:image/[\w+]+;base64,[\w+/=]+|<[^>]*>", " ", text)


def test_there_are_chapters():
    assert NOTEBOOKS, "book/ holds no notebook"


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_cell_was_run_in_order(notebook):
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code" and c.source.strip()]
    unrun = [c.source.splitlines()[0] for c in cells if c.execution_count is None]
    assert not unrun, f"never run: {unrun}"
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))


def test_no_output_is_an_error_or_a_warning(notebook):
    wrong = [
        (n, o["output_type"]) for n, o in outputs(notebook) if o["output_type"] == "error" or o.get("name") == "stderr"
    ]
    assert not wrong, f"cells with errors or text on stderr: {wrong}"


def test_no_source_line_ends_with_a_semicolon(notebook):
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    assert not [c.source for c in cells if c.source.rstrip().endswith(";")]


def test_every_picture_has_alt_text(notebook):
    bare = []
    for number, output in outputs(notebook):
        data = output.get("data", {})
        if any(kind.startswith("image/") for kind in data):
            bare.append((number, "a picture outside text/html has no alt text: return it from elite.teaching.figures"))
        html = data.get("text/html", "")
        bare += [
            (number, "an <img> without alt")
            for image in Images("".join(html)).found
            if not (image.get("alt") or "").strip()
        ]
    for number, cell in enumerate(nbformat.read(notebook, as_version=4).cells):
        if cell.cell_type == "markdown":
            bare += [(number, "a Markdown picture without alt") for _ in re.findall(r"!\[\s*\]\(", cell.source)]
            bare += [
                (number, "<img> without alt") for i in Images(cell.source).found if not (i.get("alt") or "").strip()
            ]
    assert not bare


def test_no_checked_output_names_a_device_a_time_or_a_path(notebook):
    found = [
        (number, match.group())
        for number, output in outputs(notebook)
        for pattern in UNSTABLE
        if (match := re.search(pattern, text_of(output)))
    ]
    assert not found


def test_nothing_volatile_is_stored(notebook):
    text = notebook.read_text(encoding="utf-8")
    assert "application/vnd.jupyter.widget" not in text
    assert not re.search(r" at 0x[0-9a-f]{6,}", text)
    metadata = json.loads(text)["metadata"]
    assert set(metadata) <= {"elite", "kernelspec", "language_info"}
    assert metadata["kernelspec"]["name"] == "python3"


def test_file_is_small(notebook):
    assert notebook.stat().st_size <= LARGEST


def test_budget_is_named_and_the_reader_is_told_the_same(notebook):
    content = nbformat.read(notebook, as_version=4)
    budget = content.metadata.get("elite", {}).get("budget", {})
    assert 0 < budget.get("seconds", 0) <= SLOWEST, f"budget in the metadata is {budget}"
    if re.match(r"\d\d_", notebook.stem):
        prose = "\n".join(c.source for c in content.cells[:3] if c.cell_type == "markdown")
        assert re.search(rf"\b{budget['seconds']} (s|seconds)\b", prose), f"the top does not say {budget['seconds']} s"


def test_first_code_cell_installs_the_package_on_colab_only(notebook):
    first = next(c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code")
    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert '"google.colab" in sys.modules' in first.source
    assert f"git+{address}" in first.source


def test_every_notebook_is_in_the_table_of_contents():
    listed = re.findall(r"book/[\w/]+", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
    assert {f"book/{path.stem}" for path in NOTEBOOKS} <= set(listed)
    missing = [name for name in listed if not list(ROOT.glob(f"{name}.*"))]
    assert not missing
