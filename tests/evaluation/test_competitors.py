"""Competitors: each trains what it says and no more, draws the same after saving, and leaves the pipeline alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from elite.evaluation.competitors import COMPETITORS, MINIATURE, PAPER, Learned, Settings, competitor
from elite.evaluation.competitors.base import Denoising
from elite.evaluation.competitors.method import Learning
from elite.evaluation.drawing import Drawing
from elite.prompts import TokenizedPrompts, encode_prompts, tokenize
from tests.evaluation import worlds
from tests.helpers import draw, generate, picture, tiny_pipeline

NAMES = tuple(COMPETITORS)
QUICK = Settings(3, 1e-2, batch_size=2, prior_pictures=2, weight_decay=0.0)
PICTURES = [picture(1)]


@pytest.fixture
def pipe():
    return tiny_pipeline(seed=0)


def quick(name: str, pipe, **changes):
    found = competitor(name, pipe, replace(QUICK, **changes))
    # Not drawn: fifty steps each.
    found._draw_prior = lambda class_name: [picture(50 + n) for n in range(found.settings.prior_pictures)]
    return found


def states(pipe) -> dict[str, torch.Tensor]:
    parts = {"unet": pipe.unet, "text": pipe.text_encoder, "vae": pipe.vae}
    return {f"{part}.{name}": p.clone() for part, module in parts.items() for name, p in module.state_dict().items()}


def latents(one, learned) -> torch.Tensor:
    with one.installed(learned) as noun:
        return generate(one.pipeline, f"the {noun} of the photo")


@pytest.mark.parametrize("name", NAMES)
def test_a_reloaded_one_draws_the_same_and_the_pipeline_is_as_before(pipe, tmp_path, name):
    """diffusers' own way of loading Custom Diffusion leaves the base model's keys and values, without an error."""
    before, plain = states(pipe), generate(pipe, "the photo of the")
    one = quick(name, pipe)
    learned = one.learn(PICTURES, "to")
    drawn = latents(one, learned)
    again = latents(one, Learned.load(learned.save(tmp_path / "one.safetensors")))
    assert torch.equal(drawn, again)
    fresh = latents(one, quick(name, pipe, learning_rate=1e-12).learn(PICTURES, "to"))
    assert not torch.allclose(drawn, fresh, atol=1e-4)  # it is what was learnt that draws
    after = states(pipe)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(generate(pipe, "the photo of the"), plain)
    assert len(pipe.tokenizer) == len(tiny_pipeline(seed=0).tokenizer)


@pytest.mark.parametrize("name", NAMES)
def test_stages_are_moments_of_one_run(pipe, name):
    """What is known after two steps does not depend on going on, nor on what is drawn in between."""
    one = quick(name, pipe)
    found = []
    for learned in one.stages(PICTURES, "to", [2, 4]):
        latents(one, learned)
        found.append(learned)
    assert [learned.steps for learned in found] == [2, 4]
    assert found[0].seconds < found[1].seconds
    for learned in found:
        again = one.learn(PICTURES, "to", budget=learned.steps)
        assert again.tensors.keys() == learned.tensors.keys()
        assert all(torch.equal(again.tensors[key], learned.tensors[key]) for key in again.tensors)


def test_textual_inversion_learns_one_row_of_numbers(pipe):
    one = quick("textual-inversion", pipe)
    learned = one.learn(PICTURES, "to")
    assert {name: tensor.shape for name, tensor in learned.tensors.items()} == {"word": (24,)}
    (token,) = pipe.tokenizer("to", add_special_tokens=False).input_ids
    start = pipe.text_encoder.get_input_embeddings().weight[token]
    assert 0 < float((learned.tensors["word"] - start).abs().max()) <= 3.1e-2  # Adam's steps of 1e-2, from the class's
    # Every other text says what it said.
    tokens = tokenize(pipe.tokenizer, ["the photo", "of to"], require_placeholder=False)
    before = encode_prompts(pipe.text_encoder, tokens)
    with one.installed(learned) as noun:
        assert torch.equal(encode_prompts(pipe.text_encoder, tokens), before)
        ids = pipe.tokenizer(noun, add_special_tokens=False).input_ids
        assert len(ids) == 1
        row = pipe.text_encoder.get_input_embeddings().weight[ids[0]]
        torch.testing.assert_close(row, learned.tensors["word"])


def test_custom_diffusion_learns_a_word_and_the_keys_and_values_of_cross_attention(pipe):
    learned = quick("custom-diffusion", pipe).learn(PICTURES, "to")
    matrices = {name for name in states(pipe) if ".attn2.to_k.weight" in name or ".attn2.to_v.weight" in name}
    assert set(learned.tensors) == {"word", *matrices}
    own = states(pipe)
    assert all(not torch.equal(learned.tensors[name], own[name]) for name in matrices)


def test_dreambooth_learns_all_of_unet_and_text_encoder(pipe):
    learned = quick("dreambooth", pipe).learn(PICTURES, "to")
    plain = {name for name in states(pipe) if ".processor." not in name}  # ELITE's are no part of it
    expected = {name.replace("text.", "text_encoder.", 1) for name in plain if name.startswith(("unet.", "text."))}
    assert {name for name in learned.tensors} == {name for name in expected if "position_ids" not in name}
    half = quick("dreambooth", pipe, train_text_encoder=False).learn(PICTURES, "to")
    assert {name.partition(".")[0] for name in half.tensors} == {"unet"}


def test_a_lora_has_its_rank(pipe):
    learned = quick("dreambooth-lora", pipe, rank=3).learn(PICTURES, "to")
    assert {min(tensor.shape) for tensor in learned.tensors.values()} == {3}
    assert any(".attn1." in name for name in learned.tensors) and any(".attn2." in name for name in learned.tensors)


def test_the_loss_is_that_of_the_noise_on_noisy_copies(pipe):
    """Eq. 1 by hand, from the same draws."""
    mean, deviation, text = draw(2, 4, 8, 8, seed=1), 0.1 * draw(2, 4, 8, 8, seed=2).abs(), draw(1, 6, 24, seed=3)
    loss = Denoising(pipe.scheduler, (mean, deviation), torch.Generator().manual_seed(5))
    found = loss(pipe.unet, text, 3)

    generator = torch.Generator().manual_seed(5)
    rows = torch.randint(2, (3,), generator=generator)
    clean = mean[rows] + deviation[rows] * torch.randn(3, 4, 8, 8, generator=generator)
    noise = torch.randn(3, 4, 8, 8, generator=generator)
    steps = torch.randint(1000, (3,), generator=generator)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = (1 - betas).cumprod(0)[steps].view(3, 1, 1, 1)
    noisy = alphas.sqrt() * clean + (1 - alphas).sqrt() * noise
    errors = [
        (pipe.unet(noisy[i : i + 1], steps[i], encoder_hidden_states=text).sample - noise[i : i + 1]).square().mean()
        for i in range(3)
    ]
    torch.testing.assert_close(found, sum(errors) / 3, rtol=1e-4, atol=1e-5)


def test_the_class_stands_beside_the_subject_with_its_weight(pipe, monkeypatch):
    """Prior preservation: the subject's loss plus the weight times the class's, each under its own text."""
    from elite.evaluation.competitors import base

    seen = []

    class Counted(Denoising):
        def __call__(self, unet, text, batch_size):
            seen.append((len(self.mean), text, batch_size))
            return torch.tensor(10.0 ** len(seen), requires_grad=True)

    monkeypatch.setattr(base, "Denoising", Counted)
    one = quick("dreambooth", pipe, prior_weight=0.5)
    loss, _ = one._losses(PICTURES, "to")
    assert loss(pipe.unet, pipe.text_encoder).item() == 10 + 0.5 * 100
    assert [(count, batch) for count, _, batch in seen] == [(1, 2), (2, 2)]
    for (_, text, _), prompt in zip(seen, ("a photo of a sks to", "a photo of a to"), strict=True):
        ids = tokenize(pipe.tokenizer, prompt, require_placeholder=False)
        torch.testing.assert_close(text, encode_prompts(pipe.text_encoder, TokenizedPrompts(*ids)))


def test_class_pictures_are_drawn_by_the_base_model(pipe):
    one = competitor("dreambooth", pipe, replace(QUICK, prior_pictures=3))
    once, again = one._draw_prior("to"), one._draw_prior("to")
    assert len(once) == 3
    assert [each.tobytes() for each in once] == [each.tobytes() for each in again]
    kept, seconds = one._prior("to")
    assert one._prior("to") == (kept, seconds) and seconds > 0  # drawn once, but it counts for every subject


@pytest.mark.parametrize("name", NAMES)
def test_learning_lowers_the_loss_on_the_subject(pipe, name):
    """On the same draws, with what was learnt and without."""
    one = quick(name, pipe, batch_size=4)
    *_, learned = one.stages(PICTURES, "to", [25])

    def loss() -> float:
        measured = Denoising(pipe.scheduler, one._moments(PICTURES), torch.Generator().manual_seed(9))
        with one.installed(learned) as noun, torch.no_grad():
            ids = pipe.tokenizer(f"a photo of a {noun}", padding="max_length", return_tensors="pt").input_ids
            return float(measured(pipe.unet, pipe.text_encoder(ids)[0], 32))

    after = loss()
    learned = quick(name, pipe, learning_rate=1e-12).learn(PICTURES, "to", 1)
    assert after < loss() - 1e-3


def test_bad_input_is_one_sentence(pipe, tmp_path):
    with pytest.raises(ValueError, match="competitor must be one of textual-inversion"):
        competitor("hypernetwork", pipe)
    one = quick("textual-inversion", pipe)
    with pytest.raises(ValueError, match="pictures must hold at least one"):
        one.learn([], "to")
    with pytest.raises(ValueError, match="must rise and begin above 0"):
        one.learn(PICTURES, "to", budget=0)
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        Settings(3, 0.0)
    generate(pipe, "the photo")
    pipe.adapter.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not hold what a competitor has learnt"):
        Learned.load(tmp_path / "diffusion_pytorch_model.safetensors")
    learned = one.learn(PICTURES, "to", 1)
    with pytest.raises(ValueError, match="which this model does not have"):
        latents(quick("custom-diffusion", pipe), replace(learned, tensors={"unet.x": torch.ones(2)}))
    pipe.unet.half()
    with pytest.raises(ValueError, match="trained in float32"):
        quick("dreambooth", pipe)


def test_as_a_method_it_learns_each_subject_once_and_keeps_it(pipe, tmp_path):
    one, other = worlds.subject(1, "to", ["the {} of the"]), worlds.subject(2, "to", ["the {} of the"])
    counted = []

    def method(**changes):
        competitor = quick("textual-inversion", pipe, **changes)
        learn = competitor.learn
        competitor.learn = lambda *given: (counted.append(given), learn(*given))[1]
        return Learning(competitor, tmp_path, budget=2)

    few = Drawing(num_inference_steps=2)
    first = method()
    drawn = [first.draw(each, each.prompts, [3], few)[0].tobytes() for each in (one, one, other)]
    assert len(counted) == 2 and drawn[0] == drawn[1] != drawn[2]
    assert method().draw(one, one.prompts, [3], few)[0].tobytes() == drawn[0]
    assert len(counted) == 2
    assert first.settings()["budget"] == 2
    with pytest.raises(ValueError, match="was learnt with other settings"):
        method(learning_rate=1e-3).draw(one, one.prompts, [3], few)


def test_every_competitor_has_settings_for_both_models():
    assert set(PAPER) == set(MINIATURE) == set(COMPETITORS)
