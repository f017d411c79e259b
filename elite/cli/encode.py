"""``elite encode``: one picture becomes a concept file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Precision, check_new_file, load_model, one_sentence


def encode(
    image: Annotated[Path, typer.Option(help="Picture of the subject.")],
    output: Annotated[Path, typer.Option(help="Concept file to write (.safetensors).")],
    mask: Annotated[Path | None, typer.Option(help="Mask of the same size, white on the subject.")] = None,
    model: Annotated[str, typer.Option(help="toybox, sd14, or a folder.")] = "toybox",
    adapter: Annotated[str | None, typer.Option(help="Adapter, or the authors' files; else the model's.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; chosen by itself when left out.")] = None,
    dtype: Annotated[Precision | None, typer.Option(help="Type of the weights.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Encode a picture once, to use it in many prompts.

    Example:

        elite encode --image dog.jpg --mask dog-mask.png --output dog.safetensors

        elite generate --concept dog.safetensors --prompt "a S* in the snow" --output pictures
    """
    with one_sentence():
        from elite.io.images import read_image, read_mask

        if output.suffix != ".safetensors":
            output = output.with_name(output.name + ".safetensors")
        picture = read_image(image)
        marked = None if mask is None else read_mask(mask, picture.size)
        check_new_file(output, overwrite)
        pipe = load_model(model, device, dtype, adapter)
        concept = pipe.encode_concept(picture, marked)
        concept.save(output)
    typer.echo(f"{output}: {concept.words.shape[0]} words, {concept.patch_embeddings.shape[0]} patches")
