"""Files are written whole or not at all, and found in folders and Hub repositories alike."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from elite.backbones import REVISIONS
from elite.io.files import read_json, replacing, write_json
from elite.io.hub import find_file
from elite.io.tensors import check_finite, read_safetensors


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, {"a": 1})
    before = path.read_text()
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(RuntimeError, match="power"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("power cut")
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_that_cannot_be_written_is_an_oserror(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_json(tmp_path / "file" / "config.json", {})


def test_values_that_are_not_finite_are_named():
    check_finite({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.long)}, "x")
    with pytest.raises(ValueError, match=r"weights\.pt holds NaN or infinite values in b"):
        check_finite({"a": torch.ones(2), "b": torch.tensor([1.0, float("inf")])}, "weights.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_of_every_type_are_checked_and_their_sum_does_not_overflow(dtype):
    check_finite({"a": torch.full((300,), 60000.0, dtype=dtype), "b": torch.ones(2, device="meta")}, "x")
    for values in ([1, float("nan")], [float("inf"), -float("inf")]):
        with pytest.raises(ValueError, match="NaN or infinite values in a"):
            check_finite({"a": torch.tensor(values, dtype=dtype)}, "x")


def test_files_of_another_kind_are_named(tmp_path):
    path = tmp_path / "config.json"
    for text, sentence in (('{"a":', r"config\.json is not a JSON file"), ("[]", "must hold a JSON object, got list")):
        path.write_text(text)
        with pytest.raises(ValueError, match=sentence):
            read_json(path)
        with pytest.raises(ValueError, match=r"config\.json is not a safetensors file"):
            read_safetensors(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_safetensors(tmp_path / "none")


def test_hub_files_are_asked_for_at_their_revision(monkeypatch, tmp_path):
    asked = []

    def download(repo, name, subfolder=None, revision=None):
        asked.append((repo, name, subfolder, revision))
        if name == "absent":
            raise EntryNotFoundError("no such entry")
        if name == "offline":
            raise LocalEntryNotFoundError("not cached")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    revision = REVISIONS["CompVis/stable-diffusion-v1-4"]
    assert find_file("owner/name", "a.json", revision, "elite") == Path(tmp_path / "a.json")
    assert asked == [("owner/name", "a.json", "elite", revision)]
    assert find_file("owner/name", "absent") is None
    with pytest.raises(FileNotFoundError, match="Hub cannot be reached"):
        find_file("owner/name", "offline")
    with pytest.raises(FileNotFoundError, match="neither a folder nor a Hub repository"):
        find_file("./owner", "a.json")
