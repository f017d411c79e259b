"""Every chapter also runs on a model with Stable Diffusion's layout, not only on the bundled miniature."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import tiny_pipeline

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))


@pytest.fixture(scope="module")
def stable_diffusion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder as `ELITE_BACKBONE` takes it: Stable Diffusion's layout, few channels, untrained."""
    folder = tmp_path_factory.mktemp("backbone")
    tiny_pipeline(seed=0).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_runs_on_stable_diffusions_layout(chapter, stable_diffusion_folder, kernel_environment, monkeypatch):
    for name, value in {**kernel_environment, "ELITE_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ELITE_BACKBONE", str(stable_diffusion_folder))
    notebook = nbformat.read(chapter, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(chapter.parent)}})
    client.execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip())
