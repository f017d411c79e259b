"""What a concept costs, counted, and what is computed only once: until the text or a LoRA changes."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from bench.operations import count, over_plain, sd_layers
from elite.attention import (
    Conditioning,
    check_processors,
    condition,
    cross_attention_layers,
    remove_processors,
    restore_processors,
)
from tests.helpers import LENGTH, PATCHES, WIDTH, draw, half_mask, picture

LATENTS, TIMESTEP = draw(4, 4, 8, 8), torch.tensor(10)
PATCH_EMBEDDINGS = draw(2, PATCHES, WIDTH, seed=2)


def text(seed: int = 1) -> torch.Tensor:
    return draw(4, LENGTH, WIDTH, seed=seed)


def asked(patches=PATCH_EMBEDDINGS, **options) -> Conditioning:
    return Conditioning(patches, torch.tensor([2, 5]), **{"fusion_weight": 0.6, **options})


@torch.no_grad()
def predict(unet, states, **options) -> torch.Tensor:
    return unet(LATENTS, TIMESTEP, encoder_hidden_states=states, **options).sample


def with_lora(unet):
    torch.manual_seed(0)
    names = ["attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"]
    unet.add_adapter(LoraConfig(r=2, target_modules=names, init_lora_weights=False))
    return unet


def test_a_concept_adds_at_most_eight_percent_of_the_operations(tiny):
    assert over_plain(tiny.unet, LENGTH, PATCHES) <= 1.08


def test_on_the_layers_of_stable_diffusion_a_concept_adds_less_still():
    unet = sd_layers()
    assert len(check_processors(unet)) == 16
    assert over_plain(unet) <= 1.06


@pytest.mark.parametrize("conditioning", [None, asked(patches=None), asked(fusion_weight=0.0)])
def test_without_a_concept_nothing_is_added(fresh, conditioning):
    states = text()
    removed = remove_processors(fresh.unet)
    plain = count(lambda: predict(fresh.unet, states)).work
    restore_processors(fresh.unet, removed)
    if conditioning is None:
        assert count(lambda: predict(fresh.unet, states)).work == plain
        return
    with condition(fresh.unet, conditioning):
        assert count(lambda: predict(fresh.unet, states)).work.total() <= plain.total()


@pytest.mark.parametrize("reweighting", [True, False])
def test_keys_and_values_are_projected_once_for_all_steps(tiny, reweighting):
    calls, handles = [], []
    for processor in check_processors(tiny.unet).values():
        for name in ("to_k_global", "to_v_global", "to_k_local", "to_v_local"):
            layer = getattr(processor, name)
            handles.append(layer.register_forward_hook(lambda *args, name=name: calls.append(name)))
    states = text()
    with condition(tiny.unet, asked(reweighting=reweighting), guided=True):
        for _ in range(3):
            predict(tiny.unet, states)
    for handle in handles:
        handle.remove()
    assert len(calls) == len(handles)


def assert_counts_at_once(unet, change, states):
    """``change`` takes the UNet or gives another text: the next call of the same context is as in a fresh one."""
    with condition(unet, asked()):
        before = predict(unet, states)
        change(unet)
        inside = predict(unet, states)
    with condition(unet, asked()):
        alone = predict(unet, states)
    assert not torch.allclose(before, inside, atol=1e-4)
    torch.testing.assert_close(inside, alone)


def test_another_text_counts_at_once(tiny):
    with condition(tiny.unet, asked()):
        predict(tiny.unet, text())
        inside = predict(tiny.unet, text(seed=7))
    with condition(tiny.unet, asked()):
        torch.testing.assert_close(predict(tiny.unet, text(seed=7)), inside)


def test_a_text_changed_in_place_counts_at_once(tiny):
    states = text()
    assert_counts_at_once(tiny.unet, lambda unet: states.mul_(-1), states)


def test_a_text_changed_in_place_counts_in_inference_mode_too(tiny):
    with torch.inference_mode():
        states = text().clone()
        assert_counts_at_once(tiny.unet, lambda unet: states.mul_(-1), states)


def test_weights_changed_in_place_count_at_once(fresh):
    @torch.no_grad()
    def change(unet):
        for processor in check_processors(unet).values():
            processor.to_v_global.weight.mul_(-1)

    assert_counts_at_once(fresh.unet, change, text())


@pytest.mark.parametrize("name", ["to_q", "to_out"])
def test_weights_of_the_base_model_changed_in_place_count_at_once(fresh, name):
    @torch.no_grad()
    def change(unet):
        for attn in cross_attention_layers(unet).values():
            (attn.to_q if name == "to_q" else attn.to_out[0]).weight.mul_(-1)

    assert_counts_at_once(fresh.unet, change, text())


@pytest.mark.parametrize(
    "change",
    [
        lambda unet: unet.disable_adapters(),
        lambda unet: unet.set_adapters(["default"], [0.3]),
        lambda unet: unet.fuse_lora(lora_scale=0.3),
    ],
)
def test_a_lora_that_counts_otherwise_counts_at_once(fresh, change):
    assert_counts_at_once(with_lora(fresh.unet), change, text())


def test_the_scale_of_a_lora_counts_for_keys_that_were_kept(fresh):
    unet, states = with_lora(fresh.unet), text()
    scaled = [{"cross_attention_kwargs": {"scale": scale}} for scale in (1.0, 0.2)]
    with condition(unet, asked()):
        full, inside = (predict(unet, states, **options) for options in scaled)
    with condition(unet, asked()):
        alone = predict(unet, states, **scaled[1])
    assert not torch.allclose(full, inside, atol=1e-4)
    torch.testing.assert_close(inside, alone)


def test_a_callback_may_change_the_text_between_steps(fresh):
    concept = fresh.encode_concept(picture(1), half_mask())
    options = {"num_inference_steps": 4, "output_type": "latent", "latents": LATENTS[:1], "guidance_scale": 3.0}
    options |= {"concept": concept, "fusion_weight": 0.7}
    other = draw(2, LENGTH, WIDTH, seed=5)
    seen = []

    def change(pipe, step, timestep, tensors):
        if step == 0:
            return {**tensors, "prompt_embeds": other}
        if step == 1:
            tensors["prompt_embeds"].mul_(0.5)
        return tensors

    def run(keep: bool):
        with pytest.MonkeyPatch.context() as patch:
            if not keep:
                patch.setattr("elite.attention.active._may_keep", lambda: False)
            seen.append(
                fresh(
                    "a photo of a S*",
                    callback_on_step_end=change,
                    callback_on_step_end_tensor_inputs=["prompt_embeds"],
                    **options,
                ).images
            )
            other.mul_(2)  # for the next run

    run(keep=True)
    run(keep=False)
    torch.testing.assert_close(seen[0], seen[1], atol=1e-5, rtol=1e-5)
    unchanged = fresh("a photo of a S*", **options).images
    assert not torch.allclose(seen[0], unchanged, atol=1e-3)


def test_unet_with_a_concept_compiles_to_one_graph(fresh):
    torch._dynamo.reset()
    states = text()
    with condition(fresh.unet, asked()):
        expected = predict(fresh.unet, states)
    compiled = torch.compile(fresh.unet, fullgraph=True, backend="eager")
    with condition(fresh.unet, asked()):
        for _ in range(2):
            torch.testing.assert_close(predict(compiled, states), expected)
    torch._dynamo.reset()
