"""Our numbers against tensors recorded from the authors' code; see golden/README.md."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from elite.adapter import EliteAdapter
from elite.attention import Conditioning, check_processors, condition, cross_attention_layers, record_attention
from elite.checkpoints import convert, load_official, save_official
from elite.features import clip_features, patch_mask
from elite.legacy import load_text_encoder, load_unet, load_vision_encoder
from elite.processor import Active, ConditionedText
from elite.prompts import TokenizedPrompts, encode_prompts, inject_words, select_words

GOLDEN = Path(__file__).parent / "golden"
# The full recording has the UNet and the image encoder too, too large for a repository.
FULL = Path(__file__).parents[2] / "shared" / "golden"
needs_full = pytest.mark.skipif(not FULL.is_dir(), reason=f"the full recording is not at {FULL}")

TOLERANCE = {"atol": 2e-5, "rtol": 0}
LAYERS = {
    "down0": "down_blocks.0.attentions.0.transformer_blocks.0.attn2",
    "mid": "mid_block.attentions.0.transformer_blocks.0.attn2",
}


@pytest.fixture(scope="module")
def config():
    return json.loads((GOLDEN / "config.json").read_text())


@pytest.fixture(scope="module")
def case_global():
    return load_file(GOLDEN / "case_global.safetensors")


@pytest.fixture(scope="module")
def case_local():
    return load_file(GOLDEN / "case_local.safetensors")


@pytest.fixture(scope="module")
def case_attention():
    return load_file(GOLDEN / "case_cross_attention.safetensors")


@pytest.fixture(scope="module")
def adapter():
    return load_official(GOLDEN)


@pytest.fixture(scope="module")
def text_encoder(config):
    return load_text_encoder(config["text_encoder_config"], load_file(GOLDEN / "text_encoder.safetensors"))


@pytest.fixture(scope="module")
def unet(config, adapter):
    """The recorded UNet: its cross attention layers; the rest is random and is not called."""
    from diffusers import UNet2DConditionModel

    recorded = load_file(GOLDEN / "unet_attn2.safetensors")
    base = UNet2DConditionModel.from_config(config["unet_config"]).state_dict()
    assert set(recorded) == {name for name in base if "attn2" in name}
    model = load_unet(config["unet_config"], {**base, **recorded})
    adapter.attach(model)
    yield model
    adapter.detach()


def states(case):
    return [case["vision/last_hidden_state"], *(case[f"vision/hidden_states_{i}"] for i in (4, 8, 12, 16))]


def test_words_equal_the_recorded_ones(adapter, case_global):
    torch.testing.assert_close(adapter.global_mapper(states(case_global)), case_global["mapper_out"], **TOLERANCE)


def test_patch_embeddings_equal_the_recorded_ones(adapter, case_local):
    features = states(case_local)
    mask = patch_mask(case_local["pixel_values_seg"], 16)
    torch.testing.assert_close(adapter.local_mapper(features), case_local["mapper_local_out_raw"], **TOLERANCE)
    torch.testing.assert_close(adapter.local_mapper(features, mask), case_local["mapper_local_out_masked"], **TOLERANCE)


@pytest.mark.parametrize(("pixels", "mask"), [("pixel_values_seg", "mask"), ("pixel_values_seg_128", "mask_from_128")])
def test_mask_on_the_patch_grid_equals_the_recorded_one(case_local, pixels, mask):
    assert torch.equal(patch_mask(case_local[pixels], 16), case_local[mask])


@pytest.mark.parametrize(("case", "which"), [("full5", "all"), ("primary", "w0")])
def test_text_features_with_words_equal_the_recorded_ones(text_encoder, case_global, case, which):
    words = select_words(case_global["mapper_out"], which)
    tokenized = TokenizedPrompts(case_global["input_ids"], case_global["index"])
    encoded = encode_prompts(text_encoder, tokenized, words)
    torch.testing.assert_close(encoded, case_global[f"text/{case}/last_hidden_state"], **TOLERANCE)
    with inject_words(text_encoder, words, tokenized.word_index):
        embedded = text_encoder.get_input_embeddings()(tokenized.input_ids)
    assert torch.equal(embedded, case_global[f"text/{case}/inputs_embeds"])


@pytest.mark.parametrize(("case", "ids"), [("plain", "input_ids"), ("uncond", "uncond_input_ids")])
def test_text_features_without_words_equal_the_recorded_ones(text_encoder, case_global, case, ids):
    encoded = encode_prompts(text_encoder, TokenizedPrompts(case_global[ids], case_global["index"]))
    torch.testing.assert_close(encoded, case_global[f"text/{case}/last_hidden_state"], **TOLERANCE)


def run_layer(unet, case, tag, batch, weight):
    """One cross attention layer on recorded input: ``batch`` is "b2" (both samples) or "b1_s0" (the first alone)."""
    rows = slice(0, 2) if batch == "b2" else slice(0, 1)
    patches = None if weight == "none" else case["local"][rows]
    fusion = 1.0 if weight in ("none", "default") else float(weight)
    asked = Conditioning(patches, case["local_index"][rows], fusion, batchwide_maximum=True)
    attn = cross_attention_layers(unet)[LAYERS[tag]]
    with torch.no_grad():
        return attn(
            case[f"{tag}/hidden_states"][rows],
            encoder_hidden_states=ConditionedText(case["context"][rows], Active(asked)),
        )


@pytest.mark.parametrize("weight", ["none", "default", "0.0", "0.6", "0.8"])
@pytest.mark.parametrize("batch", ["b2", "b1_s0"])
@pytest.mark.parametrize("tag", ["down0", "mid"])
def test_cross_attention_equals_the_recorded_one(unet, case_attention, tag, batch, weight):
    """The authors' maximum is the batch's; this also fails when keys and values are swapped."""
    recorded = case_attention[f"{tag}/out/{batch}/{weight}"]
    torch.testing.assert_close(run_layer(unet, case_attention, tag, batch, weight), recorded, **TOLERANCE)


@pytest.mark.parametrize("tag", ["down0", "mid"])
def test_explicit_maps_give_the_recorded_output_too(unet, case_attention, tag):
    with record_attention(unet) as record:
        record.start_call((16, 16))
        out = run_layer(unet, case_attention, tag, "b2", "0.8")
    torch.testing.assert_close(out, case_attention[f"{tag}/out/b2/0.8"], **TOLERANCE)
    maps = record.calls[0][LAYERS[tag]]
    index = case_attention["local_index"]
    column = torch.stack([maps.global_probs[b, :, :, index[b]] for b in range(2)]).flatten(0, 1)  # (B·heads, Q)
    torch.testing.assert_close(column, case_attention[f"{tag}/int/b2/placeholder_probs"], **TOLERANCE)


def test_per_sample_maximum_equals_the_authors_at_batch_one(unet, case_attention):
    attn = cross_attention_layers(unet)[LAYERS["mid"]]
    asked = Conditioning(case_attention["local"], case_attention["local_index"], 0.8)
    with torch.no_grad():
        both = attn(
            case_attention["mid/hidden_states"],
            encoder_hidden_states=ConditionedText(case_attention["context"], Active(asked)),
        )
    torch.testing.assert_close(both[:1], case_attention["mid/out/b1_s0/0.8"], **TOLERANCE)
    assert not torch.allclose(both, case_attention["mid/out/b2/0.8"], atol=1e-4)


@pytest.mark.parametrize("kept", ["global_mapper.pt", "local_mapper.pt"])
def test_published_files_survive_our_format_bit_for_bit(tmp_path, kept):
    folder = convert(tmp_path / "adapter", GOLDEN / "global_mapper.pt", GOLDEN / "local_mapper.pt")
    save_official(EliteAdapter.from_pretrained(folder), tmp_path / "back")
    manifest = json.loads((GOLDEN / "mapper_manifest.json").read_text())[kept.removesuffix("_mapper.pt")]
    back = torch.load(tmp_path / "back" / kept, weights_only=True)
    assert list(back) == list(torch.load(GOLDEN / kept, weights_only=True))
    assert set(back) == set(manifest)
    for name, tensor in back.items():
        assert hashlib.sha256(tensor.numpy().tobytes()).hexdigest() == manifest[name]["sha256_f32_le"], name


@needs_full
def test_image_features_equal_the_recorded_ones(config):
    encoder = load_vision_encoder(config["vision_encoder_config"], load_file(FULL / "vision_encoder.safetensors"))
    case = load_file(FULL / "case_global.safetensors")
    with torch.no_grad():
        features = clip_features(encoder, case["pixel_values_clip"])
    for feature, recorded in zip(features, states(case), strict=True):
        torch.testing.assert_close(feature, recorded, **TOLERANCE)


@needs_full
def test_old_unet_loads_and_runs_with_the_published_adapter(config, case_attention):
    model = load_unet(config["unet_config"], load_file(FULL / "unet.safetensors"))
    heads = {name: attn.heads for name, attn in cross_attention_layers(model).items()}
    assert set(heads.values()) == {config["unet_attention_heads"][name]["heads"] for name in heads} == {4}
    load_official(FULL, unet=model)
    assert list(check_processors(model)) == config["cross_attention_modules_in_checkpoint_order"]
    asked = Conditioning(case_attention["local"], case_attention["local_index"], 0.8)
    with torch.no_grad(), condition(model, asked):
        out = model(torch.zeros(2, 4, 16, 16), 10.5, encoder_hidden_states=case_attention["context"]).sample
    assert out.isfinite().all()
