"""Cross attention with both branches: against a naive loop, its properties, and what replaces it unnoticed."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from elite.attention import (
    Active,
    Conditioning,
    EliteAttnProcessor,
    check_processors,
    condition,
    cross_attention_layers,
    install_processors,
    local_values,
    record_attention,
    remove_processors,
    reweight,
)
from elite.attention.active import ConditionedText
from tests.helpers import LENGTH, PATCHES, WIDTH, draw, tiny_unet

INDEX = torch.tensor([2, 5])
TEXT = draw(2, LENGTH, WIDTH, seed=11)
PATCH_EMBEDDINGS = draw(2, PATCHES, WIDTH, seed=12)
LATENTS = draw(2, 4, 8, 8, seed=13)


@pytest.fixture(scope="module")
def unet():
    """A UNet whose processors differ from its own keys and values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = tiny_unet().requires_grad_(False)
        for processor in install_processors(model).values():
            for parameter in processor.parameters():
                parameter.data.add_(0.5 * torch.randn_like(parameter))
    return model


def predict(unet, conditioning=None, latents=LATENTS, text=TEXT, t=10):
    with torch.no_grad():
        if conditioning is None:
            return unet(latents, t, encoder_hidden_states=text).sample
        with condition(unet, conditioning):
            return unet(latents, t, encoder_hidden_states=text).sample


def naive_layer(attn, hidden, text, patches, index, weight):
    """Eq. 2, 6 and 8 for one sample, head by head and query by query."""
    p, width = attn.processor, hidden.shape[-1] // attn.heads
    query = hidden @ attn.to_q.weight.T
    keys, values = text @ p.to_k_global.weight.T, text @ p.to_v_global.weight.T
    local_keys, local_values_ = patches @ p.to_k_local.weight.T, patches @ p.to_v_local.weight.T
    global_maps, outs = [], []
    for h in range(attn.heads):
        s = slice(h * width, (h + 1) * width)
        global_maps.append([torch.softmax(keys[:, s] @ q[s] / width**0.5, dim=0) for q in query])
    peak = max(float(row[index]) for rows in global_maps for row in rows)  # over heads and positions
    for i, q in enumerate(query):
        pieces = []
        for h in range(attn.heads):
            s = slice(h * width, (h + 1) * width)
            local_map = torch.softmax(local_keys[:, s] @ q[s] / width**0.5, dim=0) * global_maps[h][i][index] / peak
            pieces.append(global_maps[h][i] @ values[:, s] + weight * (local_map @ local_values_[:, s]))
        outs.append(torch.cat(pieces))
    return torch.stack(outs) @ attn.to_out[0].weight.T + attn.to_out[0].bias


def test_layer_equals_a_naive_loop_over_heads_and_queries(unet):
    """Fails when keys and values are swapped, or when the map is normalised over the batch."""
    attn = cross_attention_layers(unet)["down_blocks.1.attentions.0.transformer_blocks.0.attn2"]
    hidden = draw(2, 16, 32, seed=14)
    asked = Conditioning(PATCH_EMBEDDINGS, INDEX, 0.7)
    with torch.no_grad():
        got = attn(hidden, encoder_hidden_states=ConditionedText(TEXT, Active(asked)))
        for b in range(2):
            expected = naive_layer(attn, hidden[b], TEXT[b], PATCH_EMBEDDINGS[b], int(INDEX[b]), 0.7)
            torch.testing.assert_close(got[b], expected, atol=1e-5, rtol=0)


def test_without_conditioning_the_unet_is_the_base_model_bit_for_bit(unet):
    base = copy.deepcopy(unet)
    remove_processors(base)
    assert torch.equal(predict(unet), predict(base))
    inside = predict(unet, Conditioning(PATCH_EMBEDDINGS, INDEX))
    assert not torch.allclose(inside, predict(base), atol=1e-3)
    assert torch.equal(predict(unet), predict(base))


def test_fresh_processors_change_nothing_without_local_branch():
    model = tiny_unet()
    before = predict(model)
    install_processors(model)
    torch.testing.assert_close(predict(model, Conditioning(None, INDEX)), before, atol=1e-6, rtol=0)


def test_fusion_weight_zero_is_no_local_branch_exactly(unet):
    without = predict(unet, Conditioning(None, INDEX))
    assert torch.equal(predict(unet, Conditioning(PATCH_EMBEDDINGS, INDEX, 0.0)), without)
    assert torch.equal(predict(unet, Conditioning(PATCH_EMBEDDINGS, INDEX, torch.zeros(2))), without)


def test_all_zero_patches_add_nothing(unet):
    zero = predict(unet, Conditioning(torch.zeros_like(PATCH_EMBEDDINGS), INDEX))
    torch.testing.assert_close(zero, predict(unet, Conditioning(None, INDEX)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("reweighting", [True, False])
def test_result_does_not_depend_on_batch_neighbours(unet, reweighting):
    """Fails when the map is normalised over the batch."""
    both = predict(unet, Conditioning(PATCH_EMBEDDINGS, INDEX, 0.8, reweighting))
    for b in range(2):
        one = slice(b, b + 1)
        alone = predict(
            unet, Conditioning(PATCH_EMBEDDINGS[one], INDEX[one], 0.8, reweighting), LATENTS[one], TEXT[one]
        )
        torch.testing.assert_close(both[one], alone, atol=1e-5, rtol=0)


def test_batchwide_maximum_is_the_authors_and_does_depend_on_neighbours(unet):
    per_sample = predict(unet, Conditioning(PATCH_EMBEDDINGS, INDEX))
    batchwide = predict(unet, Conditioning(PATCH_EMBEDDINGS, INDEX, batchwide_maximum=True))
    assert not torch.allclose(per_sample, batchwide, atol=1e-4)


def test_one_batched_guidance_pass_equals_two(unet):
    negative = draw(2, LENGTH, WIDTH, seed=15)
    asked = Conditioning(PATCH_EMBEDDINGS, INDEX, 0.8)
    batched = predict(unet, asked, torch.cat([LATENTS, LATENTS]), torch.cat([negative, TEXT]))
    torch.testing.assert_close(batched[:2], predict(unet, Conditioning(None, INDEX), text=negative), atol=1e-5, rtol=0)
    torch.testing.assert_close(batched[2:], predict(unet, asked), atol=1e-5, rtol=0)


def test_fusion_weight_may_differ_by_sample(unet):
    mixed = predict(unet, Conditioning(PATCH_EMBEDDINGS, INDEX, torch.tensor([0.2, 1.0])))
    for b, weight in enumerate((0.2, 1.0)):
        torch.testing.assert_close(mixed[b], predict(unet, Conditioning(PATCH_EMBEDDINGS, INDEX, weight))[b])


@pytest.mark.parametrize("patches", [PATCH_EMBEDDINGS, None])
@pytest.mark.parametrize("reweighting", [True, False])
def test_recording_gives_the_same_prediction_and_maps_that_are_probabilities(unet, patches, reweighting):
    asked = Conditioning(patches, INDEX, 0.8, reweighting)
    latents, text = torch.cat([LATENTS, LATENTS]), torch.cat([TEXT.flip(0), TEXT])
    plain = predict(unet, asked, latents, text)
    with record_attention(unet) as record:
        torch.testing.assert_close(predict(unet, asked, latents, text), plain, atol=1e-5, rtol=0)
        predict(unet, asked, latents, text)
    assert len(record.calls) == 2
    assert list(record.calls[0]) != [] and set(record.calls[0]) == set(cross_attention_layers(unet))
    for maps in record.calls[0].values():
        heads, queries = 2, maps.size[0] * maps.size[1]
        assert maps.global_probs.shape == (4, heads, queries, LENGTH) and maps.first_row == 2
        torch.testing.assert_close(maps.global_probs.sum(-1), torch.ones(4, heads, queries))
        if patches is None:
            assert maps.local_probs is None
            continue
        assert maps.local_probs.shape == (2, heads, queries, PATCHES)
        total = maps.local_probs.sum(-1)
        if reweighting:
            torch.testing.assert_close(total.amax(dim=(1, 2)), torch.ones(2))
        else:
            torch.testing.assert_close(total, torch.ones_like(total))
    assert torch.equal(predict(unet, asked, latents, text), plain)  # recording leaves nothing behind


def test_word_map_is_the_mean_over_heads_layers_and_calls(unet):
    with record_attention(unet) as record:
        predict(unet)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    maps = record.calls[0][layer]
    expected = torch.stack([maps.global_probs[b, :, :, INDEX[b]].mean(0).view(8, 8) for b in range(2)])
    torch.testing.assert_close(record.word_map(INDEX, 8, layers="down_blocks.0"), expected)
    total = sum(record.word_map(position, 8) for position in range(LENGTH))
    torch.testing.assert_close(total, torch.ones(2, 8, 8))
    with pytest.raises(ValueError, match="position must be"):
        record.word_map(LENGTH, 8)
    with pytest.raises(ValueError, match="no attention was recorded"):
        record.word_map(0, 8, layers="nowhere")


def gradients(checkpointing):
    """Those of the patch embeddings, then of every processor's weights, on a model that is always the same."""
    torch.manual_seed(0)
    model = tiny_unet().requires_grad_(False).train()
    processors = install_processors(model)
    if checkpointing:
        model.enable_gradient_checkpointing()
    patches = PATCH_EMBEDDINGS.clone().requires_grad_()
    with condition(model, Conditioning(patches, INDEX)):
        out = model(LATENTS, 10, encoder_hidden_states=TEXT).sample
        values = local_values(model)
    assert [v.shape for v in values] == [(2, PATCHES, p.to_v_local.out_features) for p in processors.values()]
    (out.square().mean() + sum(v.abs().mean() for v in values)).backward()
    return [patches.grad, *(p.grad for processor in processors.values() for p in processor.parameters())]


def test_gradients_reach_patches_keys_and_values_also_through_checkpoints():
    """Checkpointed blocks run again in backward, when the context is long closed."""
    plain = gradients(checkpointing=False)
    assert all(grad is not None and grad.abs().sum() > 0 for grad in plain)
    for mine, other in zip(gradients(checkpointing=True), plain, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_was_projected_without_gradients_is_projected_again_when_they_are_on(checkpointing):
    torch.manual_seed(0)
    model = tiny_unet().requires_grad_(False).train()
    processor = next(iter(install_processors(model).values()))
    if checkpointing:
        model.enable_gradient_checkpointing()
    with condition(model, Conditioning(PATCH_EMBEDDINGS, INDEX)):
        with torch.no_grad():
            before = model(LATENTS, 10, encoder_hidden_states=TEXT).sample
        after = model(LATENTS, 10, encoder_hidden_states=TEXT).sample
    torch.testing.assert_close(after, before)
    after.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in processor.parameters())


def test_local_keys_and_values_are_projected_once_per_generation(unet):
    calls = []
    processor = next(iter(check_processors(unet).values()))
    handle = processor.to_v_local.register_forward_hook(lambda *args: calls.append(1))
    try:
        with torch.no_grad(), condition(unet, Conditioning(PATCH_EMBEDDINGS, INDEX)):
            for t in (30, 20, 10):
                unet(LATENTS, t, encoder_hidden_states=TEXT)
    finally:
        handle.remove()
    assert len(calls) == 1


def test_two_unets_do_not_disturb_each_other(unet):
    other = copy.deepcopy(unet)
    expected = predict(other)
    with torch.no_grad(), condition(unet, Conditioning(PATCH_EMBEDDINGS, INDEX)):
        assert torch.equal(predict(other), expected)
    with pytest.raises(RuntimeError, match="within condition"):
        local_values(unet)


def test_lora_on_the_base_projections_counts_when_elite_is_active():
    from peft import LoraConfig

    torch.manual_seed(0)
    model = tiny_unet().requires_grad_(False)
    install_processors(model)
    asked = Conditioning(None, INDEX)
    model.add_adapter(LoraConfig(r=2, target_modules=["attn2.to_k", "attn2.to_v"], init_lora_weights=False))
    attn = next(iter(cross_attention_layers(model).values()))
    with_lora = predict(model, asked)
    # a fresh adapter equals the base projections, so it must equal the base model with the same LoRA
    torch.testing.assert_close(with_lora, predict(model), atol=1e-5, rtol=0)
    model.disable_adapters()
    assert not torch.allclose(with_lora, predict(model, asked), atol=1e-4)
    assert hasattr(attn.to_k, "base_layer")


@pytest.mark.parametrize(
    "replace",
    [
        lambda u: u.set_attention_slice("auto"),
        lambda u: u.set_attn_processor(__import__("diffusers").models.attention_processor.AttnProcessor2_0()),
        lambda u: u.fuse_qkv_projections(),
    ],
)
def test_calls_that_replace_the_processors_are_noticed(replace):
    model = tiny_unet()
    processors = install_processors(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        replace(model)
    with pytest.raises(RuntimeError, match="instead of ELITE's"):
        predict(model, Conditioning(None, INDEX))
    install_processors(model, processors)
    check_processors(model)


def test_processors_are_refused_where_they_do_not_fit(unet):
    model = tiny_unet()
    with pytest.raises(ValueError, match="already has a processor with weights"):
        install_processors(unet)
    with pytest.raises(ValueError, match="must name exactly"):
        install_processors(model, {"somewhere": EliteAttnProcessor(WIDTH, 16)})
    wrong = {name: EliteAttnProcessor(WIDTH, 16) for name in cross_attention_layers(model)}
    with pytest.raises(ValueError, match="made for another base model"):
        install_processors(model, wrong)
    with pytest.raises(RuntimeError, match="instead of ELITE's"):
        check_processors(model)  # nothing was installed half-way
    with pytest.raises(ValueError, match="no cross attention layers"):
        cross_attention_layers(torch.nn.Linear(1, 1))


def test_conditioning_that_does_not_fit_is_refused(unet):
    with pytest.raises(ValueError, match="patch_embeddings must be"):
        Conditioning(PATCH_EMBEDDINGS[:1], INDEX)
    with pytest.raises(ValueError, match="fusion_weight must be"):
        Conditioning(PATCH_EMBEDDINGS, INDEX, torch.ones(3))
    with pytest.raises(ValueError, match="word_index is -1"):
        Conditioning(PATCH_EMBEDDINGS, torch.tensor([2, -1]))
    with pytest.raises(ValueError, match="must have width 24"):
        predict(unet, Conditioning(draw(2, PATCHES, 8), INDEX))
    with pytest.raises(ValueError, match="batch of 2, but its conditioning is for 3"):
        predict(unet, Conditioning(None, torch.tensor([1, 1, 1])))


def test_a_word_nothing_looks_at_scales_to_zero_and_not_to_nan():
    got = reweight(torch.rand(1, 1, 2, 3), torch.zeros(1, 1, 2))
    assert (got == 0).all()


def test_reweighting_scales_each_query_by_the_map_over_its_sample_s_maximum():
    probs, word_map = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4)
    got = reweight(probs, word_map)
    for b in range(2):
        peak = max(word_map[b].flatten().tolist())
        for h in range(3):
            for q in range(4):
                torch.testing.assert_close(got[b, h, q], probs[b, h, q] * word_map[b, h, q] / peak)
    torch.testing.assert_close(reweight(probs, word_map, True), probs * (word_map / word_map.max()).unsqueeze(-1))
    with pytest.raises(ValueError, match="local_probs must be"):
        reweight(probs, word_map[:1])
