"""Import paths of 0.1 that lead to where a module stands now."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "elite.checkpoints": "elite.official",
    "elite.commands": "elite.cli",
    "elite.conditioning": "elite.attention.conditioning",
    "elite.data.command": "elite.cli.download",
    "elite.data.local": "elite.data.unpack",
    "elite.exercises": "elite.teaching.exercises",
    "elite.figures": "elite.teaching.figures",
    "elite.files": "elite.io.files",
    "elite.fingerprint": "elite.io.fingerprint",
    "elite.images": "elite.io.images",
    "elite.legacy": "elite.io.legacy",
    "elite.processor": "elite.attention.processor",
    "elite.recording": "elite.attention.recording",
    "elite.toybox.checksums": "elite.io.checksums",
    "elite.training.attention": "elite.training.explicit_attention",
    "elite.training.checkpoint": "elite.training.run_folder",
    "elite.training.rows": "elite.training.row_cache",
    "elite.widgets": "elite.teaching.widgets",
}
PROMISED = {"elite.legacy"}  # old paths that stay, without a warning


def new_path(name: str) -> str | None:
    """Where the module of an old path stands, or None for a path that never moved."""
    for old, new in MOVED.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return None


class OldPaths:
    """Imports a module of `MOVED` from its new place, with a `DeprecationWarning`.

    Not a subclass of the protocols in ``importlib.abc``: loading these would take longer than the rest of ``elite``.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if new_path(fullname) else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = new_path(old) or old
        if old not in PROMISED:
            warnings.warn(f"{old} is {new} now; the old path goes with 1.0.", DeprecationWarning, stacklevel=2)
        sys.modules[old] = import_module(new)


sys.meta_path.insert(0, OldPaths())
