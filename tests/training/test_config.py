"""Settings of a run: presets, files, and what is refused."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from elite.adapter import EliteAdapter
from elite.data.samples import SampleSettings
from elite.training.config import TrainingConfig
from elite.training.presets import PRESETS, load_config
from elite.training.run_folder import RunFolder
from elite.training.setting_up import quick_precision, settled
from elite.training.steps import StageModule


@pytest.mark.parametrize("name", TrainingConfig.model_fields)
def test_every_setting_is_documented_and_refuses_nonsense_in_words(name):
    assert len(TrainingConfig.model_json_schema()["properties"][name]["description"]) > 8
    with pytest.raises(ValueError, match=rf"^{name} must be (a |one of |true or false).*, got <object .*>\.$"):
        TrainingConfig(**{"stage": "local", name: object()})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_a_file(tmp_path, name):
    path = PRESETS[name].save(tmp_path / "deep" / "config.yaml")
    assert TrainingConfig.from_file(path) == load_config(path) == load_config(name) == PRESETS[name]
    assert [p.name for p in path.parent.iterdir()] == ["config.yaml"]  # no temporary file stays


def test_presets_have_the_papers_rates():
    """1e-6 and 1e-5, multiplied by the batches 16 and 8; Eq. 4 and 7 with the paper's weights and words."""
    first, second = PRESETS["sd14-global"], PRESETS["sd14-local"]
    assert first.peak_learning_rate == pytest.approx(16e-6)
    assert second.peak_learning_rate == pytest.approx(8e-5)
    assert PRESETS["toybox-global"].peak_learning_rate == 2e-3
    for config in (first, second):
        assert config.stage_options() == {
            "regularizer_weight": None,
            "words": None,
            "fusion_weight": 1.0,
            "reweighting": True,
            "batchwide_maximum": False,
            "snr_gamma": None,
            "gradient_checkpointing": False,
        }


def test_options_are_arguments_of_what_they_are_for():
    config = PRESETS["toybox-local"]
    for options, function in (
        (config.stage_options(), StageModule.__init__),
        (config.adapter_options(), EliteAdapter.for_models),
        (config.sample_options(), SampleSettings.__init__),
    ):
        assert set(options) <= set(inspect.signature(function).parameters)
    SampleSettings(resolution=64, clip_size=64, cell=4, **config.sample_options())


def test_a_file_may_leave_out_settings_and_yamls_oddities_are_understood(tmp_path):
    """YAML reads 1e-6 as a text and a bare no as False."""
    path = tmp_path / "config.yaml"
    path.write_text("stage: global\nlearning_rate: 1e-6\nmixed_precision: no\nbetas: [0.9, 0.99]\nlayers: [6, 1]\n")
    config = TrainingConfig.from_file(path, steps=3)
    assert config == TrainingConfig("global", learning_rate=1e-6, betas=(0.9, 0.99), layers=(6, 1), steps=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "both"}, 'stage must be one of "global", "local", got .both.'),
        ({"timesteps": "weighted"}, 'timesteps can only be "weighted" with snr_gamma'),
        ({"fusion_weight": 0}, "fusion_weight must be a number above 0"),
        ({"attention_lr_scale": -1}, "attention_lr_scale must be a number at least 0"),
        ({"steps": 0}, "steps must be a whole number, at least 1, got 0"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"steps": float("inf")}, "steps must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0"),
        ({"learning_rate": "fast"}, "learning_rate must be a number above 0, got 'fast'"),
        ({"ema_decay": 1}, "ema_decay must be a number at least 0 and below 1"),
        ({"betas": [0.9]}, "betas must be a list of 2 items"),
        ({"classes": "Dog"}, "classes must be a list"),
        ({"mixed_precision": "fp8"}, "mixed_precision must be one of"),
        ({"augment": "yes"}, "augment must be true or false"),
        ({"output": ""}, "output must be a text that is not empty"),
        ({"templates": ["a photo"]}, 'exactly one "{}"'),
        ({"batch_size": 6, "gradient_accumulation_steps": 4}, "multiple of gradient_accumulation_steps"),
        ({"steps": 10, "warmup": 11}, "warmup must be at most steps"),
        ({"min_area": 0.9}, "min_area must be below max_area"),
        ({"bath_size": 6}, "unknown setting 'bath_size'; is batch_size meant?"),
    ],
)
def test_wrong_settings_are_refused_by_name(tmp_path, changes, message):
    config = TrainingConfig("global")
    with pytest.raises(ValueError, match=message.replace("?", r"\?").replace("{}", r"\{\}")):
        config.with_changes(**changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stage: [", "not a YAML file"),
        ("global", "must hold names and values"),
        ("steps: 3", "must name the stage"),
        ("stage: global\nstpes: 3", "unknown setting 'stpes'; is steps meant?"),
    ],
)
def test_files_that_hold_no_settings_are_refused(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        load_config(path)


def test_numbers_of_numpy_and_torch_are_numbers():
    config = TrainingConfig("global", steps=np.int64(7), learning_rate=torch.tensor(0.5), betas=np.array([0.5, 0.25]))
    assert config == TrainingConfig("global", steps=7, learning_rate=0.5, betas=(0.5, 0.25))


def test_neither_preset_nor_file_is_refused():
    with pytest.raises(FileNotFoundError, match=r"sd14-global, .* or a YAML file"):
        load_config("sd15-global")


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        PRESETS["sd14-global"].steps = 3


def test_automatic_precision_is_that_of_the_run_or_of_the_processor(tmp_path, monkeypatch):
    config = load_config("toybox-global", mixed_precision="auto")
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
        assert quick_precision(torch.device("cpu")) == ("bf16" if native else "no")
    pipeline = SimpleNamespace(device=torch.device("cpu"))
    assert settled(config, pipeline, RunFolder(tmp_path)).mixed_precision == "no"
    config.with_changes(mixed_precision="bf16").save(tmp_path / "checkpoint-0000002/config.yaml")
    (tmp_path / "checkpoint-0000004").mkdir()  # a damaged one
    assert settled(config, pipeline, RunFolder(tmp_path)) == config.with_changes(mixed_precision="bf16")
    plain = config.with_changes(mixed_precision="no")
    assert settled(plain, pipeline, RunFolder(tmp_path)) == plain  # what is asked for is not changed
