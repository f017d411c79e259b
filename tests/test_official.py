"""The authors' files: what is refused; that they survive bit for bit is in test_golden.py."""

from __future__ import annotations

import pickle

import pytest
import torch

from elite.official import GLOBAL_NAME, LOCAL_NAME, load_official, save_official


@pytest.fixture
def official(tiny, tmp_path):
    save_official(tiny.adapter, tmp_path)
    return tmp_path


def test_official_files_bring_back_the_adapter(tiny, official):
    layers = tiny.adapter.config.layers
    for source in ({"global_pt": official}, {"global_pt": official / GLOBAL_NAME, "local_pt": official / LOCAL_NAME}):
        loaded = load_official(**source, layers=layers).state_dict()
        ours = tiny.adapter.state_dict()
        assert set(loaded) == set(ours)
        assert all(torch.equal(loaded[name], ours[name]) for name in ours)


def test_files_in_a_checkpoints_folder_are_found(official):
    (official / "checkpoints").mkdir()
    for name in (GLOBAL_NAME, LOCAL_NAME):
        (official / name).rename(official / "checkpoints" / name)
    assert load_official(official).config.num_words == 5


def test_only_plain_tensors_are_read(official):
    class Surprise:
        def __reduce__(self):
            return print, ("this must not run",)

    (official / GLOBAL_NAME).write_bytes(pickle.dumps({"mapping_0.0.weight": Surprise()}, protocol=2))
    with pytest.raises(ValueError, match="not a checkpoint of plain tensors"):
        load_official(official)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.update({"mapping_0.0.weight": torch.full_like(d["mapping_0.0.weight"], float("nan"))}), "NaN"),
        (lambda d: d.update({"mapping_1.3.weight": torch.zeros(2, 2)}), r"mapping_1\.3\.weight of shape \(2, 2\)"),
        (lambda d: d.pop("mapping_2.6.bias"), "misses weight"),
        (lambda d: d.update({"extra": torch.zeros(1)}), "unknown weight extra"),
        (lambda d: [d.pop(key) for key in list(d) if key.startswith("mapping")], "has no mapping_0"),
        (lambda d: d.update({"mapping_0.0.weight": torch.zeros(3)}), r"of shape \(3,\), expected two dimensions"),
        (lambda d: d.update({next(k for k in d if k.endswith("_to_k.weight")): torch.tensor(0.0)}), "two dimensions"),
        (lambda d: d.clear(), "flat dictionary"),
    ],
)
def test_damaged_checkpoints_are_refused(official, change, sentence):
    tensors = torch.load(official / GLOBAL_NAME, weights_only=True)
    change(tensors)
    torch.save(tensors, official / GLOBAL_NAME)
    with pytest.raises(ValueError, match=sentence):
        load_official(official)


def test_missing_files_are_named(official, tmp_path):
    with pytest.raises(ValueError, match="local_pt is missing"):
        load_official(official / GLOBAL_NAME)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_official(official / GLOBAL_NAME, tmp_path / "no.pt")
    (official / LOCAL_NAME).unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no local_mapper\.pt"):
        load_official(official)
    with pytest.raises(ValueError, match="layers must name 5"):
        save = official / GLOBAL_NAME
        load_official(save, save, layers=(1, 2))
