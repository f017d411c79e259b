"""The recipes in docstrings run as they stand there, and do what they say."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from elite import sampling
from elite.adapter import EliteAdapter
from elite.official import save_official
from elite.pipeline import ElitePipeline
from elite.prompts import tokenize
from elite.training import train
from tests.data.conftest import _subset, subset  # noqa: F401 (fixtures)
from tests.helpers import draw, half_mask, picture, tiny_text_encoder, tiny_tokenizer, tiny_unet


def code_blocks(docstring: str) -> list[str]:
    """What stands indented after a line that ends in two colons."""
    lines, blocks = inspect.cleandoc(docstring).splitlines(), []
    for line in lines:
        if line.endswith("::"):
            blocks.append([])
        elif blocks and (line.startswith("    ") or not line) and blocks[-1] is not None:
            blocks[-1].append(line[4:])
        elif line and blocks:
            blocks.append(None)
    return ["\n".join(block) for block in blocks if block]


@pytest.fixture
def names(tmp_path, monkeypatch) -> dict:
    """What the docstring of `elite.sampling` takes for granted, in small: a grid of 16 patches, 24 layers."""
    torch.manual_seed(0)
    vision_config = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 24,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 2,
        "projection_dim": 4,
    }
    tokenizer, unet = tiny_tokenizer(), tiny_unet()
    text_encoder, vision_encoder = tiny_text_encoder(tokenizer), CLIPVisionModel(CLIPVisionConfig(**vision_config))
    save_official(EliteAdapter.for_models(unet, text_encoder, vision_encoder, hidden_dim=8), tmp_path)
    monkeypatch.chdir(tmp_path)
    tokenized = tokenize(tokenizer, ["a photo of a S*", "the S* on a hill"])
    empty = tokenize(tokenizer, ["", ""], require_placeholder=False)
    return {
        "unet_config": dict(unet.config),
        "unet_state_dict": unet.state_dict(),
        "text_config": text_encoder.config.to_dict(),
        "text_state_dict": text_encoder.state_dict(),
        "vision_config": vision_config,
        "vision_state_dict": vision_encoder.state_dict(),
        "pixel_values": draw(2, 3, 32, 32),
        "masked_pixels": draw(2, 3, 32, 32, seed=1),
        "picture_mask": torch.ones(2, 1, 32, 32),
        "input_ids": tokenized.input_ids,
        "index": tokenized.word_index,
        "uncond_ids": empty.input_ids,
        "latents": draw(2, 4, 8, 8, seed=2),
        "noisy_latents": draw(2, 4, 8, 8, seed=3),
        "noise": draw(2, 4, 8, 8, seed=4),
        "latent_mask": torch.ones(2, 1, 8, 8),
        "t": torch.tensor([600, 41]),
    }


def trained(names: dict) -> set[str]:
    parts = ("unet", "text_encoder", "vision_encoder", "adapter")
    return {f"{part}.{name}" for part in parts for name, p in names[part].named_parameters() if p.grad is not None}


def test_recipe_for_sampling_and_training_runs_and_trains_what_it_says(names):
    loading, training = code_blocks(sampling.__doc__)
    assert loading.count("num_inference_steps=100") == 1
    exec(loading.replace("num_inference_steps=100", "num_inference_steps=2"), names)
    assert names["latents"].shape == (2, 4, 8, 8) and names["latents"].isfinite().all()
    first, second = training.split("adapter.requires_grad_(False)\nfor")
    for code, chosen in (
        (first, "global_parameters"),
        (f"adapter.requires_grad_(False)\nfor{second}", "local_parameters"),
    ):
        exec(code, names)
        mine = {id(parameter) for parameter in getattr(names["adapter"], chosen)()}
        wanted = {f"adapter.{name}" for name, p in names["adapter"].named_parameters() if id(p) in mine}
        # The UNet's own names of the processors' weights are the adapter's: the same parameters.
        found = {name for name in trained(names) if ".processor." not in name}
        assert found == wanted
        for parameter in names["adapter"].parameters():
            parameter.grad = None


def test_recipe_of_the_pipeline_draws(fresh, tmp_path, monkeypatch):
    fresh.save_pretrained(tmp_path / "path" / "to" / "folder")
    monkeypatch.chdir(tmp_path)
    picture(0).save("dog.jpg")
    half_mask().save("dog-mask.png")
    (code,) = code_blocks(ElitePipeline.__doc__)
    call = 'pipe("a S* in the snow", concept=dog, fusion_weight=0.6)'
    assert code.count(call) == 1
    found: dict = {"ElitePipeline": ElitePipeline}
    exec(code.replace(call, "image = " + call[:-1] + ", num_inference_steps=2)"), found)
    assert found["image"].size == (16, 16)


def test_recipe_of_training_trains(subset, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELITE_CACHE", str(tmp_path / "cache"))
    (code,) = code_blocks(train.__doc__)
    small = "batch_size=2, warmup=1, min_side=20.0, validate_every=0"
    for said, instead in (('"data/toybox"', repr(str(subset.root))), ("steps=200", f"steps=1, {small}")):
        assert code.count(said) == 1
        code = code.replace(said, instead)
    found: dict = {}
    exec(code, found)
    assert found["result"].step == 1


def test_every_recipe_has_a_test():
    """A new one belongs above."""
    sources = {path.name: path.read_text().splitlines() for path in Path(sampling.__file__).parent.rglob("*.py")}
    with_code = {name for name, lines in sources.items() if any(line.endswith("::") for line in lines)}
    assert with_code == {"sampling.py", "pipeline.py", "loop.py"}
