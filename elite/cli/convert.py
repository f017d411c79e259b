"""``elite convert``: the authors' checkpoints to our format and back."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .common import check_writable, one_sentence


class Format(StrEnum):
    """What to write."""

    adapter = "adapter"
    official = "official"


def convert(
    source: Annotated[str, typer.Argument(help="Folder or Hub repository: the authors' two files, or an adapter.")],
    destination: Annotated[Path, typer.Argument(help="Folder to write.")],
    to: Annotated[Format, typer.Option(help="Our adapter format, or the authors' two .pt files.")] = Format.adapter,
    revision: Annotated[str | None, typer.Option(help="Commit of the Hub repository.")] = None,
) -> None:
    """Convert checkpoints.

    Example:

        elite convert ELITE-library/ELITE elite-adapter

        elite convert checkpoints/ elite-adapter

        elite convert elite-adapter checkpoints/ --to official
    """
    with one_sentence():
        check_writable(destination)
        if destination.is_dir() and any(destination.iterdir()):
            raise OSError(f"destination {destination} is not empty; give another folder.")
        from elite.adapter import EliteAdapter
        from elite.official import convert as to_adapter
        from elite.official import save_official

        if to is Format.adapter:
            to_adapter(destination, source, revision=revision)
        else:
            save_official(EliteAdapter.from_pretrained(source, revision), destination)
    typer.echo(f"wrote {', '.join(sorted(path.name for path in destination.iterdir()))} in {destination}")
