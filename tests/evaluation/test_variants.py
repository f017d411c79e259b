"""Variants: the trained half is kept, the rest is the base model's."""

from __future__ import annotations

import pytest
import torch

from elite.adapter import EliteAdapter
from elite.evaluation.variants import (
    VARIANTS,
    MissingVariantError,
    half_names,
    load_variant,
    primary_of,
    save_variant,
)
from tests.helpers import generate, half_mask, picture, tiny_pipeline

LAYERS = {"single-word": (6,), "single-layer": (6,) * 5, "middle": (1, 2, 6, 3, 4)}


def trained(pipe, name: str) -> EliteAdapter:
    """An adapter whose weights all differ from the base model's."""
    layers = LAYERS.get(name, (6, 1, 2, 3, 4))
    adapter = EliteAdapter.for_models(
        pipe.unet, pipe.text_encoder, pipe.image_encoder, layers=layers, hidden_dim=16, output_scale=0.5,
        generator=torch.Generator().manual_seed(len(name)),
    )  # fmt: skip
    with torch.no_grad():
        for number, parameter in enumerate(adapter.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number + len(name)))
            parameter.copy_((parameter + 0.1 * noise).half().float())
    return adapter


@pytest.mark.parametrize("name", ["single-word", "single-layer", "middle"])
def test_a_variant_of_the_global_stage_has_the_base_models_local_half(tiny, tmp_path, name):
    before = trained(tiny, name)
    save_variant(name, before, tmp_path)
    after = load_variant(name, tiny, tmp_path)
    assert after.config.layers == LAYERS[name] and after.config.output_scale == 0.5
    mine, state = set(half_names(before, "global")), before.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in after.state_dict().items() if key in mine)
    for key, processor in after.processors.items():
        layer = next(attn for n, attn in tiny.unet.named_modules() if n.replace(".", "_") == key)
        assert torch.equal(processor.to_k_local.weight, layer.to_k.weight)
        assert torch.equal(processor.to_v_local.weight, layer.to_v.weight)
    assert (tmp_path / f"{name}.safetensors").stat().st_size < 2.3 * sum(state[key].numel() for key in mine) + 20_000


def test_the_control_goes_on_from_first(tiny, tmp_path):
    first, control = trained(tiny, "first"), trained(tiny, "control")
    save_variant("first", first, tmp_path)
    save_variant("control", control, tmp_path)
    both = load_variant("control", tiny, tmp_path).state_dict()
    for half, source in (("global", first), ("local", control)):
        assert all(torch.equal(both[key], source.state_dict()[key]) for key in half_names(source, half))


def test_without_a_global_stage_the_base_models_keys_and_values_read_the_text(tmp_path):
    """Fig. 17's variant at fusion weight 0 is the base model with the class name in the prompt."""
    pipe = tiny_pipeline(seed=0)
    save_variant("no-global", trained(pipe, "no-global"), tmp_path)
    pipe.attach_adapter(load_variant("no-global", pipe, tmp_path))
    plain = generate(pipe, "a photo of a to")
    concept = pipe.encode_concept(picture(1), half_mask())
    from dataclasses import replace

    from elite.prompts import word_embeddings

    named = replace(concept, words=word_embeddings(pipe.text_encoder, pipe.tokenizer, "to"))
    with_word = generate(pipe, "a photo of a S*", concept=named, fusion_weight=0.0, words="all")
    torch.testing.assert_close(with_word, plain, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(generate(pipe, "a photo of a S*", concept=named, fusion_weight=1.0, words="all"), plain)


def test_the_primary_word_is_that_of_the_deepest_layer():
    assert [primary_of(layers) for layers in ((6, 1, 2), (1, 2, 6), (1, 6, 2), (6,))] == [0, 2, 1, 0]
    assert primary_of((6, 6, 6)) is None


def test_what_is_missing_damaged_or_of_another_model_is_said(tiny, tmp_path):
    with pytest.raises(MissingVariantError, match="variant first is not there"):
        load_variant("first", tiny, tmp_path)
    with pytest.raises(ValueError, match="variant must be one of single-word"):
        load_variant("zeroth", tiny, tmp_path)
    save_variant("first", trained(tiny, "first"), tmp_path)
    (tmp_path / "first.safetensors").rename(tmp_path / "last.safetensors")
    with pytest.raises(ValueError, match="does not hold the variant last"):
        load_variant("last", tiny, tmp_path)
    save_variant("control", trained(tiny, "control"), tmp_path)
    with pytest.raises(MissingVariantError, match="variant first is not there"):
        load_variant("control", tiny, tmp_path)
    assert {one.half for one in VARIANTS.values()} == {"global", "local"}
