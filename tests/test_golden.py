"""Our numbers against tensors recorded from the authors' code; see golden/README.md."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from elite import sampling
from elite.adapter import EliteAdapter
from elite.attention import (
    Active,
    Conditioning,
    check_processors,
    condition,
    cross_attention_layers,
    local_values,
    record_attention,
)
from elite.attention.active import ConditionedText
from elite.features import clip_features, patch_mask
from elite.io.legacy import load_text_encoder, load_unet, load_vision_encoder
from elite.losses import global_loss, local_loss
from elite.official import convert, load_official, save_official
from elite.prompts import TokenizedPrompts, encode_prompts, inject_words, select_words
from elite.sampling import guided_noise_prediction, sample_lms
from tests import authors
from tests.helpers import draw

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
    """The recorded UNet: its cross attention layers; the rest is random."""
    from diffusers import UNet2DConditionModel

    recorded = load_file(GOLDEN / "unet_attn2.safetensors")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
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


@pytest.fixture(scope="module")
def parts(unet, adapter, text_encoder, case_global, case_local):
    """Whole models: ours and the authors', and what both are conditioned on."""
    files = [torch.load(GOLDEN / name, weights_only=True) for name in ("global_mapper.pt", "local_mapper.pt")]
    adapter.detach()
    theirs = authors.Unet(unet, *map(authors.leaves, files))
    adapter.attach(unet)
    ids, index = case_global["input_ids"], case_global["index"]
    with torch.no_grad():
        words = adapter.global_mapper(states(case_global))
        patches = adapter.local_mapper(states(case_local), case_local["mask"])
        text = encode_prompts(text_encoder, TokenizedPrompts(ids, index), select_words(words, "w0"))
        negative = encode_prompts(text_encoder, TokenizedPrompts(case_global["uncond_input_ids"], index))
    return SimpleNamespace(
        theirs=theirs, unet=unet, ids=ids, index=index, words=words, patches=patches, text=text, negative=negative
    )


@pytest.mark.parametrize("weight", [None, 0.6, 1.2])
def test_a_guided_prediction_of_the_whole_unet_equals_the_authors_two_passes(parts, weight):
    latents, t = draw(2, 4, 16, 16, seed=1), torch.tensor(988.909090909091, dtype=torch.float64)
    patches = None if weight is None else parts.patches
    asked = Conditioning(patches, parts.index, weight or 1.0, batchwide_maximum=True)
    with torch.no_grad():
        without = parts.theirs(latents, t, parts.negative)
        conditional = parts.theirs(latents, t, parts.text, patches, parts.index, weight or 1.0)
        got = guided_noise_prediction(parts.unet, latents, t, parts.text, parts.negative, asked, 5.0)
        alone = guided_noise_prediction(parts.unet, latents, t, parts.text, None, asked)
    torch.testing.assert_close(alone, conditional, **TOLERANCE)
    torch.testing.assert_close(got, without + 5.0 * (conditional - without), atol=1e-4, rtol=0)  # 5 × the difference


@pytest.mark.parametrize("rows", [1, 2])
def test_ten_steps_of_sampling_equal_the_authors(parts, rows):
    noise, keep = draw(rows, 4, 16, 16, seed=2), slice(0, rows)
    shared = (parts.text[keep], parts.negative[keep])
    expected = authors.sample_lms(
        parts.theirs, noise, *shared, parts.patches[keep], parts.index[keep], 0.8, steps=10, guidance=5.0
    )
    asked = Conditioning(parts.patches[keep], parts.index[keep], 0.8, batchwide_maximum=True)
    got = sample_lms(parts.unet, noise, *shared, asked, num_inference_steps=10, guidance_scale=5.0)
    assert expected.abs().max() > 10
    torch.testing.assert_close(got, expected, atol=5e-4, rtol=0)


def gradients(adapter, branch):
    """Gradients of one stage's weights under the names of the authors' file."""
    found = {name: p.grad for name, p in getattr(adapter, f"{branch}_mapper").named_parameters()}
    for key, processor in adapter.processors.items():
        for kind in ("to_k", "to_v"):
            found[f"{key}_{kind}.weight"] = getattr(processor, f"{kind}_{branch}").weight.grad
    return found


@pytest.mark.parametrize("stage", ["global", "local"])
def test_a_training_step_of_the_whole_model_equals_the_authors(
    parts, adapter, text_encoder, case_global, case_local, stage
):
    """Loss and every gradient, at batch 2 with the authors' maximum: nothing may be detached."""
    noisy, noise, t = draw(2, 4, 16, 16, seed=3), draw(2, 4, 16, 16, seed=4), torch.tensor([600, 41])
    prompts = TokenizedPrompts(parts.ids, parts.index)
    adapter.zero_grad()
    if stage == "global":
        words = authors.words_of(parts.theirs.first, states(case_global))
        prediction = parts.theirs(noisy, t, authors.text_of(text_encoder, parts.ids, words, parts.index))
        expected = (prediction - noise).square().mean() + 0.01 * words.abs().mean()
        words = adapter.global_mapper(states(case_global))
        text = encode_prompts(text_encoder, prompts, words)
        with condition(parts.unet, Conditioning(None, parts.index)):
            loss = global_loss(parts.unet(noisy, t, encoder_hidden_states=text).sample, noise, words)
    else:
        mask = torch.ones(2, 1, 16, 16)
        mask[0, :, :, :5] = 0
        patches = authors.patches_of(parts.theirs.second, states(case_local), case_local["mask"])
        prediction = parts.theirs(noisy, t, parts.text, patches, parts.index)
        per_sample = ((prediction - noise).square() * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))
        values = parts.theirs.values
        expected = per_sample.mean() + 1e-4 * sum(value.abs().mean() for value in values) / len(values)
        patches = adapter.local_mapper(states(case_local), case_local["mask"])
        with condition(parts.unet, Conditioning(patches, parts.index, batchwide_maximum=True)):
            prediction = parts.unet(noisy, t, encoder_hidden_states=parts.text).sample
            loss = local_loss(prediction, noise, mask, local_values(parts.unet))
    weights = parts.theirs.first if stage == "global" else parts.theirs.second
    wanted = dict(zip(weights, torch.autograd.grad(expected, list(weights.values())), strict=True))
    loss.backward()
    found = gradients(adapter, stage)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() < 3e-4 * gradient.norm(), name


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


@needs_full
def test_the_lines_in_the_docstring_of_sampling_run_on_the_full_recording(config, monkeypatch):
    """As they stand there, one after the other, with fewer sampling steps."""
    monkeypatch.chdir(FULL)
    first, second = (load_file(FULL / f"case_{name}.safetensors") for name in ("global", "local"))
    names = {
        **{f"{part}_config": config[f"{part}_encoder_config"] for part in ("text", "vision")},
        **{f"{part}_state_dict": load_file(FULL / f"{part}_encoder.safetensors") for part in ("text", "vision")},
        "unet_config": config["unet_config"],
        "unet_state_dict": load_file(FULL / "unet.safetensors"),
        "pixel_values": first["pixel_values_clip"],
        "masked_pixels": second["pixel_values_obj"],
        "picture_mask": second["pixel_values_seg"],
        "input_ids": first["input_ids"],
        "index": first["index"],
        "uncond_ids": first["uncond_input_ids"],
        "latents": draw(2, 4, 16, 16, seed=1),
        "noisy_latents": draw(2, 4, 16, 16, seed=2),
        "noise": draw(2, 4, 16, 16, seed=3),
        "latent_mask": torch.ones(2, 1, 16, 16),
        "t": torch.tensor([600, 41]),
    }
    code = "\n".join(line[4:] for line in sampling.__doc__.splitlines() if line.startswith("    "))
    assert code.count("num_inference_steps=100") == 1
    exec(code.replace("num_inference_steps=100", "num_inference_steps=2"), names)
    torch.testing.assert_close(names["words"], first["mapper_out"], **TOLERANCE)
    torch.testing.assert_close(names["patches"], second["mapper_local_out_masked"], **TOLERANCE)
    torch.testing.assert_close(names["text"], first["text/primary/last_hidden_state"], **TOLERANCE)
    torch.testing.assert_close(names["negative"], first["text/uncond/last_hidden_state"], **TOLERANCE)
    assert names["latents"].shape == (2, 4, 16, 16) and names["latents"].isfinite().all()
    trained = names["adapter"]
    assert all(p.grad is not None for p in [*trained.global_parameters(), *trained.local_parameters()])
