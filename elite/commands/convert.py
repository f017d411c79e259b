"""``elite convert``: the authors' checkpoints to our format and back. ``elite info``: what a file holds."""

from __future__ import annotations

import json
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
        from elite.checkpoints import convert as to_adapter
        from elite.checkpoints import save_official

        if to is Format.adapter:
            to_adapter(destination, source, revision=revision)
        else:
            save_official(EliteAdapter.from_pretrained(source, revision), destination)
    typer.echo(f"wrote {', '.join(sorted(path.name for path in destination.iterdir()))} in {destination}")


def info(path: Annotated[Path, typer.Argument(help="A concept file or an adapter folder.")]) -> None:
    """Say what a concept file or an adapter folder holds.

    Example:

        elite info dog.safetensors
    """
    with one_sentence():
        if path.is_dir():
            from elite.adapter import EliteAdapter

            adapter = EliteAdapter.from_pretrained(path)
            config = adapter.config
            lines = {
                "kind": "adapter",
                "layers": list(config.layers),
                "words": config.num_words,
                "image encoder width": config.input_dim,
                "text width": config.output_dim,
                "cross attention layers": len(config.attention),
                "parameters": sum(parameter.numel() for parameter in adapter.parameters()),
            }
        else:
            from elite.concept import Concept

            concept = Concept.load(path)
            lines = {
                "kind": "concept",
                "words": list(concept.words.shape),
                "patch embeddings": list(concept.patch_embeddings.shape),
                **concept.metadata,
            }
    typer.echo(json.dumps(lines, indent=2))
