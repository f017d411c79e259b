"""Runs: stopped, resumed, shared between processes and cut in pieces, they all compute the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from elite.data.index import index_masks
from elite.data.layout import OpenImagesFolder
from elite.features import preprocess
from elite.training.config import TrainingConfig
from elite.training.loop import learning_rate_at, train
from elite.training.run_folder import Checkpoint, CheckpointError, RunFolder
from elite.training.setting_up import stage_data
from elite.training.steps import StageModule
from elite.training.validation import Validation
from tests.helpers import picture, tiny_pipeline
from tests.training.run_tiny import exact_pipeline

ROOT = Path(__file__).parents[2]


def settings(subset: OpenImagesFolder, output: Path, stage: str = "global", **changes) -> TrainingConfig:
    small = {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "validate_every": 0, "cache": "off"}
    warmup = min(2, changes.get("steps", 2))
    rates = {"learning_rate": 1e-3, "warmup": warmup, "lr_schedule": "cosine", "ema_decay": 0.9, "min_side": 20.0}
    return TrainingConfig(stage, data=str(subset.root), output=str(output), **{**small, **rates, **changes})


def run(config: TrainingConfig, **options):
    """A run on a tiny pipeline that is the same every time."""
    return train(config, **{"pipeline": tiny_pipeline(seed=0), "progress": False, **options})


def weights(result) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in result.adapter.state_dict().items()}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


class Stopped(Exception):
    """What a test ends a run with."""


def stop_after(step: int):
    def on_step(number: int, numbers: dict[str, float]) -> None:
        if number == step:
            raise Stopped

    return on_step


@pytest.mark.parametrize("stage", ["global", "local"])
def test_a_resumed_run_ends_in_the_same_bits(subset, tmp_path, stage):
    undisturbed = run(settings(subset, tmp_path / "a", stage))
    config = settings(subset, tmp_path / "b", stage)
    with pytest.raises(Stopped):
        run(config, on_step=stop_after(3))  # after the checkpoint of step 2
    resumed = run(config)
    assert [step for step, _ in resumed.losses] == [3, 4]
    assert resumed.losses == undisturbed.losses[2:]
    assert_equal(weights(resumed), weights(undisturbed))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_in_half_precision_resumes_in_the_same_bits_and_leaves_the_frozen_parts(subset, tmp_path, checkpointing):
    settled = {"mixed_precision": "bf16", "gradient_checkpointing": checkpointing, "validate_every": 4}
    few = {**settled, "validation_rows": 2, "validation_inference_steps": 2}
    undisturbed = run(settings(subset, tmp_path / "a", **few))
    config = settings(subset, tmp_path / "b", **few)
    with pytest.raises(Stopped):
        run(config, on_step=stop_after(3))
    resumed = run(config)
    assert_equal(weights(resumed), weights(undisturbed))
    assert all(value.dtype is torch.float32 for value in weights(resumed).values())
    before, after = tiny_pipeline(seed=0).vae.state_dict(), resumed.pipeline.vae.state_dict()
    assert_equal(after, before)


def test_only_the_stage_s_own_weights_change(subset, tmp_path):
    before = weights_of(tiny_pipeline(seed=0))
    after = weights(run(settings(subset, tmp_path, "local")))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("local_mapper.") or "_local." in name}


@pytest.mark.parametrize("stage", ["global", "local"])
def test_keys_and_values_can_have_a_rate_of_their_own(subset, tmp_path, stage):
    before = weights_of(tiny_pipeline(seed=0))
    options = {"steps": 1, "ema_decay": 0.0, "weight_decay": 0.0}
    whole = weights(run(settings(subset, tmp_path / "a", stage, **options)))
    quarter = weights(run(settings(subset, tmp_path / "b", stage, attention_lr_scale=0.25, **options)))
    mappers = {name: value for name, value in whole.items() if not name.startswith("processors.")}
    assert_equal({name: quarter[name] for name in mappers}, mappers)
    attention = [n for n in whole if n not in mappers and not torch.equal(whole[n], before[n])]
    assert attention
    for name in attention:
        expected = (whole[name] - before[name]) / 4
        torch.testing.assert_close(quarter[name] - before[name], expected, rtol=1e-3, atol=1e-7, msg=name)


def test_weighted_timesteps_train_and_resume_in_the_same_bits(subset, tmp_path):
    changes = {"snr_gamma": 0.1, "timesteps": "weighted", "attention_lr_scale": 0.1}
    undisturbed = run(settings(subset, tmp_path / "a", "local", **changes))
    config = settings(subset, tmp_path / "b", "local", **changes)
    with pytest.raises(Stopped):
        run(config, on_step=stop_after(3))
    resumed = run(config)
    assert_equal(weights(resumed), weights(undisturbed))
    uniform = run(settings(subset, tmp_path / "c", "local", snr_gamma=0.1))
    assert undisturbed.losses != uniform.losses


def test_weighted_timesteps_in_pieces_give_the_gradients_of_the_whole_batch(subset, tmp_path):
    changes = {"steps": 1, "snr_gamma": 0.1, "timesteps": "weighted"}
    whole = run(settings(subset, tmp_path / "a", **changes), pipeline=exact_pipeline())
    pieces = settings(subset, tmp_path / "b", gradient_accumulation_steps=4, **changes)
    assert_same_gradients(whole.output, run(pieces, pipeline=exact_pipeline()).output)


def test_a_run_does_not_go_on_with_other_inputs(subset, tmp_path):
    """A folder may move, but what it holds may not change."""
    config = settings(subset, tmp_path, "local", steps=2)
    run(config)
    with pytest.raises(ValueError, match="validate_every"):
        run(config.with_changes(steps=4, lr_schedule="constant", validate_every=2))
    longer = settings(subset, tmp_path / "b", "local", steps=2, lr_schedule="constant")
    run(longer)
    longer = longer.with_changes(steps=4)
    with pytest.raises(ValueError, match=r"adapter .* is not the one"):
        other = tiny_pipeline(seed=0)
        next(iter(other.adapter.global_parameters())).data.add_(1e-3)
        run(longer, pipeline=other)
    name = index_masks(subset, resolution=16).frame["image_id"][0]
    picture_file = subset.image(name)
    away = picture_file.rename(tmp_path / "away.jpg")
    try:
        with pytest.raises(ValueError, match="holds other objects"):
            run(longer)
    finally:
        away.rename(picture_file)
    assert run(longer).step == 4


def test_a_broken_picture_among_the_validation_rows_does_not_stop_a_run(subset, tmp_path):
    config = settings(subset, tmp_path, steps=1, validate_every=1, validation_rows=3, validation_inference_steps=2)
    held = stage_data(config, tiny_pipeline(seed=0)).validation
    path = held.folder.image(held.index.frame["image_id"][0])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    try:
        with pytest.warns(UserWarning, match="the next object is taken"):
            assert run(config).step == 1
    finally:
        path.write_bytes(content)


def test_a_gradient_that_is_not_finite_stops_before_anything_is_kept(subset, tmp_path):
    pipeline = tiny_pipeline(seed=0)
    weight = pipeline.adapter.global_parameters()[0]
    weight.requires_grad_(True).register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FloatingPointError, match="gradient after step 0"):
        run(settings(subset, tmp_path, steps=2, checkpoint_every=1), pipeline=pipeline)
    assert RunFolder(tmp_path).checkpoints == []


def test_the_maximum_over_the_batch_needs_the_whole_batch(subset, tmp_path):
    config = settings(subset, tmp_path, "local", batchwide_maximum=True, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="needs the whole batch at once"):
        run(config)


def weights_of(pipe) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in pipe.adapter.state_dict().items()}


def test_a_batch_in_pieces_gives_the_gradients_of_the_whole_batch(subset, tmp_path):
    whole = run(settings(subset, tmp_path / "a", steps=1), pipeline=exact_pipeline())
    pieces = run(settings(subset, tmp_path / "b", steps=1, gradient_accumulation_steps=4), pipeline=exact_pipeline())
    assert [loss for _, loss in pieces.losses] == pytest.approx([loss for _, loss in whole.losses], rel=1e-6)
    assert_same_gradients(whole.output, pieces.output)


def assert_same_gradients(one: Path, other: Path) -> None:
    """The first moment after one step is a tenth of the gradient: weights would only tell its sign.

    Made in float64, where sums in another order cannot be mistaken for another gradient.
    """
    first, second = (RunFolder(path).last().tensors for path in (one, other))
    moments = [name for name in first if name.endswith("exp_avg")]
    assert moments
    for name in moments:
        ours, theirs = first[name], second[name]
        assert ours.dtype is torch.float64
        assert float(ours.norm()) > 0
        assert float((ours - theirs).norm() / ours.norm()) <= 1e-6, name


def test_caches_change_nothing_but_the_time(subset, tmp_path, monkeypatch):
    monkeypatch.setenv("ELITE_CACHE", str(tmp_path / "cache"))
    plain = run(settings(subset, tmp_path / "a", steps=2))
    cached = run(settings(subset, tmp_path / "b", steps=2, cache="exact"))
    assert [loss for _, loss in cached.losses] == pytest.approx([loss for _, loss in plain.losses], rel=1e-5)
    assert list((tmp_path / "cache").rglob("*.safetensors"))


def test_the_loss_on_fixed_triples_falls_and_pictures_are_kept(subset, tmp_path):
    config = settings(subset, tmp_path, steps=12, validate_every=6, validation_rows=4, validation_inference_steps=2)
    result = run(config)
    assert [step for step, _ in result.validation] == [0, 6, 12]
    assert result.validation[-1][1] < result.validation[0][1]
    assert len(list(tmp_path.glob("samples-*.png"))) == 3
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    alike = [line["validation_similarity"] for line in lines if "validation_loss" in line]
    assert len(alike) == 3 and all(-1 <= value <= 1 for value in alike)
    assert (tmp_path / "checkpoint-0000012/config.yaml").is_file()


def test_tensorboard_shows_the_curve(subset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(settings(subset, tmp_path, steps=3, trackers=["tensorboard"]))
    events = EventAccumulator(str(tmp_path / "logs/elite")).Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in shown] == [1, 2, 3]
    assert [value for _, value in shown] == pytest.approx([loss for _, loss in result.losses])


@pytest.mark.parametrize(("name", "message"), [("tensorbord", "accelerate knows .*tensorboard"), ("aim", "installed")])
def test_a_tracker_that_is_not_there_is_no_silent_loss(subset, tmp_path, monkeypatch, name, message):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(ValueError, match=message):
        run(settings(subset, tmp_path / "run", trackers=[name]))


def test_what_is_drawn_is_like_what_was_given_as_clip_sees_it():
    from elite.training.validation import Validation

    watched = object.__new__(Validation)
    watched.pipeline = tiny_pipeline(seed=0)
    given = [picture(seed) for seed in range(3)]
    assert watched.similarity(given, given) == pytest.approx(1)
    encoder = watched.pipeline.image_encoder
    with torch.no_grad():
        a, b = (encoder(preprocess(picture(seed), 16)).image_embeds[0] for seed in (0, 5))
    expected = float(a @ b / a.norm() / b.norm())
    assert watched.similarity([picture(0)], [picture(5)]) == pytest.approx(expected, abs=1e-5)


def test_nothing_is_written_when_nothing_is_to_be_saved(subset, tmp_path):
    result = run(settings(subset, tmp_path / "run", steps=1), save=False)
    assert result.output is None
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_run_again(subset, tmp_path):
    first = run(settings(subset, tmp_path))
    again = run(settings(subset, tmp_path))
    assert again.losses == []
    assert_equal(weights(again), weights(first))
    with pytest.raises(ValueError, match="holds checkpoint-0000004"):
        run(settings(subset, tmp_path), resume=False)


def test_a_full_disk_stops_the_run_and_the_checkpoint_before_goes_on(subset, tmp_path, monkeypatch):
    from elite.training import run_folder as files

    undisturbed = run(settings(subset, tmp_path / "a"))
    config, whole = settings(subset, tmp_path / "b"), files.write_safetensors

    def full(path, *args, **kwargs):
        if RunFolder(tmp_path / "b").checkpoints:
            raise OSError(28, "No space left on device")
        whole(path, *args, **kwargs)

    monkeypatch.setattr(files, "write_safetensors", full)
    with pytest.raises(CheckpointError, match="checkpoint-0000002 stays as it was"):
        run(config)
    monkeypatch.undo()
    assert_equal(weights(run(config)), weights(undisturbed))


def test_a_loss_that_is_not_finite_stops_before_anything_is_kept(subset, tmp_path):
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        run(
            settings(
                subset, tmp_path, steps=40, checkpoint_every=1, learning_rate=1e18, warmup=0, lr_schedule="constant"
            )
        )
    assert all(torch.isfinite(v).all() for v in RunFolder(tmp_path).last().tensors.values())


def test_the_rate_rises_and_follows_a_cosine(subset, tmp_path):
    config = settings(subset, tmp_path, steps=10)
    rates = [learning_rate_at(step, config) for step in range(10)]
    assert rates[:3] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert rates[6] == pytest.approx(5e-4)  # half-way between the end of the warm-up and the end
    assert rates[3:] == sorted(rates[3:], reverse=True)


def start(config: TrainingConfig, folder: Path, *options: str, processes: int = 1) -> subprocess.Popen:
    path = config.save(folder / "settings.yaml")
    command = [sys.executable, "-m", "tests.training.run_tiny", str(path), *options]
    if processes > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]


def test_kill_9_at_any_moment_and_resume_ends_in_the_same_bits(subset, tmp_path):
    steps = {"steps": 12, "checkpoint_every": 1, "num_workers": 0}
    undisturbed = run(settings(subset, tmp_path / "a", **steps))
    config = settings(subset, tmp_path / "b", **steps)
    for moment in (2, 7):
        process = start(config, tmp_path)
        while not any(int(path.name[-7:]) >= moment for path in RunFolder(tmp_path / "b").checkpoints):
            assert process.poll() is None, process.stderr.read()[-2000:]
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finish(start(config, tmp_path))
    assert_equal(Checkpoint.read(tmp_path / "b/checkpoint-0000012").adapter.state_dict(), weights(undisturbed))


WEIGHTED = {"snr_gamma": 0.1, "timesteps": "weighted", "attention_lr_scale": 0.1}


@pytest.mark.parametrize(
    ("stage", "changes"),
    [("global", {}), ("local", {**WEIGHTED, "gradient_accumulation_steps": 2, "cache": "exact", "augment": False})],
)
def test_two_processes_give_the_gradients_of_one(subset, tmp_path, monkeypatch, stage, changes):
    monkeypatch.setenv("ELITE_CACHE", str(tmp_path / "cache"))
    one = settings(subset, tmp_path / "one", stage, steps=1, **changes)
    two = one.with_changes(output=str(tmp_path / "two"))
    run(one, pipeline=exact_pipeline())
    finish(start(two, tmp_path, "float64", processes=2))
    assert_same_gradients(tmp_path / "one", tmp_path / "two")


def test_a_local_stage_beside_the_class_word_validates_with_that_word(subset, tmp_path):
    """Fig. 17: of several tokens too; the grid shows what the stage learns beside, not an untrained M^g."""
    few = {"validation_rows": 3, "validation_inference_steps": 2}
    config = settings(subset, tmp_path, "local", steps=1, validate_every=1, words="class", cache="exact", **few)
    result = run(config)
    table = result.pipeline.text_encoder.get_input_embeddings().weight
    pipeline = tiny_pipeline(seed=0)
    held = stage_data(config, pipeline).validation
    watched = Validation(config, StageModule(pipeline, "local", words="class"), pipeline, held)
    for one, name in zip(watched._concepts(), watched.batch["class_name"], strict=True):
        ids = pipeline.tokenizer(name, add_special_tokens=False).input_ids
        assert len(ids) > 1
        assert torch.equal(one.words, table[ids])
