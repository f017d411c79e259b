"""``elite download``: training data from the network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import one_sentence

app = typer.Typer(help="Download training data.", no_args_is_help=True)


@app.callback()
def download() -> None:
    """Download training data."""


@app.command("open-images")
def open_images(
    output: Annotated[Path, typer.Option(help="Folder of the subset; run again to continue.")],
    split: Annotated[str, typer.Option(help="test (the paper's training data) or validation.")] = "test",
    limit: Annotated[int, typer.Option(min=1, help="Number of pictures.")] = 2000,
    classes: Annotated[str | None, typer.Option(help="Names of classes, e.g. Dog,Cat; all by default.")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="A mirror with the servers' layout: v5/… and SPLIT/….jpg.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Pictures downloaded at once.")] = 16,
    attempts: Annotated[int, typer.Option(min=1, help="How often a file is tried.")] = 5,
    timeout: Annotated[float, typer.Option(help="Seconds a server may stay silent.")] = 30.0,
    keep_archives: Annotated[bool, typer.Option(help="Keep the mask archives after taking the masks out.")] = True,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Tables, pictures and masks of Open Images, only what the subset needs.

    Example:

        elite download open-images --split test --limit 2000 --output data/open-images

        elite download open-images --classes Dog,Cat --limit 500 --output data/pets
    """
    with one_sentence():
        from elite.data.download import download_open_images
        from elite.data.fetch import Fetcher
        from elite.data.layout import OpenImagesServer

        report = download_open_images(
            output,
            limit=limit,
            classes=[name.strip() for name in classes.split(",") if name.strip()] if classes else None,
            server=OpenImagesServer(split) if base_url is None else OpenImagesServer.mirror(base_url, split),
            threads=threads,
            fetcher=Fetcher(attempts=attempts, timeout=timeout),
            progress=progress,
            keep_archives=keep_archives,
        )
    typer.echo(report.summary())
    if report.failed:
        raise typer.Exit(1)
