"""Eq. 2, 6 and 8 on given tensors, against the layer's fused kernels and against loops."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention
from hypothesis import given, settings
from hypothesis import strategies as st

from elite.attention import Conditioning, EliteAttnProcessor, cross_attention, cross_attention_layers, fused_attention
from elite.attention.active import Active, ConditionedText
from tests.helpers import LENGTH, PATCHES, WIDTH, draw


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 4),
    queries=st.integers(1, 9),
    length=st.integers(2, 12),
    width=st.integers(1, 20),
    reweighting=st.booleans(),
    batchwide=st.booleans(),
    guided=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_fused_kernels_give_what_explicit_maps_give(
    batch, heads, queries, length, width, reweighting, batchwide, guided, seed
):
    """Whatever the shapes: the word's map comes out of a value's column, weights are widened, λ is in the value."""
    torch.manual_seed(seed)
    attn = Attention(query_dim=6, cross_attention_dim=5, heads=heads, dim_head=width, processor=None)
    attn.set_processor(EliteAttnProcessor(5, heads * width))
    rows = batch * (1 + guided)
    hidden, text, patches = draw(rows, queries, 6, seed=seed), draw(rows, length, 5, seed=seed + 1), draw(batch, 4, 5)
    index = torch.randint(length, (batch,))
    asked = Conditioning(patches, index, torch.rand(batch), reweighting, batchwide)
    with torch.no_grad():
        got = attn(hidden, encoder_hidden_states=ConditionedText(text, Active(asked, guided=guided)))
        alone = cross_attention(attn, hidden[-batch:], text[-batch:], asked)
        without = cross_attention(attn, hidden[:batch], text[:batch], Conditioning(None, index))
    torch.testing.assert_close(got[-batch:], alone.hidden_states, atol=1e-5, rtol=1e-4)
    if guided:
        torch.testing.assert_close(got[:batch], without.hidden_states, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.global_probs.sum(-1), torch.ones(batch, heads, queries))


def test_fusion_follows_equations_6_and_8_sample_by_sample():
    query, key, value = draw(2, 3, 4, 5), draw(2, 3, 6, 5, seed=1), draw(2, 3, 6, 5, seed=2)
    local_key, local_value = draw(2, 3, 7, 5, seed=3), draw(2, 3, 7, 5, seed=4)
    found = fused_attention(query, key, value, local_key, local_value, torch.tensor([1, 4]), torch.tensor([0.3, 0.9]))
    for b, (word, weight) in enumerate([(1, 0.3), (4, 0.9)]):
        maps = [[torch.softmax(key[b, h] @ q / 5**0.5, dim=0) for q in query[b, h]] for h in range(3)]
        peak = max(float(row[word]) for rows in maps for row in rows)
        for h in range(3):
            for i, q in enumerate(query[b, h]):
                local = torch.softmax(local_key[b, h] @ q / 5**0.5, dim=0) * maps[h][i][word] / peak
                expected = maps[h][i] @ value[b, h] + weight * (local @ local_value[b, h])
                torch.testing.assert_close(found.out[b, h, i], expected)
                torch.testing.assert_close(found.local_probs[b, h, i], local)


def test_maps_of_the_equations_have_gradients():
    tensors = [draw(1, 2, 3, 4, seed=i).requires_grad_() for i in range(5)]
    found = fused_attention(*tensors, torch.tensor([1]))
    (found.out.sum() + found.local_probs.square().sum()).backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in tensors)


def test_one_layer_alone_gives_the_maps_that_its_unet_would_record(tiny):
    from elite.attention import condition, record_attention

    asked = Conditioning(draw(2, PATCHES, WIDTH), torch.tensor([2, 5]), 0.7)
    latents, states = draw(2, 4, 8, 8), draw(2, LENGTH, WIDTH, seed=1)
    name, attn = next(iter(cross_attention_layers(tiny.unet).items()))
    seen = []
    handle = attn.register_forward_hook(lambda layer, args, out: seen.extend([args[0], out]))
    with torch.no_grad(), condition(tiny.unet, asked), record_attention(tiny.unet) as record:
        tiny.unet(latents, 10, encoder_hidden_states=states)
    handle.remove()
    with torch.no_grad():
        alone = cross_attention(attn, seen[0], states, asked)
    maps = record.calls[0][name]
    assert torch.equal(alone.hidden_states, seen[1])
    assert torch.equal(alone.global_probs, maps.global_probs) and torch.equal(alone.local_probs, maps.local_probs)
    assert cross_attention(attn, seen[0], states, Conditioning(None, torch.tensor([2, 5]))).local_probs is None


def test_a_layer_alone_that_is_not_elite_s_or_has_other_rows_is_refused(tiny):
    name, attn = next(iter(cross_attention_layers(tiny.unet).items()))
    hidden, states = draw(2, 64, attn.to_q.in_features), draw(2, LENGTH, WIDTH)
    with pytest.raises(ValueError, match="batch of 2, but its conditioning is for 1"):
        cross_attention(attn, hidden, states, Conditioning(None, torch.tensor([2])))
    with pytest.raises(RuntimeError, match="instead of ELITE's"):
        cross_attention(tiny.unet.get_submodule(name.replace("attn2", "attn1")), hidden, states)
