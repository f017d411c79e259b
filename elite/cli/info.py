"""``elite info``: what a concept file or an adapter folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .common import one_sentence


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
