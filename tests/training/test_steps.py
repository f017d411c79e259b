"""One training step of each stage, against the equations written down plainly."""

from __future__ import annotations

import copy

import pytest
import torch

from elite.training.draws import noise_and_timesteps, posterior_noise
from elite.training.steps import StageModule
from tests.helpers import draw
from tests.training import naive
from tests.training.run_tiny import exact_pipeline

STAGES = ("global", "local")


def make_batch(rows: int = 3) -> dict:
    """What `elite.data.samples.collate` gives, for either stage."""
    mask = torch.zeros(rows, 1, 16, 16)
    mask[:, :, 2:13, :10] = 1
    loss_mask = torch.ones(rows, 1, 8, 8)
    loss_mask[0, :, :, :3] = 0
    return {
        "pixel_values": draw(rows, 3, 16, 16, seed=1).clamp(-1, 1),
        "pixel_values_clip": draw(rows, 3, 16, 16, seed=2),
        "pixel_values_object": draw(rows, 3, 16, 16, seed=3),
        "mask": mask,
        "loss_mask": loss_mask,
        "prompt": ["a photo of a S*", "the S*, red", "a zoomed in photo of my S*"][:rows],
    }


def drawn(module: StageModule, rows: int = 3) -> tuple:
    """noise, timesteps and posterior noise of the first step."""
    noise, timesteps = noise_and_timesteps(range(rows), 0, 7, module.latent_shape, module.num_train_timesteps)
    return noise, timesteps, posterior_noise(range(rows), 0, 7, module.latent_shape)


def gradients(module: StageModule, batch: dict, *draws) -> tuple:
    """The loss, and the gradients by name."""
    module.zero_grad()
    losses = module(batch, *draws)
    losses["loss"].backward()
    return losses, {name: p.grad.clone() for name, p in module.trained().items()}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_agrees_with_the_equations_written_down_plainly(fresh, stage, checkpointing):
    batch = make_batch()
    module = StageModule(fresh, stage, gradient_checkpointing=checkpointing)
    draws = drawn(module)
    weights = naive.leaves(fresh.adapter)
    expected = naive.step(fresh, stage, weights, batch, *draws)
    expected.backward()
    losses, grads = gradients(module, batch, *draws)

    torch.testing.assert_close(losses["loss"], expected, rtol=1e-5, atol=0)
    for name, grad in grads.items():
        assert relative(grad, weights[name].grad) < 3e-4, name
    whole, plain = (torch.cat([g[name].flatten() for name in grads]) for g in
                    (grads, {name: weights[name].grad for name in grads}))  # fmt: skip
    assert relative(whole, plain) < 1e-4  # float32 sums: 5e-6 to 5e-5, as a processor adds them up
    scale = 0.01 if stage == "global" else 1e-4
    assert float(losses["diffusion"] + scale * losses["regularizer"]) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_exactly_the_stages_own_weights_are_trained(fresh, stage):
    """The authors' sets: all MLPs of the stage's mapper, and its keys and values."""
    module = StageModule(fresh, stage)
    own = {f"to_{kind}_{stage}" for kind in "kv"}
    expected = {
        name
        for name in fresh.adapter.state_dict()
        if name.startswith(f"{stage}_mapper.") or (name.startswith("processors.") and name.split(".")[-2] in own)
    }
    assert set(module.trained()) == expected
    mine = {id(p) for p in module.trained().values()}
    assert {id(p) for p in module.parameters() if p.requires_grad} == mine
    _, grads = gradients(module, make_batch(), *drawn(module))
    assert all(grad.abs().sum() > 0 for grad in grads.values())
    assert all(p.grad is None for p in module.parameters() if id(p) not in mine)


def refuse(*args, **kwargs):
    raise AssertionError("this part should not have run")


def test_given_latents_and_features_spare_their_sources(fresh, monkeypatch):
    module, batch = StageModule(fresh, "global"), make_batch()
    draws = drawn(module)
    expected = module(batch, *draws)["loss"]
    ready = {"latents": module.latents(batch, draws[2]), "features": module.features(batch["pixel_values_clip"])}
    monkeypatch.setattr(fresh.vae, "encode", refuse)
    monkeypatch.setattr(fresh.image_encoder, "forward", refuse)
    assert torch.equal(module({"prompt": batch["prompt"], **ready}, *draws[:2])["loss"], expected)


@pytest.mark.parametrize("given", ["features", "words"])
def test_given_features_or_words_give_the_same_local_loss(fresh, given):
    module, batch = StageModule(fresh, "local"), make_batch()
    draws = drawn(module)
    expected = module(batch, *draws)["loss"]
    features = module.features(batch.pop("pixel_values_clip"))
    ready = {"features": features} if given == "features" else {"words": fresh.adapter.global_mapper(features)}
    torch.testing.assert_close(module({**batch, **ready}, *draws)["loss"], expected, rtol=1e-6, atol=0)


def test_latents_are_the_posteriors_mean_without_noise(fresh):
    module, batch = StageModule(fresh, "global"), make_batch()
    moments = fresh.vae.encode(batch["pixel_values"]).latent_dist
    scale = fresh.vae.config.scaling_factor
    torch.testing.assert_close(module.latents(batch), moments.mean * scale)
    noise = drawn(module)[2]
    torch.testing.assert_close(module.latents(batch, noise), (moments.mean + moments.std * noise) * scale)


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_in_pieces_gives_the_mean_of_the_pieces(stage):
    """So that accumulation and several processes do what one big batch does; in float64, to see it clearly."""
    module, batch = StageModule(exact_pipeline(), stage), make_batch(rows=2)
    draws = drawn(module, rows=2)
    whole, whole_grads = gradients(module, batch, *draws)
    pieces = [
        gradients(module, {k: v[i : i + 1] for k, v in batch.items()}, *(d[i : i + 1] for d in draws)) for i in range(2)
    ]
    mean = sum(losses["loss"] for losses, _ in pieces) / 2
    torch.testing.assert_close(mean, whole["loss"], rtol=1e-6, atol=0)
    for name, grad in whole_grads.items():
        assert relative((pieces[0][1][name] + pieces[1][1][name]) / 2, grad) < 1e-8, name


@pytest.mark.parametrize("stage", STAGES)
def test_half_precision_is_for_what_is_frozen(fresh, stage):
    exact = StageModule(copy.deepcopy(fresh), stage)
    draws = drawn(exact)
    before = {name: p.detach().clone() for name, p in exact.trained().items()}
    expected = exact(make_batch(), *draws)["loss"].item()

    module = StageModule(fresh, stage, frozen_dtype=torch.bfloat16)
    assert fresh.unet.conv_in.weight.dtype is torch.bfloat16
    assert all(torch.equal(p, before[name]) for name, p in module.trained().items())
    losses, grads = gradients(module, make_batch(), *draws)
    assert losses["loss"].dtype is torch.float32
    assert losses["loss"].item() == pytest.approx(expected, rel=0.01)
    assert all(grad.dtype is torch.float32 and grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize("stage", STAGES)
def test_autocast_gives_about_the_same_loss(fresh, stage):
    module, batch = StageModule(fresh, stage), make_batch()
    draws = drawn(module)
    expected = module(batch, *draws)["loss"].item()
    with torch.autocast("cpu", torch.bfloat16):
        losses = module(batch, *draws)
    losses["loss"].backward()
    assert losses["loss"].item() == pytest.approx(expected, rel=0.01)
    assert all(p.grad.dtype is torch.float32 and p.grad.isfinite().all() for p in module.trained().values())


def test_the_authors_maximum_couples_the_samples_of_a_batch(fresh):
    module = StageModule(fresh, "local", batchwide_maximum=True)
    own = StageModule(fresh, "local")
    batch = make_batch()
    draws = drawn(own)
    assert module(batch, *draws)["loss"] != own(batch, *draws)["loss"]
    one = {key: value[:1] for key, value in batch.items()}
    draws = tuple(d[:1] for d in draws)
    torch.testing.assert_close(module(one, *draws)["loss"], own(one, *draws)["loss"])


@pytest.mark.parametrize("stage", STAGES)
def test_min_snr_weights_scale_each_samples_own_error(fresh, stage):
    weighted, plain, batch = StageModule(fresh, stage, snr_gamma=0.3), StageModule(fresh, stage), make_batch()
    draws = drawn(plain)
    kept = fresh.scheduler.alphas_cumprod[draws[1]]
    snr = kept / (1 - kept)
    assert snr.max() > 0.3  # so that some weight is below 1
    expected = 0.0
    for row in range(3):
        one = {key: value[row : row + 1] for key, value in batch.items()}
        error = plain(one, *(d[row : row + 1] for d in draws))["diffusion"]
        expected += error * min(1.0, 0.3 / snr[row].item()) / 3
    torch.testing.assert_close(weighted(batch, *draws)["diffusion"], expected)


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_may_bring_its_samples_weights(fresh, stage):
    module, plain, batch = StageModule(fresh, stage, snr_gamma=0.3), StageModule(fresh, stage), make_batch()
    draws = drawn(plain)
    half = module({**batch, "sample_weights": torch.full((3,), 0.5)}, *draws)["diffusion"]
    torch.testing.assert_close(half, plain(batch, *draws)["diffusion"] / 2)


def test_frozen_parts_stay_in_evaluation_mode(fresh):
    module = StageModule(fresh, "global").train()
    assert not any(part.training for part in module.modules())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "both"}, 'stage must be "global" or "local"'),
        ({"stage": "global", "words": "w7"}, "w0 to w4"),
    ],
)
def test_wrong_settings_are_refused(fresh, changes, message):
    with pytest.raises(ValueError, match=message):
        StageModule(fresh, **changes)


def test_a_model_that_predicts_something_else_is_refused(fresh):
    from diffusers import DDPMScheduler

    fresh.scheduler = DDPMScheduler(prediction_type="v_prediction")
    with pytest.raises(ValueError, match="prediction_type"):
        StageModule(fresh, "global")


def test_the_class_word_stands_where_the_subjects_word_stood(fresh):
    """Fig. 17: a class name of one token gives the loss of a subject whose w0 is that token's embedding."""
    batch = make_batch() | {"class_name": ["photo", "the", "of"]}
    module = StageModule(fresh, "local")
    draws = drawn(module)
    ids = [fresh.tokenizer(name, add_special_tokens=False).input_ids for name in batch["class_name"]]
    assert [len(row) for row in ids] == [1, 1, 1]
    words = fresh.text_encoder.get_input_embeddings().weight[torch.tensor(ids)].expand(-1, 5, -1)  # (B, 5, d)
    expected = module({**batch, "words": words}, *draws)["loss"]
    named = StageModule(fresh, "local", words="class")(batch, *draws)["loss"]
    torch.testing.assert_close(named, expected)
    assert not torch.allclose(module(batch, *draws)["loss"], expected)  # M^g's own words give another loss


def test_only_the_local_stage_can_do_with_the_class_word(fresh):
    with pytest.raises(ValueError, match='words can be "class" in the local stage alone'):
        StageModule(fresh, "global", words="class")
