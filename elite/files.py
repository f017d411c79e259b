"""Writing files whole or not at all, and finding those of a folder or Hub repository."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the context ends well, and is removed otherwise.

    Raises:
        OSError: when the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes files that only their owner reads
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` as indented JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors (made contiguous, on the CPU) as one safetensors file."""
    from safetensors.torch import save_file

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(ready, str(temporary), metadata=dict(metadata or {"format": "pt"}))


def check_finite(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise when a tensor holds NaN or infinity.

    Raises:
        ValueError: naming the first such tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(
                f"{source} holds NaN or infinite values in {name}: the file is damaged or its training was."
            )


def find_file(source: str | Path, name: str, revision: str | None = None, subfolder: str | None = None) -> Path | None:
    """A file of a local folder, or of a Hub repository (downloaded on first use).

    Args:
        source: a folder, or a repository id such as "ELITE-library/ELITE".
        name: file name.
        revision: commit of the repository; ignored for folders.
        subfolder: folder within the source.

    Returns:
        Its local path, or None when the source does not hold it.

    Raises:
        FileNotFoundError: when the source is neither a folder nor a repository.
    """
    folder = Path(source)
    if folder.is_dir():
        path = folder / (subfolder or "") / name
        return path if path.is_file() else None
    if str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise FileNotFoundError(f"{str(source)!r} is neither a folder nor a Hub repository (owner/name).")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(str(source), name, subfolder=subfolder, revision=revision))
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{str(source)!r} is neither a folder nor a Hub repository that exists.") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{name} of {str(source)!r} is not in the cache and the Hub cannot be reached."
        ) from error
    except EntryNotFoundError:
        return None
