"""The command line, one module a command: ``elite generate``, ``train``, ``evaluate`` and the others."""

from __future__ import annotations

from typing import Annotated

import typer

from elite import __version__

from .convert import convert
from .download import app as download
from .encode import encode
from .evaluate import evaluate
from .generate import generate
from .info import info
from .report import report
from .train import train

app = typer.Typer(
    help="ELITE: one picture of a subject, and a text-to-image model draws it anywhere.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """ELITE: one picture of a subject, and a text-to-image model draws it anywhere."""


app.command()(generate)
app.command()(encode)
app.command()(convert)
app.command()(info)
app.command()(train)
app.command()(evaluate)
app.command()(report)
app.add_typer(download, name="download")


def main() -> None:
    """Run the command line."""
    app()
