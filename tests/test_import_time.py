"""``import elite`` is quick because it loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import elite

ROOT = Path(__file__).parents[1]


def test_import_loads_no_heavy_library():
    code = "import sys, elite; print(*(n for n in ('torch', 'diffusers', 'transformers', 'numpy') if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []


def test_every_public_name_resolves():
    for name in elite.__all__:
        assert getattr(elite, name) is not None
    assert set(elite.__all__) <= set(dir(elite))
