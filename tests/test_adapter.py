"""The adapter: what it holds, what is trained, and that a file brings back the same weights or is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from elite.adapter import CONFIG_NAME, WEIGHTS_NAME, EliteAdapter
from elite.attention import check_processors, cross_attention_layers
from elite.io.fingerprint import fingerprint
from tests.helpers import tiny_image_encoder, tiny_unet


@pytest.fixture
def saved(tiny, tmp_path):
    return tiny.adapter.save_pretrained(tmp_path / "adapter")


def test_a_saved_adapter_loads_bit_equal(tiny, saved):
    loaded = EliteAdapter.from_pretrained(saved)
    assert loaded.config == tiny.adapter.config
    ours, theirs = tiny.adapter.state_dict(), loaded.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_fresh_keys_and_values_are_copies_of_the_base_model_s(tiny):
    unet = tiny_unet()
    adapter = EliteAdapter.for_models(unet, tiny.text_encoder, tiny.image_encoder, hidden_dim=8)
    for name, attn in cross_attention_layers(unet).items():
        processor = adapter.processors[name.replace(".", "_")]
        for branch in ("global", "local"):
            assert torch.equal(getattr(processor, f"to_k_{branch}").weight, attn.to_k.weight)
            assert torch.equal(getattr(processor, f"to_v_{branch}").weight, attn.to_v.weight)
            assert getattr(processor, f"to_k_{branch}").weight.data_ptr() != attn.to_k.weight.data_ptr()
    assert adapter.config.layers == (6, 1, 2, 3, 4)


def test_a_generator_fixes_the_fresh_weights(tiny):
    parts = tiny_unet(), tiny.text_encoder, tiny.image_encoder
    first, second, third = (
        EliteAdapter.for_models(*parts, hidden_dim=8, generator=torch.Generator().manual_seed(seed)).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["local_mapper.mapping_0.0.weight"], third["local_mapper.mapping_0.0.weight"])


def test_the_two_stages_train_disjoint_sets_that_cover_everything(tiny):
    first, second = tiny.adapter.global_parameters(), tiny.adapter.local_parameters()
    ids = {id(p) for p in first}, {id(p) for p in second}
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {id(p) for p in tiny.adapter.parameters()}
    names = {id(p): name for name, p in tiny.adapter.named_parameters()}
    assert all("global" in names[i] for i in ids[0]) and all("local" in names[i] for i in ids[1])


def test_detach_gives_the_unet_its_own_processors_back(fresh):
    adapter, unet = fresh.adapter, fresh.unet
    assert any("processor" in name for name in unet.state_dict())
    adapter.detach()
    assert not any("processor" in name for name in unet.state_dict())
    adapter.attach(unet)
    check_processors(unet)


def test_words_may_be_fewer_than_layers(tiny):
    parts = tiny.unet, tiny.text_encoder, tiny.image_encoder
    assert EliteAdapter.for_models(*parts, num_words=2, hidden_dim=8).config.layers == (6, 1)
    for wrong in ({"num_words": 6}, {"num_words": 0}, {"layers": (7,)}, {"layers": (-1,)}, {"layers": ()}):
        with pytest.raises(ValueError, match=r"num_words|layers"):
            EliteAdapter.for_models(*parts, hidden_dim=8, **wrong)


def test_damaged_weights_are_refused_before_anything_is_attached(saved):
    good = load_file(saved / WEIGHTS_NAME)
    name = "global_mapper.mapping_0.0.weight"
    nan = {**good, name: torch.full_like(good[name], float("nan"))}
    wide = {**good, name: torch.zeros(3, 3)}
    short = {key: value for key, value in good.items() if key != name}
    for tensors, sentence in ((nan, "NaN or infinite"), (wide, r"shape \(3, 3\)"), (short, "misses weight")):
        save_file(tensors, saved / WEIGHTS_NAME)
        with pytest.raises(ValueError, match=sentence):
            EliteAdapter.from_pretrained(saved)
    whole = (saved / WEIGHTS_NAME).read_bytes()
    (saved / WEIGHTS_NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"pytorch_model\.safetensors is not a safetensors file, or damaged"):
        EliteAdapter.from_pretrained(saved)


def test_a_file_that_is_not_the_one_its_configuration_was_written_for_is_refused(saved):
    tensors = load_file(saved / WEIGHTS_NAME)
    name = "local_mapper.mapping_0.0.weight"
    tensors[name][0, 0] += 1e-3
    save_file(tensors, saved / WEIGHTS_NAME)
    with pytest.raises(ValueError, match="is damaged: its weights are not those"):
        EliteAdapter.from_pretrained(saved)


def test_the_configuration_is_written_last_and_nothing_else_is_left(tiny, saved, monkeypatch):
    """Or a folder that was half written would look whole."""
    before = (saved / CONFIG_NAME).read_text()
    replace = Path.replace

    def stopped(self, target):
        if Path(target).name == CONFIG_NAME:
            raise KeyboardInterrupt
        return replace(self, target)

    changed = copy.deepcopy(tiny.adapter)
    with torch.no_grad():
        changed.local_mapper.mapping_0[0].weight.mul_(2)
    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        changed.save_pretrained(saved)
    assert (saved / CONFIG_NAME).read_text() == before
    assert {path.name for path in saved.iterdir()} == {CONFIG_NAME, WEIGHTS_NAME}
    assert list(saved.parent.iterdir()) == [saved]
    with pytest.raises(ValueError, match="is damaged"):
        EliteAdapter.from_pretrained(saved)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_an_adapter_of_an_earlier_release_still_loads(tiny, tmp_path, dtype):
    """As 0.1 wrote it; saving it again replaces its file."""
    config = {name: value for name, value in tiny.adapter.config.items()}
    old = {"format": "elite-adapter", "format_version": 1, "elite_version": "0.1.0", **config}
    (tmp_path / CONFIG_NAME).write_text(json.dumps(old))
    tensors = {name: tensor.contiguous() for name, tensor in tiny.adapter.state_dict().items()}
    save_file(tensors, tmp_path / "elite_adapter.safetensors")
    loaded = (
        EliteAdapter.from_pretrained(tmp_path, torch_dtype=dtype) if dtype else EliteAdapter.from_pretrained(tmp_path)
    )
    assert loaded.config == tiny.adapter.config and loaded.dtype is (dtype or torch.float32)
    assert all(torch.equal(loaded.state_dict()[name], value.to(loaded.dtype)) for name, value in tensors.items())
    assert loaded.content_id == tiny.adapter.content_id
    loaded.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG_NAME, WEIGHTS_NAME}
    assert EliteAdapter.from_pretrained(tmp_path).content_id == tiny.adapter.content_id


def test_what_is_no_adapter_is_refused(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match="holds no ELITE adapter"):
        EliteAdapter.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a folder nor a Hub repository"):
        EliteAdapter.from_pretrained(tmp_path / "nowhere")
    config = json.loads((saved / CONFIG_NAME).read_text())
    (saved / CONFIG_NAME).write_text(json.dumps({**config, "layers": 5}))
    with pytest.raises(ValueError, match="has layers = 5, expected a value of type list"):
        EliteAdapter.from_pretrained(saved)
    for change, sentence in (
        ({"layers": [6, "1"]}, "has '1' in layers, expected whole numbers"),
        ({"attention": dict.fromkeys(config["attention"], 1.5)}, r"has 1\.5 in attention, expected whole numbers"),
        ({"hidden_dim": "8"}, "has hidden_dim = '8', expected a value of type int"),
        ({"output_scale": "big"}, "has output_scale = 'big', expected a value of type float"),
    ):
        (saved / CONFIG_NAME).write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=sentence):
            EliteAdapter.from_pretrained(saved)
    (saved / CONFIG_NAME).write_text(json.dumps({"hidden_size": 3}))
    with pytest.raises(ValueError, match="not the configuration of an ELITE adapter"):
        EliteAdapter.from_pretrained(saved)


def test_a_nan_adapter_is_not_saved(tiny, tmp_path):
    broken = copy.deepcopy(tiny.adapter)
    with torch.no_grad():
        broken.local_mapper.mapping_0[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        broken.save_pretrained(tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


def test_fingerprint_is_one_for_all_types_and_another_for_other_weights():
    torch.manual_seed(0)
    encoder, other = tiny_image_encoder(), tiny_image_encoder()
    mine = fingerprint([encoder])
    assert mine == fingerprint([copy.deepcopy(encoder).half()]) == fingerprint([copy.deepcopy(encoder).bfloat16()])
    assert mine == fingerprint([encoder.vision_model])  # the projection head reads the same hidden states
    assert mine != fingerprint([other])
    assert mine != fingerprint([tiny_image_encoder(num_hidden_layers=5)])
