"""``elite report``: the paper's tables, made, stored and checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import one_sentence

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from elite.evaluation.encoders import Encoders
    from elite.evaluation.studio import Studio
    from elite.pipeline import ElitePipeline

SHOWN = ("clip_t", "clip_i", "dino_i", "identity", "scene", "retrieval")


def report(
    name: Annotated[list[str], typer.Argument(help="table1, table2, table4, lambda, words, …; or all.")],
    check: Annotated[bool, typer.Option("--check", help="Redraw eight pictures of each stored table.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of the stored tables.")] = Path("book/results"),
    pictures: Annotated[Path, typer.Option(help="Folder of all pictures; what is there is not drawn.")] = Path(
        "build/report"
    ),
    variants: Annotated[Path | None, typer.Option(help="Folder of the variants' weights.")] = None,
    subjects: Annotated[int | None, typer.Option(min=1, help="Only so many subjects.")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Only so many prompts of each.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 25,
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Of all noise.")] = 0,
    model: Annotated[str, typer.Option(help="toybox, or the folder of a miniature.")] = "toybox",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; chosen by itself when left out.")] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Make a table or figure of the paper on the miniature, and store it with every picture's scores.

    Example, one of them, and whether all stored ones still hold:

        elite report lambda

        elite report all --check
    """
    with one_sentence():
        from elite.evaluation import results as files
        from elite.evaluation.drawing import Drawing
        from elite.evaluation.reports import REPORTS, find

        names = list(REPORTS) if name == ["all"] else name
        for each in names:
            find(each)
        stored = {each: files.read(results / f"{each}.json") for each in names} if check else {}
        maker = _Maker(model, device, pictures, results / "learned", variants, progress)
        if check:
            _check(stored, maker)
            return
        studio = maker.studio(subjects, prompts, Drawing(steps, guidance, None, seed))
        for each in names:
            _make(each, studio, results)


def _make(name: str, studio: Studio, results: Path) -> None:
    from elite.evaluation import results as files
    from elite.evaluation.reports import find, make
    from elite.evaluation.sheets import write_sheet

    value = make(name, studio)
    path = files.write(results / f"{name}.json", value)
    sheet = write_sheet(studio, find(name).rows(studio), studio.folder / f"{name}.jpg")
    typer.echo(f"{value['title']}\n{path} holds every picture's scores, {sheet} shows some")
    columns = [one for one in SHOWN if any(one in row["summary"] for row in value["rows"].values())]
    lines = [["", *columns], *files.table(value, columns)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _check(stored: dict[str, dict[str, Any]], maker: _Maker) -> None:
    from elite.evaluation.checking import check
    from elite.evaluation.drawing import Drawing

    made: dict[tuple, Studio] = {}
    for name, value in stored.items():
        kept = value["settings"]
        key = (len(kept["subjects"]), len(kept["choosing"]), kept["prompts"])
        drawing = {one: kept[one] for one in ("num_inference_steps", "guidance_scale", "scheduler", "seed")}
        key = (*key, *drawing.values())
        if key not in made:
            made[key] = maker.studio(key[0], key[2], Drawing(**drawing), key[1])
        for line in check(value, made[key]):
            typer.echo(line)
        typer.echo(f"{name} holds")


class _Maker:
    """Makes studios on one model that is loaded once."""

    def __init__(
        self, model: str, device: str | None, pictures: Path, learned: Path, variants: Path | None, progress: bool
    ) -> None:
        self.model, self.device, self.pictures = model, device, pictures
        self.learned, self.variants, self.progress = learned, variants, progress
        self._loaded: tuple[ElitePipeline, Encoders] | None = None

    def studio(self, subjects: int | None, prompts: int | None, drawing: Any, choosing: int = 6) -> Studio:
        from elite.evaluation.studio import toybox_studio
        from elite.evaluation.variants import FOLDER

        pipeline, encoders = self._models()
        return toybox_studio(
            pipeline,
            encoders,
            self.pictures,
            subjects,
            choosing,
            prompts,
            drawing=drawing,
            variants=self.variants or FOLDER,
            learned=self.learned,
            model=self.model,
            progress=self._bar,
        )

    def _models(self) -> tuple[ElitePipeline, Encoders]:
        if self._loaded is None:
            from transformers.utils import logging

            from elite.evaluation.encoders import toybox_encoders

            from .common import load_model

            logging.disable_progress_bar()
            pipeline = load_model(self.model, self.device, None)
            pipeline.set_progress_bar_config(disable=True)
            folder = None if self.model == "toybox" else Path(self.model)
            self._loaded = pipeline, toybox_encoders(folder, pipeline.device)
        return self._loaded

    def _bar(self, items: Sequence, what: str) -> Iterable:
        from tqdm.auto import tqdm

        return tqdm(items, desc=what, disable=not self.progress, dynamic_ncols=True, leave=False)
