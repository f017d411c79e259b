"""Presets: the settings of the paper for Stable Diffusion v1-4, and those of the toybox."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from elite.training.config import TrainingConfig

_SD14 = {
    "model": "sd14",
    "data": "data/open-images",
    "scale_learning_rate": True,  # 1e-6 × 16 and 1e-5 × 8
    "ema_decay": 0.9999,
    "num_workers": 8,
    "cache_dtype": "float16",
    "checkpoint_every": 1000,
    "validate_every": 1000,
    "trackers": ("tensorboard",),
}
_TOYBOX = {
    "model": "toybox",
    "data": "data/toybox",
    "hidden_dim": 256,
    "crop": "square",  # proportions tell the toybox's subjects apart
    "output_scale": 0.07,  # the root mean square of the token embeddings of common words of the toybox
    "timesteps": "weighted",  # colours are decided at high noise, where the paper's loss hardly counts
    "learning_rate": 2e-3,
    "lr_schedule": "cosine",
    "warmup": 100,
    "batch_size": 48,
    "mixed_precision": "auto",
    "checkpoint_every": 250,
    "validate_every": 250,
}

PRESETS: Mapping[str, TrainingConfig] = MappingProxyType(
    {
        "sd14-global": TrainingConfig(
            "global", output="runs/sd14-global", steps=70_000, batch_size=16, learning_rate=1e-6, **_SD14
        ),
        "sd14-local": TrainingConfig(
            "local",
            adapter="runs/sd14-global",
            output="runs/sd14-local",
            steps=65_000,
            batch_size=8,
            learning_rate=1e-5,
            **_SD14,
        ),
        "toybox-global": TrainingConfig(
            "global",
            output="runs/toybox-global",
            steps=1000,
            snr_gamma=0.1,
            attention_lr_scale=0.02,  # at the mappers' rate the keys and values of other words change: scenes get lost
            **_TOYBOX,
        ),
        "toybox-local": TrainingConfig(
            "local",
            adapter="runs/toybox-global",
            output="runs/toybox-local",
            steps=6000,
            snr_gamma=0.5,
            augment=False,  # with moved and turned references it learns several times slower
            **_TOYBOX,
        ),
    }
)


def load_config(source: str | Path, **changes: Any) -> TrainingConfig:
    """A preset by its name, or the settings of a YAML file.

    Args:
        source: a preset's name or a file's path.
        **changes: settings that replace those found.

    Returns:
        The checked settings.

    Raises:
        FileNotFoundError: neither a preset nor a file.
        ValueError: for a setting that is wrong or unknown.
    """
    if str(source) in PRESETS:
        return PRESETS[str(source)].with_changes(**changes)
    if not Path(source).is_file():
        names = ", ".join(PRESETS)
        raise FileNotFoundError(f"config must be one of {names}, or a YAML file that exists, got {str(source)!r}.")
    return TrainingConfig.from_file(source, **changes)
