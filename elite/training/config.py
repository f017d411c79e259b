"""The settings of a training run: one frozen pydantic model, written and read as YAML."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from elite.io.files import replacing
from elite.prompts import TEMPLATES


def _number(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would read true as 1
        raise ValueError("a flag is not a number")
    return value.item() if hasattr(value, "item") else value  # of numpy or torch


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


AtLeast0 = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_number)]
Share = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_number)]
Index = Annotated[int, Field(ge=0), BeforeValidator(_number)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_number)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1), BeforeValidator(_plain)]
Precision = Annotated[  # YAML reads a bare no as False
    Literal["no", "fp16", "bf16", "auto"], BeforeValidator(lambda value: "no" if value is False else value)
]


class TrainingConfig(BaseModel):
    """Everything that decides a run; on a CPU, two runs of one config end in the same weights.

    ``TrainingConfig.model_json_schema()`` is the schema of its YAML files.

    Raises:
        ValueError: naming the setting that is wrong or unknown, and what would be right.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    # What is trained, and on what.
    stage: Literal["global", "local"]
    """"global" (Eq. 4) or "local" (Eq. 7)."""
    model: Text = "toybox"
    """The base model: "toybox", "sd14", or the folder of a pipeline."""
    adapter: Text = "init"
    """"init" begins with a fresh adapter, "own" with the model's; otherwise the folder of an adapter, or the output
    folder of another run (the local stage goes on from the global stage's)."""
    data: Text = "data"
    """Folder of an Open Images subset, as `elite download open-images` or an export of the toybox makes it."""
    split: Text = "test"
    """Split of the data."""
    classes: tuple[Text, ...] | None = None
    """Names of the classes to train on; all when left out."""
    output: Text = "runs/run"
    """Folder of the run: checkpoints, curve, pictures; several machines have to share it."""

    # The shape of a fresh adapter.
    layers: tuple[Index, ...] | None = None
    """Hidden states of the image encoder to read, the deepest first."""
    num_words: Count | None = None
    """Only that many of the default layers."""
    hidden_dim: Count = 1024
    """Width of the mappers' MLPs."""
    output_scale: Above0 = 1.0
    """Constant factor on the words."""
    local_output_scale: Above0 = 1.0
    """Constant factor on the patch embeddings."""

    # The loss.
    words: tuple[Index, ...] | Text | None = None
    """Which words are injected: "w0", "all" or indexes; all in the global stage and "w0" in the local if left out.
    "class" in the local stage puts the class's name there instead (Fig. 17)."""
    regularizer_weight: AtLeast0 | None = None
    """λ_global of Eq. 4 or λ_local of Eq. 7; the paper's when left out."""
    fusion_weight: Above0 = 1.0
    """λ of Eq. 6 in the local stage."""
    reweighting: Flag = True
    """Whether Eq. 8 is in force in the local stage."""
    batchwide_maximum: Flag = False
    """The authors' maximum over the batch in Eq. 8."""
    snr_gamma: Above0 | None = None
    """γ of min-SNR weights: samples with less noise than that weigh less, since most of their error cannot be
    predicted. Uniform weights when left out, as in the paper (Eq. 1)."""
    timesteps: Literal["uniform", "weighted"] = "uniform"
    """"uniform" draws all timesteps equally often; "weighted" draws each as often as ``snr_gamma`` weighs it and gives
    all samples the same weight: the same loss on average, with no work spent on samples that hardly count."""

    # The samples; see `elite.data.samples.SampleSettings` for the first four.
    crop: Literal["stretch", "square"] = "stretch"
    """How an object's box becomes a square."""
    augment: Flag = True
    """Whether references and placements change from step to step."""
    templates: tuple[Text, ...] | None = None
    """Captions with one "{}" each; the authors' when left out."""
    max_broken: Share = 0.05
    """Share of broken files that stops the run."""
    min_area: Share = 0.02
    """Smallest box, as a share of the picture (global stage)."""
    max_area: Above0 = 0.8
    """Largest box, as a share of the picture (global stage)."""
    min_side: AtLeast0 = 100.0
    """Smallest side of a mask, see `elite.data.index.select_masks` (local stage)."""
    min_aspect: Share = 0.5
    """Smallest ratio of a mask's sides (local stage)."""
    num_workers: Index = 0
    """Processes that prepare samples; 0 prepares them in the training process."""
    cache: Literal["off", "exact", "words"] = "exact"
    """"exact" keeps what is frozen and never changes; "words" also keeps the local stage's words, from the crop with
    the middle one of its ten paddings; "off" keeps nothing."""
    cache_dtype: Literal["float32", "float16"] = "float32"
    """Type of what is kept."""

    # The optimiser.
    steps: Count = 1000
    """Optimiser steps in all."""
    batch_size: Count = 16
    """Samples of one optimiser step, over all processes and accumulated pieces."""
    gradient_accumulation_steps: Count = 1
    """Pieces a batch is worked off in, to need less memory; the result is the same."""
    learning_rate: Above0 = 1e-6
    """Of AdamW."""
    scale_learning_rate: Flag = False
    """Multiply it by ``batch_size``, as the authors do; see ``peak_learning_rate``."""
    attention_lr_scale: AtLeast0 = 1.0
    """Factor on the rate of the keys and values, which begin as copies of trained ones, while the mappers begin from
    random weights; 1 in the paper."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """"constant", or "cosine" down to zero at the last step."""
    warmup: Index = 0
    """Steps of linear warm-up."""
    weight_decay: AtLeast0 = 0.01
    """Of AdamW."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Of AdamW."""
    max_grad_norm: Above0 = 1.0
    """The gradient of all trained weights is scaled down to this norm."""
    mixed_precision: Precision = "no"
    """"auto" is "bf16" where the processor computes with it, otherwise "no"."""
    gradient_checkpointing: Flag = False
    """Less memory for more time."""
    ema_decay: Share = 0.999
    """Of the averaged weights; 0 keeps none."""
    seed: Index = 0
    """Of fresh weights and of every draw."""

    # What is kept and watched.
    checkpoint_every: Count = 500
    """Steps between two checkpoints."""
    keep_checkpoints: Count = 2
    """How many of the newest are kept."""
    validate_every: Index = 500
    """Steps between two validations; 0 has none."""
    validation_rows: Count = 8
    """Samples of the fixed validation triples, and pictures of the grid."""
    validation_prompt: Text = "a photo of a S*"
    """Prompt of the grid."""
    validation_inference_steps: Count = 25
    """Denoising steps of the grid."""
    validation_guidance_scale: AtLeast0 = 5.0
    """Guidance scale of the grid."""
    validation_fusion_weight: AtLeast0 = 0.8
    """λ of the grid, in the local stage."""
    trackers: tuple[Text, ...] = ()
    """Accelerate's trackers, such as "tensorboard"; a curve is written in any case."""

    def __init__(self, stage: Any = None, /, **settings: Any) -> None:
        """See the settings; the stage may be given by position."""
        settings = settings if stage is None else {"stage": stage, **settings}
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ValueError(_in_one_sentence(error, settings)) from None

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
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
        return self

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after warm-up, scaled by the batch where that is asked for."""
        return self.learning_rate * (self.batch_size if self.scale_learning_rate else 1)

    def adapter_options(self) -> dict[str, Any]:
        """Arguments of `EliteAdapter.for_models` for a fresh adapter."""
        return self._only("layers", "num_words", "hidden_dim", "output_scale", "local_output_scale")

    def stage_options(self) -> dict[str, Any]:
        """Arguments of `steps.StageModule`, apart from the pipeline and the stage."""
        loss = ("regularizer_weight", "words", "fusion_weight", "reweighting", "batchwide_maximum", "snr_gamma")
        return self._only(*loss, "gradient_checkpointing")

    def sample_options(self) -> dict[str, Any]:
        """Arguments of `SampleSettings.for_pipeline`, apart from the pipeline and the placeholder."""
        return self._only("crop", "augment", "max_broken", "seed") | {"templates": self.templates or TEMPLATES}

    def _only(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}

    def with_changes(self, **changes: Any) -> TrainingConfig:
        """A copy with other values; raises ValueError as the class does."""
        return TrainingConfig(**{**self.model_dump(), **changes})

    def save(self, path: str | Path) -> Path:
        """Write a YAML file, whole or not at all; returns its path."""
        import yaml

        path = Path(path)
        plain = self.model_dump(mode="json")
        with replacing(path) as temporary:
            temporary.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
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
        return cls(**{**{str(name): setting for name, setting in value.items()}, **changes})


def _in_one_sentence(error: ValidationError, settings: dict[str, Any]) -> str:
    """What is wrong with the first wrong setting, and what its schema allows."""
    first = error.errors()[0]
    if first["type"] == "value_error" and not first["loc"]:
        return str(first["ctx"]["error"])
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        close = get_close_matches(name, TrainingConfig.model_fields, n=1)
        return f"unknown setting {name!r}" + (f"; is {close[0]} meant?" if close else ".")
    allowed = _in_words(TrainingConfig.model_json_schema()["properties"][name])
    if name not in settings:
        return f"the settings must name the {name}: {allowed}."
    return f"{name} must be {allowed}, got {settings[name]!r}."


def _in_words(schema: dict[str, Any]) -> str:
    """A JSON schema as the end of a sentence."""
    if "anyOf" in schema:
        return ", or ".join(_in_words(each) for each in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(f'"{name}"' for name in schema["enum"])
    if schema["type"] == "array":
        count = f" of {schema['maxItems']} items" if "maxItems" in schema else ""
        return f"a list{count}, each item {_in_words(schema.get('items') or schema['prefixItems'][0])}"
    words = {"boolean": "true or false", "string": "a text that is not empty", "null": "left out"}
    if schema["type"] in words:
        return words[schema["type"]]
    if schema["type"] == "integer":
        return f"a whole number, at least {schema['minimum']}"
    start = f"at least {schema['minimum']:g}" if "minimum" in schema else f"above {schema['exclusiveMinimum']:g}"
    return f"a number {start}" + (f" and below {schema['exclusiveMaximum']:g}" if "exclusiveMaximum" in schema else "")
