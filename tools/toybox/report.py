"""Measures the bundled backbone and writes sheets to look at: ``python -m elite.toybox.report``.

Its last line of output is one JSON object. Everything is drawn from fixed seeds, nothing is chosen by hand.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from torch import Tensor

from elite.toybox import WEIGHTS, load_identity_encoder, load_judge, verify
from elite.toybox.judge import NOTHING, Judge
from elite.toybox.metrics import accuracy, psnr, top1_true, triplet_accuracy
from elite.toybox.record import save_report
from elite.toybox.report_data import Prompt, UnseenPictures, identity_pairs, report_prompts, unseen_pictures
from tools.toybox.sheets import in_rows, save_sheet, sheet, to_pictures

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

STEPS, GUIDANCE, SPEED_BATCH = 25, 5.0, 8


def load_timed(folder: Path) -> tuple[StableDiffusionPipeline, float]:
    """The pipeline, and the seconds that loading it and the two other encoders took beyond the imports."""
    import transformers.models.auto  # noqa: F401  part of the imports, not of loading
    from diffusers import StableDiffusionPipeline

    started = time.perf_counter()
    check = verify if folder == WEIGHTS else Path
    check(folder)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    load_judge(folder)
    load_identity_encoder(folder)
    seconds = time.perf_counter() - started
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, seconds


@torch.no_grad()
def vae_numbers(
    pipeline: StableDiffusionPipeline, judge: Judge, pictures: UnseenPictures, build: Path
) -> dict[str, float]:
    """PSNR of reconstructions, overall and inside the mask, and how often the judge still names the same class."""
    rebuilt = []
    for images in pictures.images.split(50):
        rebuilt.append(pipeline.vae.decode(pipeline.vae.encode(images).latent_dist.mode()).sample.clamp(-1, 1))
    reconstruction = torch.cat(rebuilt)
    before, after = (judge_all(judge, images)["class"] for images in (pictures.images, reconstruction))
    rows = in_rows(to_pictures(pictures.images[:48]), 12), in_rows(to_pictures(reconstruction[:48]), 12)
    save_sheet(sheet([row for pair in zip(*rows, strict=True) for row in pair]), build / "reconstructions.png")
    return {
        "vae_psnr": float(psnr(reconstruction, pictures.images).mean()),
        "vae_psnr_inside_mask": float(psnr(reconstruction, pictures.images, pictures.masks).mean()),
        "vae_class_kept": accuracy(after, before),
    }


def judge_all(judge: Judge, images: Tensor) -> dict[str, list[str]]:
    """The judge's answers about images (B, 3, 64, 64) in [-1, 1], by question."""
    answers: dict[str, list[str]] = {"class": [], "scene": [], "accessory": []}
    for part in images.split(100):
        verdict = judge(part)
        answers["class"] += verdict.class_name
        answers["scene"] += verdict.scene
        answers["accessory"] += verdict.accessory
    return answers


@torch.no_grad()
def clip_numbers(folder: Path, pipeline: StableDiffusionPipeline, pictures: UnseenPictures) -> dict[str, float]:
    """How often the likeliest of 256 captions is true of a picture, over blocks of 256 unseen pictures."""
    from tools.toybox.clip_pair import clip_pixels, encode_captions, load_pair, true_of

    pair = load_pair(folder).eval()
    hits = []
    for first in range(0, len(pictures.images) - 255, 256):
        block = slice(first, first + 256)
        texts = pair.embed_text(encode_captions(pipeline.tokenizer, pictures.captions[block]))
        images, _ = pair.embed_images(clip_pixels(pictures.images[block]))
        hits.append(top1_true(images @ texts.T, true_of(pictures.said[block], pictures.shown[block])))
    return {"clip_top1_of_256": sum(hits) / len(hits)}


def generate(pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, batch: int = 20) -> Tensor:
    """Pictures of prompts, (B, 3, 64, 64) in [-1, 1]: 25 steps, guidance 5, one seed a picture."""
    parts = []
    for first in range(0, len(prompts), batch):
        some = prompts[first : first + batch]
        generators = [torch.Generator().manual_seed(seed + first + place) for place in range(len(some))]
        output = pipeline(
            some, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators, output_type="pt"
        )
        parts.append(output.images * 2 - 1)
    return torch.cat(parts)


def text_numbers(
    pipeline: StableDiffusionPipeline, judge: Judge, prompts: list[Prompt], build: Path, seed: int
) -> dict[str, float]:
    """What the judge recognises in pictures of ``prompts``, of what each prompt says."""
    images = generate(pipeline, [prompt.text for prompt in prompts], seed)
    seen = judge_all(judge, images)
    save_sheet(sheet(in_rows(to_pictures(images[:96]), 16)), build / "samples.png")
    (build / "samples.txt").write_text("".join(f"{prompt.text}\n" for prompt in prompts[:96]), encoding="utf-8")
    held_out = [index for index, prompt in enumerate(prompts) if prompt.held_out]
    numbers = {
        "class_accuracy": accuracy(seen["class"], [prompt.class_name for prompt in prompts]),
        "scene_accuracy": accuracy(seen["scene"], [prompt.scene for prompt in prompts]),
        "accessory_accuracy": accuracy(seen["accessory"], [prompt.accessory for prompt in prompts]),
    }
    if held_out:
        for question in ("class", "scene"):
            expected = [getattr(prompts[i], {"class": "class_name"}.get(question, question)) for i in held_out]
            numbers[f"{question}_accuracy_held_out"] = accuracy([seen[question][i] for i in held_out], expected)
    return numbers


def judge_numbers(judge: Judge, pictures: UnseenPictures) -> dict[str, float]:
    """How often the judge is right about unseen rendered pictures: no generated ones score higher."""
    seen = judge_all(judge, pictures.images)
    return {
        "judge_class_accuracy": accuracy(seen["class"], pictures.class_names),
        "judge_scene_accuracy": accuracy(seen["scene"], [scene or NOTHING for scene in pictures.scenes]),
        "judge_accessory_accuracy": accuracy(seen["accessory"], [worn or NOTHING for worn in pictures.accessories]),
    }


@torch.no_grad()
def identity_numbers(folder: Path, judge: Judge, seed: int) -> dict[str, float]:
    """Triples of unseen subjects: the same one in another scene against another one of the same class."""
    first, second, class_names = identity_pairs(judge.answers("class"), seed)
    encoder = load_identity_encoder(folder)
    features = [torch.cat([encoder(part) for part in images.split(100)]) for images in (first, second)]
    return {"identity_triplet_accuracy": triplet_accuracy(*features, class_names)}


def batch_seconds(pipeline: StableDiffusionPipeline, prompt: str) -> float:
    """Seconds of a batch of 8 pictures, 25 steps with guidance: the best of three, after one to warm up."""
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        pipeline(
            [prompt] * SPEED_BATCH,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(0),
        )
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def concept_numbers(folder: Path, seed: int, build: Path) -> dict[str, float]:
    """The numbers of the bundled adapter, where there is one."""
    if not (folder / "elite").is_dir():
        return {}
    from elite.pipeline import ElitePipeline
    from tools.toybox.concept_report import concept_report

    pipeline = ElitePipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return concept_report(pipeline, seed, build, folder)


def report(folder: Path, build: Path, prompts: int = 400, pictures: int = 512, seed: int = 0) -> dict[str, float]:
    """All numbers of a weights folder; sheets go to ``build``.

    Args:
        folder: the weights.
        build: folder of the sheets.
        prompts: how many prompts the samples are drawn for.
        pictures: how many unseen pictures the encoders are measured on, a multiple of 256.
        seed: of the pictures, the prompts and the noise.

    Raises:
        ValueError: if ``pictures`` is no multiple of 256.
    """
    if pictures < 256 or pictures % 256:
        raise ValueError(f"`pictures` is {pictures}, but captions are chosen among 256: pass a multiple of 256.")
    build.mkdir(parents=True, exist_ok=True)
    pipeline, load_seconds = load_timed(folder)
    judge = load_judge(folder)
    unseen = unseen_pictures(pictures, judge.answers("class"), seed)
    chosen = report_prompts(prompts, judge.answers("class"), judge.answers("scene"), judge.answers("accessory"), seed)
    numbers = vae_numbers(pipeline, judge, unseen, build)
    numbers |= clip_numbers(folder, pipeline, unseen)
    numbers |= judge_numbers(judge, unseen)
    numbers |= text_numbers(pipeline, judge, chosen, build, seed)
    numbers |= identity_numbers(folder, judge, seed)
    numbers["seconds_batch8_25steps"] = batch_seconds(pipeline, chosen[0].text)
    numbers["load_seconds"] = load_seconds
    numbers["weights_mb"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    numbers |= concept_numbers(folder, seed, build)
    return {name: round(value, 4) if math.isfinite(value) else None for name, value in numbers.items()}


app = typer.Typer(add_completion=False)


@app.command()
def main(
    weights: Annotated[Path, typer.Option(help="Weights folder.")] = WEIGHTS,
    build: Annotated[Path, typer.Option(help="Folder of the sheets.")] = Path("build/toybox"),
    prompts: Annotated[int, typer.Option(help="Prompts to draw samples for.")] = 400,
    pictures: Annotated[int, typer.Option(help="Unseen pictures, a multiple of 256.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    save: Annotated[bool, typer.Option("--save", help="Keep the numbers beside the weights, for the book.")] = False,
) -> None:
    """Measure the backbone and print its numbers as one JSON object."""
    torch.set_num_threads(threads)
    numbers = report(weights, build, prompts, pictures, seed)
    if save:
        save_report(weights, numbers, {"prompts": prompts, "pictures": pictures, "seed": seed})
    typer.echo(json.dumps(numbers))


if __name__ == "__main__":
    app()
