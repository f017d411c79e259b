"""``elite generate``: pictures of a subject from a prompt."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from elite._defaults import FUSION_WEIGHT

from .common import Precision, check_writable, load_model, one_sentence

if TYPE_CHECKING:
    from PIL.Image import Image

    from elite.pipeline import ElitePipeline


class Sampler(StrEnum):
    """Samplers by their short names."""

    lms = "lms"
    ddim = "ddim"
    pndm = "pndm"
    dpm = "dpm"
    euler = "euler"


def generate(
    prompt: Annotated[str, typer.Option(help='Text with the placeholder S* once: "a S* in the snow".')],
    output: Annotated[Path, typer.Option(help="Folder for the pictures; nothing in it is overwritten.")],
    image: Annotated[Path | None, typer.Option(help="Picture of the subject.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Mask of the same size, white on the subject.")] = None,
    concept: Annotated[Path | None, typer.Option(help="Concept file of `elite encode`, in place of --image.")] = None,
    model: Annotated[str, typer.Option(help="toybox, sd14, or a folder.")] = "toybox",
    adapter: Annotated[str | None, typer.Option(help="Adapter, or the authors' files; else the model's.")] = None,
    fusion_weight: Annotated[float, typer.Option(help="λ: 0.8 for a plain photo, 0.6 for editing.")] = FUSION_WEIGHT,
    num_images: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 1,
    seed: Annotated[int, typer.Option(help="Picture i is drawn from seed + i.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps; the paper takes 100.")] = 50,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; 3 for the toybox, else 5.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What the pictures should not show.")] = None,
    words: Annotated[str, typer.Option(help="Words put in the prompt: w0 to w4, or all.")] = "w0",
    scheduler: Annotated[Sampler, typer.Option(help="Sampler; the paper takes lms.")] = Sampler.lms,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; chosen by itself when left out.")] = None,
    dtype: Annotated[Precision | None, typer.Option(help="Type of the weights.")] = None,
) -> None:
    """Draw a subject from one picture, in any scene.

    Example:

        elite generate --image dog.jpg --mask dog-mask.png --prompt "a S* in the snow" --fusion-weight 0.6 --output out

        elite generate --model sd14 --image dog.jpg --prompt "a photo of a S*" --steps 100 --output out
    """
    with one_sentence():
        from elite.backbones import default_guidance
        from elite.concept import Concept
        from elite.io.images import read_image, read_mask

        if (image is None) == (concept is None):
            raise ValueError("give either --image or --concept, one of the two.")
        if mask is not None and image is None:
            raise ValueError("--mask belongs to --image; a concept file already holds its mask.")
        subject = None if concept is None else Concept.load(concept)
        picture = None if image is None else read_image(image)
        marked = None if mask is None or picture is None else read_mask(mask, picture.size)
        check_writable(output)
        guidance = default_guidance(model) if guidance is None else guidance
        pipe = load_model(model, device, dtype, adapter)
        use_sampler(pipe, scheduler)
        encoded = subject or pipe.encode_concept(cast("Image", picture), marked)
        images = _draw(
            pipe,
            num_images,
            seed,
            prompt=prompt,
            concept=encoded.to(pipe.device, pipe.unet.dtype),
            fusion_weight=fusion_weight,
            words=words,
            negative_prompt=negative_prompt,
            num_inference_steps=steps,
            guidance_scale=guidance,
        )
        facts = {
            "prompt": prompt,
            "negative_prompt": negative_prompt or "",
            "fusion_weight": fusion_weight,
            "words": words,
            "steps": steps,
            "guidance": guidance,
            "scheduler": scheduler.value,
            "model": model,
            "subject": (image or concept or Path()).name,
        }
        for number, drawn in enumerate(images):
            path = _claim_name(output)
            _save(drawn, path, {**facts, "seed": seed + number})
            typer.echo(str(path))


def use_sampler(pipe: ElitePipeline, sampler: Sampler) -> None:
    """Change the pipeline's scheduler, on the same noise schedule."""
    import diffusers

    kinds: dict[Sampler, tuple[Any, dict[str, Any]]] = {
        Sampler.lms: (diffusers.LMSDiscreteScheduler, {"timestep_spacing": "linspace"}),
        Sampler.ddim: (diffusers.DDIMScheduler, {"clip_sample": False}),
        Sampler.pndm: (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
        Sampler.dpm: (diffusers.DPMSolverMultistepScheduler, {}),
        Sampler.euler: (diffusers.EulerDiscreteScheduler, {}),
    }
    kind, options = kinds[sampler]
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)


def _draw(pipe: ElitePipeline, num_images: int, seed: int, **options) -> list:
    """All pictures in one batch, each from its own generator (on the CPU, so that no device changes the noise)."""
    import torch

    generators = [torch.Generator().manual_seed(seed + number) for number in range(num_images)]
    return pipe(**options, num_images_per_prompt=num_images, generator=generators).images


def _claim_name(folder: Path) -> Path:
    """000.png, 001.png, … after the highest number there is, made empty at once: no other run can take it then."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = [int(path.stem) for path in folder.glob("*.png") if re.fullmatch(r"\d+", path.stem)]
    number = max(taken, default=-1) + 1
    while True:
        path = folder / f"{number:03d}.png"
        try:
            path.touch(exist_ok=False)
        except FileExistsError:  # another run was faster
            number += 1
        else:
            return path


def _save(picture, path: Path, facts: dict) -> None:
    """Write a PNG to a claimed name, whole or not at all, with what made it in its text fields."""
    from PIL.PngImagePlugin import PngInfo

    from elite import __version__
    from elite.io.files import replacing

    text = PngInfo()
    for key, value in {**facts, "elite_version": __version__}.items():
        text.add_itxt(key, str(value))
    try:
        with replacing(path) as temporary:
            picture.save(temporary, format="PNG", pnginfo=text)
    except BaseException:
        path.unlink(missing_ok=True)  # the empty claim
        raise
