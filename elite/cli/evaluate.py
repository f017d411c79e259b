"""``elite evaluate``: the paper's protocol, for one method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import Precision, check_writable, one_sentence
from .generate import Sampler, use_sampler

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from elite.evaluation.drawing import Method
    from elite.evaluation.subjects import EvaluationSubject

SHOWN = ("clip_t", "clip_i", "dino_i", "identity", "retrieval", "scene")  # of the summary, where they were measured


def evaluate(
    output: Annotated[Path, typer.Option(help="Folder of the pictures and the result; the same again goes on.")],
    method: Annotated[str, typer.Option(help="elite; a competitor; or text, copy, rendering, other.")] = "elite",
    budget: Annotated[int | None, typer.Option(min=1, help="Optimiser steps of a competitor.")] = None,
    subjects: Annotated[str | None, typer.Option(help="toybox, or a folder with a folder of each subject.")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="Only this subject; may be repeated.")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Only so many of each subject's prompts.")] = None,
    pictures: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps; the paper takes 100.")] = 25,
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = 5.0,
    scheduler: Annotated[Sampler | None, typer.Option(help="Sampler, else the model's; the paper takes lms.")] = None,
    fusion_weight: Annotated[float, typer.Option(help="λ of elite.")] = 0.6,
    words: Annotated[str, typer.Option(help="Words of elite put in the prompt: w0 to w4, or all.")] = "w0",
    reweighting: Annotated[bool, typer.Option(help="Eq. 8 of elite.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of all noise.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Pictures drawn at once.")] = 25,
    encoders: Annotated[str | None, typer.Option(help="public or toybox: what scores the pictures.")] = None,
    model: Annotated[str, typer.Option(help="toybox, sd14, or a folder.")] = "toybox",
    adapter: Annotated[str | None, typer.Option(help="Adapter, or the authors' files; else the model's.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; chosen by itself when left out.")] = None,
    dtype: Annotated[Precision | None, typer.Option(help="Type of the weights.")] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Draw all prompts of all subjects and score every picture: CLIP-T, CLIP-I, DINO-I, retrieval.

    Example, the whole protocol on the miniature, and a first look:

        elite evaluate --output runs/elite

        elite evaluate --output runs/look --prompts 3 --pictures 1

        elite evaluate --output runs/lora --method dreambooth-lora --pictures 1

    With Stable Diffusion v1-4 and DreamBench (git clone https://github.com/google/dreambooth), as the paper:

        elite evaluate --model sd14 --subjects dreambooth/dataset --steps 100 --scheduler lms --output runs/sd14

        accelerate launch --multi_gpu --num_processes 4 -m elite.cli evaluate ... (the same, shared by four GPUs)
    """
    with one_sentence():
        from accelerate import PartialState

        from elite.evaluation.drawing import Drawing
        from elite.evaluation.encoders import NAMES, load_encoders
        from elite.evaluation.protocol import Evaluation, run
        from elite.evaluation.provenance import provenance

        check_writable(output)
        where = subjects or ("toybox" if model == "toybox" else None)
        if where is None:
            raise ValueError("--subjects must name a folder of subjects, or toybox.")
        look = encoders or ("toybox" if model == "toybox" else "public")
        if look not in NAMES:
            raise ValueError(f"--encoders must be one of {', '.join(NAMES)}, got {look!r}.")
        drawing = Drawing(steps, guidance, None if scheduler is None else scheduler.value, seed)
        chosen = _subjects(where, subject, prompts)
        pipeline = _pipeline(model, adapter, device or _own_device(PartialState()), dtype)
        if scheduler is not None:
            use_sampler(pipeline, scheduler)
        elite = {"fusion_weight": fusion_weight, "words": words, "reweighting": reweighting}
        what = Evaluation(
            _method(method, pipeline, elite, output / "learned", budget),
            chosen,
            output,
            drawing,
            pictures,
            batch,
            provenance(model, pipeline),
        )
        result = run(what, lambda: load_encoders(look, pipeline.device), progress)
    if result is not None:
        for name in SHOWN:
            if name in result["summary"]:
                one = result["summary"][name]
                typer.echo(f"{name}: {one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})")
        typer.echo(f"{output / 'result.json'} holds every picture's scores, {output / 'sheet.jpg'} shows some")


def _subjects(where: str, names: list[str] | None, prompts: int | None) -> list[EvaluationSubject]:
    from elite.evaluation.subjects import folder_subjects, toybox_subjects

    if where != "toybox":
        return folder_subjects(where, names, prompts)
    every = {one.name: one for one in toybox_subjects(prompts=prompts)}
    unknown = [name for name in names or () if name not in every]
    if unknown:
        raise ValueError(f"--subject {unknown[0]} is none of the miniature's: {', '.join(every)}.")
    return [every[name] for name in names or every]


def _own_device(state: Any) -> str | None:
    """Of several processes each takes the device that accelerate gives it; one alone chooses as ever."""
    return str(state.device) if state.num_processes > 1 else None


def _pipeline(model: str, adapter: str | None, device: str | None, dtype: Precision | None) -> StableDiffusionPipeline:
    from transformers.utils import logging

    from .common import load_model

    logging.disable_progress_bar()
    pipeline = load_model(model, device, dtype, adapter)
    pipeline.set_progress_bar_config(disable=True)  # one bar counts the batches
    return pipeline


def _method(
    name: str, pipeline: StableDiffusionPipeline, elite: dict[str, Any], learned: Path, budget: int | None
) -> Method:
    from elite.evaluation.competitors import COMPETITORS, Learning, competitor
    from elite.evaluation.drawing import ANCHORS, Anchor, Elite, PlainText

    if name == "elite":
        return Elite(pipeline, **elite)
    if name == "text":
        return PlainText(pipeline)
    if name in ANCHORS:
        return Anchor(name)
    if name in COMPETITORS:
        return Learning(competitor(name, pipeline), learned, budget)
    raise ValueError(f"--method must be one of elite, text, {', '.join([*ANCHORS, *COMPETITORS])}, got {name!r}.")
