"""The settings of a training run: a frozen dataclass, checked when it is made, written and read as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from elite.io.files import replacing
from elite.prompts import TEMPLATES
from elite.training.rules import Rule, either, flag, one_of, optional, real, several, text, whole

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "stage": one_of("global", "local"),
        "model": text(),
        "adapter": text(),
        "data": text(),
        "split": text(),
        "classes": optional(several(text())),
        "output": text(),
        "layers": optional(several(whole(0))),
        "num_words": optional(whole(1)),
        "hidden_dim": whole(1),
        "output_scale": real(0, strict=True),
        "local_output_scale": real(0, strict=True),
        "words": optional(either(several(whole(0)), text())),
        "regularizer_weight": optional(real(0)),
        "fusion_weight": real(0, strict=True),
        "reweighting": flag(),
        "batchwide_maximum": flag(),
        "snr_gamma": optional(real(0, strict=True)),
        "timesteps": one_of("uniform", "weighted"),
        "crop": one_of("stretch", "square"),
        "augment": flag(),
        "templates": optional(several(text())),
        "max_broken": real(0, 1),
        "min_area": real(0, 1),
        "max_area": real(0, strict=True),
        "min_side": real(0),
        "min_aspect": real(0, 1),
        "num_workers": whole(0),
        "cache": one_of("off", "exact", "words"),
        "cache_dtype": one_of("float32", "float16"),
        "steps": whole(1),
        "batch_size": whole(1),
        "gradient_accumulation_steps": whole(1),
        "learning_rate": real(0, strict=True),
        "scale_learning_rate": flag(),
        "attention_lr_scale": real(0),
        "lr_schedule": one_of("constant", "cosine"),
        "warmup": whole(0),
        "weight_decay": real(0),
        "betas": several(real(0, 1), count=2),
        "max_grad_norm": real(0, strict=True),
        "mixed_precision": one_of("no", "fp16", "bf16", "auto"),
        "gradient_checkpointing": flag(),
        "ema_decay": real(0, 1),
        "seed": whole(0),
        "checkpoint_every": whole(1),
        "keep_checkpoints": whole(1),
        "validate_every": whole(0),
        "validation_rows": whole(1),
        "validation_prompt": text(),
        "validation_inference_steps": whole(1),
        "validation_guidance_scale": real(0),
        "validation_fusion_weight": real(0),
        "trackers": several(text()),
    }
)


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a run; on a CPU, two runs of one config end in the same weights.

    Attributes:
        stage: "global" (Eq. 4) or "local" (Eq. 7).
        model: "toybox", "sd14", or the folder of a pipeline: the base model.
        adapter: "init" begins with a fresh adapter, "own" with the model's; otherwise the folder of an adapter, or the
            output folder of another run (the local stage goes on from the global stage's).
        data: folder of an Open Images subset, as `elite download open-images` or an export of the toybox makes it.
        split: its split.
        classes: names of the classes to train on; all when left out.
        output: folder of the run: checkpoints, curve, pictures; several machines have to share it.
        layers: hidden states of the image encoder to read, the deepest first (fresh adapters only, as the next four).
        num_words: only that many of the default layers.
        hidden_dim: width of the mappers' MLPs.
        output_scale: constant factor on the words.
        local_output_scale: constant factor on the patch embeddings.
        words: which words are injected: "w0", "all" or indexes; all in the global stage and "w0" in the local stage
            when left out. "class" in the local stage puts the class's name there instead (Fig. 17).
        regularizer_weight: λ_global of Eq. 4 or λ_local of Eq. 7; the paper's when left out.
        fusion_weight: λ of Eq. 6 in the local stage.
        reweighting: whether Eq. 8 is in force in the local stage.
        batchwide_maximum: the authors' maximum over the batch in Eq. 8.
        snr_gamma: γ of min-SNR weights: where there is less noise than that, a sample weighs less, as most of its error
            is nobody's to foresee. Uniform weights when left out, as in the paper (Eq. 1).
        timesteps: "uniform" draws all alike; "weighted" draws each as often as ``snr_gamma`` weighs it and lets all
            samples weigh the same: the same loss on average, with no work spent on samples that hardly count.
        crop, augment, templates, max_broken: see `elite.data.samples.SampleSettings`.
        min_area, max_area: of a box, as shares of the picture (global stage).
        min_side, min_aspect: of a mask, see `elite.data.index.select_masks` (local stage).
        num_workers: processes that prepare samples; 0 prepares them in the training process.
        cache: "exact" keeps what is frozen and never changes; "words" also keeps the local stage's words, from the
            crop with the middle one of its ten paddings; "off" keeps nothing.
        cache_dtype: type of what is kept.
        steps: optimiser steps in all.
        batch_size: samples of one optimiser step, over all processes and accumulated pieces.
        gradient_accumulation_steps: pieces a batch is worked off in, to need less memory; the result is the same.
        learning_rate: of AdamW.
        scale_learning_rate: multiply it by ``batch_size``, as the authors do; see ``peak_learning_rate``.
        attention_lr_scale: factor on the rate of the keys and values, which begin as copies of trained ones, while the
            mappers begin from random weights; 1 in the paper.
        lr_schedule: "constant", or "cosine" down to zero at the last step.
        warmup: steps of linear warm-up.
        weight_decay, betas: of AdamW.
        max_grad_norm: the gradient of all trained weights is scaled down to this norm.
        mixed_precision: "no", "fp16" or "bf16"; "auto" is "bf16" where the processor computes with it, otherwise "no".
        gradient_checkpointing: less memory for more time.
        ema_decay: of the averaged weights; 0 keeps none.
        seed: of fresh weights and of every draw.
        checkpoint_every: steps between two checkpoints.
        keep_checkpoints: how many of the newest are kept.
        validate_every: steps between two validations; 0 has none.
        validation_rows: samples of the fixed validation triples, and pictures of the grid.
        validation_prompt, validation_inference_steps, validation_guidance_scale, validation_fusion_weight: of the grid.
        trackers: accelerate's trackers, such as "tensorboard"; a curve is written in any case.

    Raises:
        ValueError: naming the setting that is wrong, and what would be right.
    """

    stage: str
    model: str = "toybox"
    adapter: str = "init"
    data: str = "data"
    split: str = "test"
    classes: tuple[str, ...] | None = None
    output: str = "runs/run"
    layers: tuple[int, ...] | None = None
    num_words: int | None = None
    hidden_dim: int = 1024
    output_scale: float = 1.0
    local_output_scale: float = 1.0
    words: str | tuple[int, ...] | None = None
    regularizer_weight: float | None = None
    fusion_weight: float = 1.0
    reweighting: bool = True
    batchwide_maximum: bool = False
    snr_gamma: float | None = None
    timesteps: str = "uniform"
    crop: str = "stretch"
    augment: bool = True
    templates: tuple[str, ...] | None = None
    max_broken: float = 0.05
    min_area: float = 0.02
    max_area: float = 0.8
    min_side: float = 100.0
    min_aspect: float = 0.5
    num_workers: int = 0
    cache: str = "exact"
    cache_dtype: str = "float32"
    steps: int = 1000
    batch_size: int = 16
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-6
    scale_learning_rate: bool = False
    attention_lr_scale: float = 1.0
    lr_schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    ema_decay: float = 0.999
    seed: int = 0
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    validate_every: int = 500
    validation_rows: int = 8
    validation_prompt: str = "a photo of a S*"
    validation_inference_steps: int = 25
    validation_guidance_scale: float = 5.0
    validation_fusion_weight: float = 0.8
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            object.__setattr__(self, name, rule.apply(name, getattr(self, name)))
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"batch_size must be a multiple of gradient_accumulation_steps ({self.gradient_accumulation_steps}), "
                f"got {self.batch_size}."
            )
        if self.warmup > self.steps:
            raise ValueError(f"warmup must be at most steps ({self.steps}), got {self.warmup}.")
        if self.timesteps == "weighted" and self.snr_gamma is None:
            raise ValueError('timesteps can only be "weighted" with snr_gamma, which says how; give it a number.')
        if self.min_area >= self.max_area:
            raise ValueError(f"min_area must be below max_area ({self.max_area}), got {self.min_area}.")
        for template in self.templates or ():
            if template.count("{}") != 1:
                raise ValueError(f'templates must hold captions with exactly one "{{}}", got {template!r}.')

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after warm-up, scaled by the batch where that is asked for."""
        return self.learning_rate * (self.batch_size if self.scale_learning_rate else 1)

    def adapter_options(self) -> dict[str, Any]:
        """Arguments of `EliteAdapter.for_models` for a fresh adapter."""
        names = ("layers", "num_words", "hidden_dim", "output_scale", "local_output_scale")
        return {name: getattr(self, name) for name in names}

    def stage_options(self) -> dict[str, Any]:
        """Arguments of `steps.StageModule`, apart from the pipeline and the stage."""
        names = ("regularizer_weight", "words", "fusion_weight", "reweighting", "batchwide_maximum", "snr_gamma")
        return {name: getattr(self, name) for name in (*names, "gradient_checkpointing")}

    def sample_options(self) -> dict[str, Any]:
        """Arguments of `SampleSettings.for_pipeline`, apart from the pipeline and the placeholder."""
        names = ("crop", "augment", "max_broken", "seed")
        return {name: getattr(self, name) for name in names} | {"templates": self.templates or TEMPLATES}

    def with_changes(self, **changes: Any) -> TrainingConfig:
        """A copy with other values; raises ValueError as the class does, and for a name that does not exist."""
        _check_names(changes, "this call")
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as YAML and JSON write them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def save(self, path: str | Path) -> Path:
        """Write a YAML file, whole or not at all; returns its path."""
        import yaml

        path = Path(path)
        with replacing(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")
        return path

    @classmethod
    def from_file(cls, path: str | Path, **changes: Any) -> TrainingConfig:
        """Read a YAML file; settings it leaves out have their defaults, ``changes`` replace those it has.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is not YAML of names and values, or a setting is wrong or unknown.
        """
        import yaml

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; give a YAML file of settings, or a preset's name.")
        try:
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a YAML file: {error}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{path} must hold names and values of settings, such as stage: global.")
        _check_names(value, path)
        value = {**value, **changes}
        if "stage" not in value:
            raise ValueError(f'{path} must name the stage, "global" or "local".')
        return cls(**value)


def _check_names(values: Mapping[str, Any], source: str | Path) -> None:
    known = [field.name for field in fields(TrainingConfig)]
    for name in values:
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            raise ValueError(
                f"{source} has the unknown setting {name!r}" + (f"; is {close[0]} meant?" if close else ".")
            )
