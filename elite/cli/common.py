"""What the commands share: one sentence for bad input, and checks that come before any work."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import torch

    from elite.pipeline import ElitePipeline


class Precision(StrEnum):
    """Type of the weights."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn what the library says of bad input into one line on stderr and exit code 2, as typer does for bad options.

    Exit code 1 is for work that was done in part, such as a download that lacks some pictures.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        typer.echo(f"error: {text}", err=True)
        raise typer.Exit(2) from error


def check_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be written to, without leaving anything behind.

    Raises:
        OSError: naming the folder.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if _taken(path))
    if not existing.is_dir():
        kind = "a file" if existing.exists() else "a link to nothing"
        raise OSError(f"output {folder} cannot be written: {existing} is {kind}, not a folder.")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(
            f"output {folder} cannot be written: {error.strerror or error}; choose another folder."
        ) from error


def check_new_file(path: Path, overwrite: bool) -> None:
    """Refuse to replace a file unless asked to.

    Raises:
        OSError: when it exists, is not a file, or its folder cannot be written to.
    """
    if _taken(path) and not path.is_file():
        kind = "a folder" if path.is_dir() else "a link to nothing"
        raise OSError(f"output {path} is {kind}, not a file; give another name.")
    if path.exists() and not overwrite:
        raise OSError(f"output {path} exists; give another name, or --overwrite.")
    check_writable(path.parent)


def _taken(path: Path) -> bool:
    """Whether a name is in use: a dangling link does not exist, but is in the way all the same."""
    return path.exists() or path.is_symlink()


def load_model(model: str, device: str | None, dtype: Precision | None, adapter: str | None = None) -> ElitePipeline:
    """The pipeline that ``--model`` names, with ``--adapter`` or its own adapter, and with a progress bar.

    Raises:
        FileNotFoundError: when model or adapter does not exist.
        ValueError: when there is no adapter, or it does not fit.
    """
    import torch

    from elite.backbones import load_pipeline

    types: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    named = {} if adapter is None else {"adapter": adapter}
    pipe = load_pipeline(model, device=device, dtype=types[dtype] if dtype else None, **named)
    if not pipe.has_adapter:
        raise ValueError(f"model {model} has no ELITE adapter in its folder; name one by --adapter.")
    pipe.set_progress_bar_config(disable=None)  # a bar on a terminal, nothing in a file
    return pipe
