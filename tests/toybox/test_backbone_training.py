"""The training programs: exact resuming, soft targets, schedules, captions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from elite.toybox import world
from elite.toybox.backbone_training import clip, identity, judge, unet, vae
from elite.toybox.backbone_training.captions import described
from elite.toybox.backbone_training.fit import Fit, FitSettings, rate_factor
from elite.toybox.backbone_training.matrices import Matrices, hidden_matrices
from elite.toybox.backbone_training.pictures import PictureSet, render_set, to_float
from elite.toybox.backbone_training.shapes import training_noise
from elite.toybox.backbone_training.tokenizer import build_tokenizer, world_captions


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty-two rendered pictures of two classes, as both splits."""
    folder = tmp_path_factory.mktemp("pictures")
    pictures = pytest.MonkeyPatch()
    pictures.setattr("elite.toybox.backbone_training.pictures.SHARD", 32)
    for split in ("train", "validation"):
        render_set(folder / split, 32, split, world.V0_CLASSES[:2], workers=1)
    pictures.undo()
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(world_captions())


def settings(steps: int) -> FitSettings:
    return FitSettings(steps=steps, learning_rate=1e-3, warmup=2, decay=0.0, checkpoint_minutes=100)


class Line(nn.Module):
    """The smallest thing that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(3, 2)

    def step(self, index: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"loss": self.layer(torch.randn(4, 3, generator=generator)).square().mean()}


def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole, first, second = Line(), Line(), Line()
    Fit(whole, tmp_path / "whole", settings(6)).run(whole.step)
    Fit(first, tmp_path / "parts", settings(3)).run(first.step)
    with torch.no_grad():
        second.layer.weight.zero_()  # everything has to come from the checkpoint
    resumed = Fit(second, tmp_path / "parts", settings(6))
    resumed.run(second.step)
    assert resumed.step == 6
    assert torch.equal(whole.layer.weight, second.layer.weight)
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts")]
    for one, other in zip(*(state["average"] for state in states), strict=True):
        assert torch.equal(one, other)


def train(part: str, data: Path, out: Path, steps: int, tokenizer) -> dict[str, torch.Tensor]:
    """Train one part for some steps and give its raw weights."""
    torch.manual_seed(0)
    if part == "vae":
        vae.train_vae(data, out, settings(steps), batch=2)
    elif part == "clip":
        clip.train_clip(data, out, settings(steps), tokenizer, batch=4)
    elif part == "judge":
        judge.train_judge(data, out, settings(steps), batch=4)
    else:
        identity.train_identity(data, out, settings(steps), batch=4)
    return torch.load(out / "checkpoint.pt", weights_only=True)["model"]


@pytest.mark.parametrize("part", ["vae", "clip", "judge", "identity"])
def test_each_program_resumes_exactly(part: str, data: Path, tmp_path: Path, tokenizer) -> None:
    torch.set_num_threads(1)
    whole = train(part, data, tmp_path / "whole", 2, tokenizer)
    train(part, data, tmp_path / "parts", 1, tokenizer)
    resumed = train(part, data, tmp_path / "parts", 2, tokenizer)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_noise_predictor_resumes_exactly(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    state = {
        "means": torch.randn(4, 8, 16, 16, generator=generator).half(),
        "deviations": torch.full((4, 8, 16, 16), 0.1).half(),
        "masks": torch.full((4, 16, 16), 128, dtype=torch.uint8),
        "nouns": torch.tensor([-1, 2, 3]),
        "texts": torch.randn(3, 32, 128, generator=generator).half(),
        "captions": torch.tensor([[1, 2]] * 4),
        "factor": 0.5,
    }
    for split in ("train", "validation"):
        torch.save(state, tmp_path / f"{split}.pt")
    for out, lengths in (("whole", (2,)), ("parts", (1, 2))):
        for steps in lengths:
            unet.train_unet(tmp_path, tmp_path / out, settings(steps), batch=2)
    whole, parts = (
        torch.load(tmp_path / out / "checkpoint.pt", weights_only=True)["model"] for out in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_an_empty_caption_replaces_one_in_ten(tmp_path: Path) -> None:
    state = {
        "means": torch.zeros(1, 8, 16, 16).half(),
        "deviations": torch.zeros(1, 8, 16, 16).half(),
        "masks": torch.zeros(1, 16, 16, dtype=torch.uint8),
        "nouns": torch.tensor([-1, 4]),
        "texts": torch.arange(2.0).view(2, 1, 1).expand(2, 32, 128).clone().half(),
        "captions": torch.tensor([[1]]),
        "factor": 1.0,
    }
    torch.save(state, tmp_path / "train.pt")
    batch = unet.CachedLatents(tmp_path / "train.pt").batch(2000, torch.Generator().manual_seed(0))
    assert 0.08 < 1 - float(batch.text[:, 0, 0].mean()) < 0.12
    assert torch.equal(batch.nouns == 4, batch.text[:, 0, 0] == 1)  # the empty prompt names nothing


def test_curves_are_json_lines_with_the_step(data: Path, tmp_path: Path) -> None:
    vae.train_vae(data, tmp_path, settings(1), batch=2)
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[-1]["step"] == 1 and math.isfinite(lines[-1]["validation_psnr"])


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="`steps` or `minutes`"):
        FitSettings()


def test_the_rate_rises_stays_and_falls_to_a_hundredth() -> None:
    assert rate_factor(0, 0.0, 10, 0.4) == pytest.approx(0.1)
    assert rate_factor(50, 0.5, 10, 0.4) == 1.0
    assert rate_factor(100, 1.0, 10, 0.4) == pytest.approx(0.01)


def test_true_of_and_soft_targets_equal_a_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    shown = torch.randint(0, 2, (6, 5), generator=generator)
    said = torch.where(torch.rand(6, 5, generator=generator) < 0.6, torch.tensor(-1), shown)
    truth = clip.true_of(said, shown)
    for p in range(6):
        for c in range(6):
            assert bool(truth[p, c]) == all(
                s in (-1, v) for s, v in zip(said[c].tolist(), shown[p].tolist(), strict=True)
            )
    scores = torch.randn(6, 6, generator=generator)
    total = 0.0
    for index in range(6):
        row, column = scores[index].log_softmax(0), scores[:, index].log_softmax(0)
        right_row = [c for c in range(6) if truth[index, c]]
        right_column = [p for p in range(6) if truth[p, index]]
        total -= sum(float(row[c]) for c in right_row) / len(right_row)
        total -= sum(float(column[p]) for p in right_column) / len(right_column)
    assert float(clip.contrastive_loss(scores, truth)) == pytest.approx(total / 12, rel=1e-5)


def test_patches_are_in_the_order_of_the_vision_tokens() -> None:
    pixels = torch.arange(64.0).view(8, 8).repeat_interleave(8, 0).repeat_interleave(8, 1).expand(1, 3, 64, 64)
    assert torch.equal(clip.patches(pixels)[0, :, 0], torch.arange(64.0))


def test_info_nce_equals_a_naive_loop() -> None:
    features = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    total = 0.0
    for i in range(6):
        partner = (i + 3) % 6
        scores = [math.exp(float(features[i] @ features[j]) / identity.TEMPERATURE) for j in range(6) if j != i]
        total -= math.log(math.exp(float(features[i] @ features[partner]) / identity.TEMPERATURE) / sum(scores))
    assert float(identity.info_nce(features[:3], features[3:])) == pytest.approx(total / 6, rel=1e-4)


def test_min_snr_weights_equal_their_definition() -> None:
    alphas = training_noise().alphas_cumprod
    weights = unet.snr_weights(alphas)
    for step in (0, 250, 500, 999):
        snr = float(alphas[step] / (1 - alphas[step]))
        assert float(weights[step]) == pytest.approx(min(snr, 5) / snr, rel=1e-4)


def test_training_captions_are_true_and_fit_the_positions(data: Path, tokenizer) -> None:
    for facts in PictureSet(data / "train").facts:
        for caption in described(facts):
            said = dict(zip(world.FACTS, caption.said, strict=True))
            assert world.caption_is_true(said, facts)
            assert caption.said[0] in caption.text
            assert len(tokenizer(caption.text).input_ids) <= 32


def test_no_training_picture_shows_a_held_out_pair(data: Path) -> None:
    for facts in PictureSet(data / "train").facts:
        assert (facts["class_name"], facts["scene"]) not in world.HELD_OUT_PAIRS


def test_each_seed_gives_one_subject_in_two_scenes(data: Path) -> None:
    facts = PictureSet(data / "train").facts
    for first, second in zip(facts[::2], facts[1::2], strict=True):
        assert first["subject"] == second["subject"]
        assert first["scene"] != second["scene"]


def test_rendering_again_changes_nothing(data: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (data / "train").iterdir()}
    render_set(data / "train", 500, "train", world.V0_CLASSES[:2], workers=1)
    assert before == {path.name: path.stat().st_mtime_ns for path in (data / "train").iterdir()}


def test_pictures_become_floats_of_their_own_layout() -> None:
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[0, 3, 5] = (255, 0, 51)
    assert to_float(image)[0, :, 3, 5].tolist() == pytest.approx([1.0, -1.0, -0.6])


def test_the_tokenizer_is_clips_with_its_own_words(tokenizer) -> None:
    assert len(tokenizer) == 1024 and tokenizer.model_max_length == 32
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 1023 != 2
    for caption in world_captions()[::40]:
        ids = tokenizer(caption).input_ids
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == caption.lower()


def test_equal_captions_give_an_equal_vocabulary(tokenizer) -> None:
    again = build_tokenizer(reversed(world_captions()))
    assert again.get_vocab() == tokenizer.get_vocab()


def test_naming_loss_equals_a_naive_loop_over_facts() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5 * clip.NAMES, generator=generator)
    shown = torch.randint(clip.NAMES, (3, 5), generator=generator)
    naive = [
        -logits[b, f * clip.NAMES : (f + 1) * clip.NAMES].softmax(0)[shown[b, f]].log()
        for b in range(3)
        for f in range(5)
    ]
    torch.testing.assert_close(clip.naming_loss(logits, shown), torch.stack(naive).mean())


def muon_step(layout: torch.memory_format) -> torch.Tensor:
    """What one step of Muon adds to a convolution's kernel, (32, 16, 3, 3)."""
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 32, 3).to(memory_format=layout)
    before = layer.weight.detach().clone()
    layer(torch.randn(4, 16, 8, 8).contiguous(memory_format=layout)).square().sum().backward()
    Matrices(hidden_matrices(layer), learning_rate=0.1, weight_decay=0.0).step()
    return layer.weight.detach() - before


def test_muon_moves_a_kernel_evenly_in_all_directions() -> None:
    change = muon_step(torch.contiguous_format).flatten(1)
    sizes = torch.linalg.svdvals(change)
    # Newton-Schulz brings singular values to 0.7 to 1.2 of their common size; those of a gradient differ manifold.
    assert sizes.max() / sizes.min() < 2
    assert math.isclose(float(change.square().mean().sqrt()), 0.2 * 0.1, rel_tol=0.25)  # the size of AdamW's steps


def test_muon_does_not_depend_on_how_a_kernel_lies_in_memory() -> None:
    # The columns of the matrix are in another order, which an orthogonal matrix does not mind.
    torch.testing.assert_close(muon_step(torch.channels_last), muon_step(torch.contiguous_format), rtol=0.05, atol=2e-3)


def test_heads_first_layers_and_tables_stay_with_adamw() -> None:
    model = nn.Sequential(nn.Embedding(64, 32), nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 3))
    assert [id(weight) for weight in hidden_matrices(model)] == [id(model[1].weight)]


def test_training_the_decoder_alone_leaves_the_latents(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = vae.initial_vae()
    torch.manual_seed(0)
    vae.train_vae(data, tmp_path, settings(2), batch=2, decoder_only=True)
    after = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"]
    changed = {name.split(".")[0] for name, value in before.state_dict().items() if not torch.equal(value, after[name])}
    assert changed == {"decoder", "post_quant_conv"}
