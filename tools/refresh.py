"""Execute chapters in place and remove everything volatile, so that a second run gives byte-identical files.

python tools/refresh.py                        all chapters
python tools/refresh.py book/01_cross_attention.ipynb
python tools/refresh.py --record-timings       also writes book/timings.yml, from which a page is made
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient

from elite.io.files import replacing

ROOT = Path(__file__).resolve().parents[1]
TIMINGS = ROOT / "book" / "timings.yml"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"  # holds an id that is new in each run; the HTML stays
VOLATILE_METADATA = ("execution", "ExecuteTime", "collapsed", "colab", "outputId", "lines_to_next_cell")


def execute(path: Path) -> tuple[nbformat.NotebookNode, float]:
    """Run a notebook in a fresh kernel.

    Args:
        path: the notebook.

    Returns:
        The executed notebook and the seconds its cells took.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised and is not tagged ``raises-exception``.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    started = time.perf_counter()
    client.execute()
    return notebook, time.perf_counter() - started


def canonical(notebook: nbformat.NotebookNode, name: str) -> str:
    """The notebook's text without anything that changes from run to run.

    Args:
        notebook: an executed notebook.
        name: seeds the cell ids, so that they depend on the chapter and the place only.

    Returns:
        JSON text with sorted keys and a final newline.
    """
    kept = notebook.metadata.get("elite")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    if kept:
        notebook.metadata["elite"] = kept
    for index, cell in enumerate(notebook.cells):
        cell["id"] = hashlib.sha256(f"{name}:{index}".encode()).hexdigest()[:8]
        for key in VOLATILE_METADATA:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [_stable_output(output) for output in _joined_streams(cell.outputs)]
    notebook.nbformat_minor = 5
    nbformat.validate(notebook)
    return (
        json.dumps(json.loads(nbformat.writes(notebook, version=4)), indent=1, sort_keys=True, ensure_ascii=False)
        + "\n"
    )


def refresh(path: Path) -> float:
    """Execute one chapter and write it back, by way of a temporary file.

    Args:
        path: the notebook.

    Returns:
        Seconds that its cells took.
    """
    notebook, seconds = execute(path)
    text = canonical(notebook, path.stem)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return seconds


def chapters() -> list[Path]:
    """All notebooks of the book, in the order of their names, the introduction first."""
    found = sorted((ROOT / "book").glob("*.ipynb"))
    return sorted(found, key=lambda path: path.stem != "intro")


def _joined_streams(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Neighbouring pieces of one stream become one: where the kernel cut them depends on its timing."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and joined and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _stable_output(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    if "data" in output:
        output.data.pop(WIDGET_VIEW, None)
        if "text/plain" in output.data:
            output.data["text/plain"] = re.sub(r"( at )0x[0-9a-f]+", r"\g<1>0xADDR", output.data["text/plain"])
    return output


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Execute chapters and remove everything volatile.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="chapters; all of them by default")
    parser.add_argument("--record-timings", action="store_true", help="write book/timings.yml as well")
    options = parser.parse_args(arguments)
    missing = [str(path) for path in options.notebooks if not path.is_file()]
    if missing:
        parser.error(f"no such notebook: {', '.join(missing)}")
    sys.path.insert(0, str(ROOT))
    from conftest import prepare_kernels  # the kernels' environment, the same as under nbval

    prepare_kernels()
    # two threads wherever it runs: sums of floating point numbers depend on how they are split
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    recorded = yaml.safe_load(TIMINGS.read_text()) if TIMINGS.exists() else {}
    for path in options.notebooks or chapters():
        seconds = refresh(path.resolve())
        recorded[path.stem] = round(seconds, 1)
        print(f"{path.name}: {seconds:.1f} s, {path.stat().st_size / 1e3:.0f} kB")
    if options.record_timings:
        with replacing(TIMINGS) as temporary:
            temporary.write_text(yaml.safe_dump(recorded, sort_keys=True), encoding="utf-8")


if __name__ == "__main__":
    main()
