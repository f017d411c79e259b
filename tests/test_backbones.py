"""Base models by name; what is wrong is said before anything is loaded."""

from __future__ import annotations

import re

import pytest
import torch

from elite.backbones import REVISIONS, best_device, load_pipeline


def test_a_folder_loads_with_its_adapter(tiny, tmp_path, monkeypatch):
    tiny.save_pretrained(tmp_path)
    monkeypatch.setenv("ELITE_BACKBONE", str(tmp_path))
    pipe = load_pipeline(device="cpu")
    assert pipe.adapter.config == tiny.adapter.config
    assert pipe.unet.dtype == torch.float32


def test_unknown_names_are_refused(tmp_path):
    for wrong in ("sdxl", tmp_path):
        with pytest.raises(FileNotFoundError, match="toybox, sd14 or a folder"):
            load_pipeline(wrong, device="cpu")


def test_a_device_that_cannot_compute_is_refused_before_anything_is_loaded():
    for wrong in ("cuda:99", "nowhere"):
        with pytest.raises(ValueError, match=f"device must be one that torch can compute on here, .* got '{wrong}'"):
            load_pipeline("no-such-model", device=wrong)


def test_device_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("ELITE_DEVICE", "cpu")
    assert best_device() == torch.device("cpu")
    monkeypatch.setenv("ELITE_DEVICE", "abacus")
    with pytest.raises(ValueError, match="ELITE_DEVICE must be a torch device"):
        best_device()


def test_revisions_are_whole_commits_or_unknown():
    assert all(value is None or re.fullmatch("[0-9a-f]{40}", value) for value in REVISIONS.values())


def test_stable_diffusion_loads_pinned_parts_in_the_type_asked_for(tiny, monkeypatch):
    """What is asked of the Hub, without the Hub: each repository at its commit, everything in one type."""
    from transformers import CLIPVisionModelWithProjection

    from elite.pipeline import ElitePipeline

    asked = {}

    def loader(value):
        def from_pretrained(name, **kwargs):
            asked[name] = kwargs
            return value

        return staticmethod(from_pretrained)

    monkeypatch.setattr(CLIPVisionModelWithProjection, "from_pretrained", loader(tiny.image_encoder))
    monkeypatch.setattr(ElitePipeline, "from_pretrained", loader(tiny))
    assert load_pipeline("sd14", device="cpu") is tiny
    assert len(asked) == 2
    for name, kwargs in asked.items():
        assert kwargs["revision"] == REVISIONS[name]
        assert kwargs["dtype"] == torch.float32
    pipeline = next(kwargs for kwargs in asked.values() if "adapter" in kwargs)
    assert pipeline["adapter_revision"] == REVISIONS[pipeline["adapter"]]
    assert pipeline["image_encoder"] is tiny.image_encoder


def test_the_guidance_suits_the_model(monkeypatch, tmp_path):
    from elite import default_guidance

    monkeypatch.delenv("ELITE_BACKBONE", raising=False)
    assert default_guidance() == default_guidance("toybox") == 3.0
    assert default_guidance("sd14") == default_guidance(tmp_path) == 5.0
    monkeypatch.setenv("ELITE_BACKBONE", "sd14")
    assert default_guidance() == 5.0
