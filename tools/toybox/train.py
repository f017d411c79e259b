"""Trains the whole miniature as the recipe says: ``python -m tools.toybox.train``, or ``make toybox``.

The same program runs on a GPU, where each part takes its seconds and a step is one CUDA graph, and on CPU cores, where
it takes its samples. It can be stopped at any moment and goes on from the last checkpoint when it is called again. What
is trained to its end is never trained again.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from safetensors.torch import load_file

from elite.adapter import EliteAdapter
from elite.attention import remove_processors
from elite.pipeline import ElitePipeline
from elite.toybox import shapes
from elite.toybox.identity import IdentityEncoder
from elite.toybox.judge import Judge
from elite.toybox.world import IMAGE_SIZE
from elite.training.steps import CLASS_WORD
from tools.toybox import backbone, stages
from tools.toybox.bundle import feature_extractor, write_weights
from tools.toybox.clip_pair import CaptionTable
from tools.toybox.fit import Fit, OutOfTimeError, best_device, say, write_state
from tools.toybox.looks import ConceptLook, UNetLook
from tools.toybox.objects import Objects, ObjectSource
from tools.toybox.pictures import Latents, Pictures
from tools.toybox.recipe import FILE, Recipe, load_recipe
from tools.toybox.rendering import PictureSet, render_beside
from tools.toybox.tokenizer import build_tokenizer, world_captions

UNFINISHED = 75  # exit status of a call whose time was over: call again


def default_folder() -> Path:
    """``toybox128`` in ``ELITE_CACHE``, or in ``~/.cache/elite``."""
    return Path(os.environ.get("ELITE_CACHE") or Path.home() / ".cache" / "elite") / "toybox128"


def prepare_captions(train: PictureSet, tokenizer: Path, out: Path) -> None:
    """Tokenise the captions of all training pictures into ``out``, in a process of its own."""
    table = CaptionTable(train.facts(), CLIPTokenizer.from_pretrained(tokenizer))
    names = ("token_ids", "said", "shown", "choices", "texts")
    write_state(out, {name: getattr(table, name) for name in names})


class Run:
    """One training of the miniature below a folder.

    Args:
        folder: of pictures, checkpoints and results.
        recipe: what to do.
        by_samples: count lengths in samples on a GPU as well.
        minutes: time that this call may take; it ends with a checkpoint.
        workers: processes that render.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, by_samples: bool = False, minutes: float = math.inf, workers: int | None = None
    ) -> None:
        self.folder, self.recipe, self.by_samples = folder, recipe, by_samples
        self.deadline = time.monotonic() + 60 * minutes
        self.device = best_device()
        pictures = folder / "pictures"
        self.train = PictureSet(pictures, "train", recipe.pictures, IMAGE_SIZE, "train")
        self.validation = PictureSet(pictures, "validation", recipe.validation, IMAGE_SIZE, "validation")
        self.objects = PictureSet(pictures, "objects", recipe.objects, recipe.object_size, "train", pairs=False)
        self.workers = workers or max(1, (os.cpu_count() or 2) - 1)

    def fitter(self, name: str, folder: str = "parts", part: str | None = None) -> functools.partial[Fit]:
        """What makes a `Fit` of a part, once its parameters are known; its random numbers begin with the recipe's seed."""
        torch.manual_seed(self.recipe.seed * 1000 + sum(map(ord, name)))
        options = {"by_samples": self.by_samples, "deadline": self.deadline, "part": self.recipe.parts[part or name]}
        return functools.partial(Fit, self.folder / folder, name, **options)

    def parts(self, weights: Path | None = None) -> dict[str, Any]:
        """The backbone's parts: trained, or those of a weights folder; the pictures are rendered beside."""
        if weights is not None:
            render_beside([self.objects], self.workers)
            return self.backbone_of(weights)
        self.start_rendering()
        return self.backbone()

    def start_rendering(self) -> None:
        """Render what is missing beside the training, and tokenise its captions."""
        render_beside([self.train, self.validation, self.objects], self.workers)
        tokenizer = self.folder / "tokenizer"
        if not (tokenizer / "tokenizer.json").exists():
            build_tokenizer(world_captions()).save_pretrained(tokenizer)
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer)
        if not self._captions.exists():
            arguments = (self.train, tokenizer, self._captions)
            multiprocessing.get_context("spawn").Process(target=prepare_captions, args=arguments, daemon=True).start()

    @property
    def _captions(self) -> Path:
        return self.folder / "captions.pt"

    def caption_table(self) -> CaptionTable:
        """The captions, once they are tokenised."""
        while not self._captions.exists():
            time.sleep(0.2)
        table = CaptionTable.__new__(CaptionTable)
        vars(table).update(torch.load(self._captions, weights_only=True))
        return table

    def backbone(self) -> dict[str, Any]:
        """Train every part of the backbone, in the order in which they need one another."""
        recipe = self.recipe
        pictures = Pictures(self.train, self.device)
        say(f"{self.device}: {recipe.pictures} pictures, {pictures.source.whole()} rendered")
        vae = backbone.train_vae(pictures, self.fitter("vae"))
        facts = pictures.complete()
        table = self.caption_table()
        say(f"all pictures are there, with {len(table.texts)} different captions")
        pair = backbone.train_clip(pictures, table, self.fitter("clip"))
        judge = backbone.train_judge(pictures, facts, self.fitter("judge"))
        encoder = backbone.train_identity(pictures, facts, self.fitter("identity"))
        pictures.encode(vae)
        vae.register_to_config(scaling_factor=pictures.latents.factor)
        texts = backbone.Texts(table, self.tokenizer, pair.text, {each["class_name"] for each in facts})
        parts = {"vae": vae, "text_encoder": pair.text, "image_encoder": pair.vision, "tokenizer": self.tokenizer}
        parts |= {"judge": judge, "identity_encoder": encoder}
        self.pictures, self.texts, self.clip_head = pictures, texts, pair.head()
        look = UNetLook(lambda unet: self.plain_pipeline(parts | {"unet": unet}), judge)
        parts["unet"] = backbone.train_unet(
            pictures, texts, self.fitter("unet"), recipe.looking, recipe.snr_gamma["unet"], look, recipe.looks["unet"]
        )
        return parts

    def backbone_of(self, weights: Path) -> dict[str, Any]:
        """Every part of the backbone of a weights folder, in place of training them."""
        pipeline = ElitePipeline.from_pretrained(weights, adapter="init").to(self.device)
        remove_processors(pipeline.unet)
        names = ("vae", "text_encoder", "image_encoder", "tokenizer", "unet")
        parts = {name: getattr(pipeline, name) for name in names}
        parts["judge"] = Judge.from_pretrained(weights / "judge").to(self.device)
        parts["identity_encoder"] = IdentityEncoder.from_pretrained(weights / "identity_encoder").to(self.device)
        self.clip_head = load_file(weights / "clip_head.safetensors")
        return parts

    @staticmethod
    def plain_pipeline(parts: dict[str, Any]) -> StableDiffusionPipeline:
        """The base model of some parts."""
        names = ("vae", "text_encoder", "tokenizer", "unet")
        pipeline = StableDiffusionPipeline(
            **{name: parts[name] for name in names},
            scheduler=shapes.build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def elite_pipeline(self, parts: dict[str, Any], **options: Any) -> ElitePipeline:
        """The base model with a fresh adapter; ``options`` are for `EliteAdapter.for_models`."""
        unet, text_encoder, image_encoder = parts["unet"], parts["text_encoder"], parts["image_encoder"]
        torch.manual_seed(self.recipe.seed + 7)
        adapter = EliteAdapter.for_models(
            unet,
            text_encoder,
            image_encoder,
            **{
                "hidden_dim": stages.HIDDEN_DIM,
                **stages.output_scales(text_encoder, parts["tokenizer"]),
                **options,
            },
        ).to(self.device)
        pipeline = ElitePipeline(
            vae=parts["vae"],
            text_encoder=text_encoder,
            tokenizer=parts["tokenizer"],
            unet=unet,
            scheduler=shapes.build_scheduler(),
            safety_checker=None,
            feature_extractor=feature_extractor(),
            image_encoder=image_encoder,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.attach_adapter(adapter)

    def object_source(self) -> ObjectSource:
        """The objects that ELITE is trained on."""
        self.objects.wait()
        cache = None if self.device.type == "cuda" else self.folder / "objects"
        return ObjectSource(self.objects, self.recipe.windows, self.recipe.seed, self.device, cache)

    def elite(self, parts: dict[str, Any]) -> EliteAdapter:
        """Train both stages of the bundled adapter."""
        pipeline = self.elite_pipeline(parts)
        concepts = ConceptLook(parts["identity_encoder"], parts["judge"])
        source = self.object_source()
        train_both(self, pipeline, source, "", look=concepts)
        return pipeline.adapter


def train_both(
    run: Run,
    pipeline: ElitePipeline,
    source: ObjectSource,
    ending: str,
    look: ConceptLook | None = None,
    changes: dict[str, dict[str, Any]] | None = None,
    latents: Latents | None = None,
    part: str | None = None,
    which: Sequence[str] = ("global", "local"),
) -> None:
    """Train the global and the local stage of an adapter.

    Args:
        run: names the folder and the recipe.
        pipeline: with the adapter.
        source: of the objects.
        ending: of the parts' names, such as "" for the bundled adapter.
        look: measures on the way.
        changes: what differs from `stages.Stage`'s defaults, by stage.
        latents: of the targets, where they are computed already.
        part: of the recipe that says how long, in place of the stages' own.
        which: the stages to train.
    """
    recipe, adapter, layers = run.recipe, pipeline.adapter, pipeline.adapter.config.layers
    latents = source.latents(pipeline.vae) if latents is None else latents
    folder = f"parts{ending}"
    for name in which:
        local = name == "local"
        plain = source.features(pipeline.image_encoder, layers, masked=False)
        by_class = (changes or {}).get(name, {}).get("words") == CLASS_WORD
        words = stages.words_of(adapter, plain) if local and not by_class else None
        features = source.features(pipeline.image_encoder, layers, masked=True) if local else plain
        del plain
        objects = Objects(features, source.masks() if local else None, latents, source.windows, source.class_names)
        settings = {"snr_gamma": recipe.snr_gamma[name], "regularizer": recipe.regularizer[name]}
        stage = stages.Stage(name, **settings | (changes or {}).get(name, {}))
        stages.train_stage(
            pipeline, stage, objects, words, run.fitter(name, folder, part), recipe.attention_lr_scale,
            look=(lambda local=local: look(pipeline, local)) if look else None,
            looks=recipe.looks[name] if look else 0,
        )  # fmt: skip
        del objects, features


app = typer.Typer(add_completion=False)


@app.command()
def main(
    folder: Annotated[Path | None, typer.Option(help="Of pictures, checkpoints and results.")] = None,
    weights: Annotated[Path, typer.Option(help="Weights folder to write.")] = Path("build/toybox/weights"),
    recipe: Annotated[Path, typer.Option(help="The recipe.")] = FILE,
    share: Annotated[float, typer.Option(help="Share of its lengths and pictures.")] = 1.0,
    minutes: Annotated[float, typer.Option(help="Stop after so many minutes; call again to go on.")] = math.inf,
    by_samples: Annotated[bool, typer.Option("--by-samples", help="Count samples on a GPU as well.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes that render.")] = None,
    backbone_from: Annotated[Path | None, typer.Option(help="Weights folder whose backbone is kept.")] = None,
) -> None:
    """Train everything from a seed, or go on; ends with status 75 when the time was over before the end."""
    wanted = load_recipe(recipe)
    run = Run(folder or default_folder(), wanted if share == 1 else wanted.shortened(share), by_samples, minutes, workers)
    if run.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        parts = run.parts(backbone_from)
        parts["adapter"] = run.elite(parts)
    except OutOfTimeError as stopped:
        say(f"{stopped}; call again to go on.")
        raise typer.Exit(UNFINISHED) from None
    write_weights(weights, parts, run.clip_head)
    say(f"done: {weights}")


if __name__ == "__main__":
    app()
