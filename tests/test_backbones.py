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


def test_device_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("ELITE_DEVICE", "cpu")
    assert best_device() == torch.device("cpu")
    monkeypatch.setenv("ELITE_DEVICE", "abacus")
    with pytest.raises(ValueError, match="ELITE_DEVICE must be a torch device"):
        best_device()


def test_revisions_are_whole_commits_or_unknown():
    assert all(value is None or re.fullmatch("[0-9a-f]{40}", value) for value in REVISIONS.values())
