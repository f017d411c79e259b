"""ElitePipeline in folders and on the Hub: what it saves loads again, here and in diffusers."""

from __future__ import annotations

import copy
import json
import logging
import warnings

import huggingface_hub
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file

from elite.attention import check_processors, remove_processors
from elite.official import own_adapter, save_official
from elite.pipeline import ElitePipeline
from tests.helpers import generate, half_mask, picture


def test_a_saved_pipeline_loads_and_draws_the_same(tiny, concept, tmp_path):
    tiny.save_pretrained(tmp_path)
    check_processors(tiny.unet)  # saving leaves it as it was
    loaded = ElitePipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(generate(loaded, concept=concept), generate(tiny, concept=concept))
    assert torch.equal(loaded.encode_concept(picture(1), half_mask()).words, concept.words)


def test_a_saved_folder_loads_with_diffusers_alone_and_without_a_warning(tiny, stock, tmp_path, caplog):
    tiny.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).propagate = True
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        loaded = DiffusionPipeline.from_pretrained(tmp_path)
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).propagate = False
    assert caplog.records == []
    assert type(loaded) is StableDiffusionPipeline
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(generate(loaded), generate(stock))


def test_a_folder_without_adapter_gets_one_only_when_asked(stock, concept, tmp_path):
    stock.save_pretrained(tmp_path)
    bare = ElitePipeline.from_pretrained(tmp_path)
    for call in (lambda: bare.encode_concept(picture()), lambda: generate(bare, concept=concept)):
        with pytest.raises(ValueError, match="has no ELITE adapter"):
            call()
    assert ElitePipeline.from_pretrained(tmp_path, adapter="init").adapter.config.layers == (6, 1, 2, 3, 4)
    with pytest.raises(FileNotFoundError, match="holds neither an ELITE adapter"):
        ElitePipeline.from_pretrained(tmp_path, adapter=tmp_path / "unet")


def test_an_untrained_adapter_needs_an_image_encoder(stock, tmp_path):
    parts = {**stock.components, "image_encoder": None}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="image_encoder is missing"):
        ElitePipeline.from_pretrained(tmp_path, adapter="init")


def test_saving_one_of_two_pipelines_with_one_adapter_leaves_both_whole(fresh, concept, tmp_path):
    first = fresh
    second = ElitePipeline(**{**first.components, "unet": copy.deepcopy(first.unet)}, requires_safety_checker=False)
    remove_processors(second.unet)
    second.set_progress_bar_config(disable=True)
    second.attach_adapter(first.adapter)
    before = generate(first, concept=concept)
    first.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert not any("processor" in name for name in saved)
    for pipe in (first, second):
        torch.testing.assert_close(generate(pipe, concept=concept), before)


def test_a_pipeline_without_adapter_saves_a_clean_unet_that_it_shares(tiny, tmp_path):
    bare = ElitePipeline(**tiny.components, requires_safety_checker=False)
    bare.save_pretrained(tmp_path)
    assert not any("processor" in name for name in load_file(tmp_path / "unet/diffusion_pytorch_model.safetensors"))
    check_processors(tiny.unet)


def test_a_base_model_with_nan_weights_is_refused_when_it_is_loaded(stock, tmp_path):
    broken = copy.deepcopy(stock.unet)
    broken.conv_in.weight[0, 0, 0, 0] = float("nan")
    StableDiffusionPipeline(**{**stock.components, "unet": broken}, requires_safety_checker=False).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match=r"unet of .* holds NaN or infinite values in conv_in\.weight"):
        ElitePipeline.from_pretrained(tmp_path)


def test_an_adapter_folder_and_the_authors_files_can_be_named(tiny, stock, tmp_path):
    stock.save_pretrained(tmp_path / "base")
    tiny.adapter.save_pretrained(tmp_path / "adapter")
    loaded = ElitePipeline.from_pretrained(tmp_path / "base", adapter=tmp_path / "adapter")
    assert loaded.adapter.config == tiny.adapter.config
    save_official(tiny.adapter, tmp_path / "official")
    with pytest.raises(ValueError, match="layers holds 24"):  # theirs read layer 24, this encoder has 6
        ElitePipeline.from_pretrained(tmp_path / "base", adapter=tmp_path / "official")


def test_the_authors_files_load_offline_from_the_cache(tiny, stock, tmp_path, monkeypatch):
    """What was never downloaded cannot be looked for there; that it is missing is no reason to stop."""
    stock.save_pretrained(tmp_path / "base")
    save_official(tiny.adapter, tmp_path / "checkpoints")

    def cached(repository, name, subfolder=None, revision=None):
        path = tmp_path / str(subfolder) / name
        if not path.is_file():
            raise LocalEntryNotFoundError("not in the cache")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    with pytest.raises(ValueError, match="layers holds 24"):  # read, and then found to be of a deeper encoder
        ElitePipeline.from_pretrained(tmp_path / "base", adapter="owner/name")
    (tmp_path / "checkpoints" / "global_mapper.pt").unlink()
    with pytest.raises(FileNotFoundError, match="the Hub cannot be reached"):
        ElitePipeline.from_pretrained(tmp_path / "base", adapter="owner/name")


def test_options_of_the_hub_hold_for_the_adapter_too(tiny, stock, tmp_path, monkeypatch):
    stock.save_pretrained(tmp_path / "base")
    tiny.adapter.save_pretrained(tmp_path / "adapter")
    asked = []

    def download(repository, name, **options):
        asked.append(options)
        return str(tmp_path / "adapter" / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    options = {"token": "secret", "cache_dir": str(tmp_path / "cache"), "local_files_only": False}
    ElitePipeline.from_pretrained(tmp_path / "base", adapter="owner/name", adapter_revision="abc", **options)
    assert asked and all(each == {"subfolder": None, "revision": "abc", **options} for each in asked)


def test_an_unreachable_hub_is_not_taken_for_a_repository_without_adapter(monkeypatch):
    def unreachable(repository, name, **options):
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(FileNotFoundError, match="the Hub cannot be reached"):
        own_adapter("owner/name", "elite")
    assert own_adapter("owner/name", "elite", local_files_only=True) is None
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert own_adapter("owner/name", "elite") is None
