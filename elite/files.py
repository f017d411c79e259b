"""Writing files whole or not at all, and finding those of a folder or Hub repository."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# types of weights, and the type in which their values are added up to see whether all are finite
_CHECKED = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


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
        if tensor.is_meta or tensor.dtype not in _CHECKED:
            continue
        # One pass without a copy: NaN and infinity stay in a sum, and no sum of weights comes near the largest number.
        if not bool(tensor.sum(dtype=_CHECKED[tensor.dtype]).isfinite()):
            raise ValueError(
                f"{source} holds NaN or infinite values in {name}: the file is damaged or its training was."
            )


def check_names_and_shapes(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise when tensors are not those of a model, by name or by shape.

    Raises:
        ValueError: naming the first that is missing, unknown or of another shape.
    """
    odd = set(expected) ^ set(tensors)
    if odd:
        name = min(odd)
        state = "misses" if name in expected else "has the unknown"
        raise ValueError(f"{source} {state} weight {name} ({len(odd)} names differ).")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{source} has {name} of shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}."
            )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: when it is not one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(value).__name__}.")
    return value


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is of another kind, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or damaged: {error}.") from error


def find_file(
    source: str | Path, name: str, revision: str | None = None, subfolder: str | None = None, **hub: Any
) -> Path | None:
    """A file of a local folder, or of a Hub repository (downloaded on first use).

    Args:
        source: a folder, or a repository id such as "ELITE-library/ELITE".
        name: file name.
        revision: commit of the repository; ignored for folders.
        subfolder: folder within the source.
        **hub: for ``hf_hub_download``: ``token``, ``cache_dir``, ``local_files_only``; ignored for folders.

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
        return Path(hf_hub_download(str(source), name, subfolder=subfolder, revision=revision, **hub))
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{str(source)!r} is neither a folder nor a Hub repository that exists.") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{name} of {str(source)!r} is not in the cache and the Hub cannot be reached."
        ) from error
    except EntryNotFoundError:
        return None
