"""What a run needs before its first step: accelerator, model with adapter, and the samples of its stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from elite.adapter import EliteAdapter
from elite.data.index import Index, index_boxes, index_masks
from elite.data.layout import OpenImagesFolder
from elite.data.samples import GlobalSamples, LocalSamples, Samples, SampleSettings
from elite.training.config import TrainingConfig
from elite.training.run_folder import Checkpoint, RunFolder

if TYPE_CHECKING:
    from accelerate import Accelerator

    from elite.pipeline import ElitePipeline


@dataclass(frozen=True)
class Data:
    """The samples of a stage.

    Attributes:
        training: what the stage is trained on.
        validation: other objects, never augmented; the training objects where there are too few to split.
        index: of all of them.
    """

    training: Samples
    validation: Samples
    index: Index


def settled(config: TrainingConfig, pipeline: ElitePipeline | None, folder: RunFolder | None) -> TrainingConfig:
    """The settings with "auto" precision decided: a run goes on in its own, a new one takes what is quick here."""
    if config.mixed_precision != "auto":
        return config
    before = folder.settings() if folder is not None else None
    if before is not None:
        return config.with_changes(mixed_precision=before.mixed_precision)
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return config.with_changes(mixed_precision=quick_precision(here if pipeline is None else pipeline.device))


def quick_precision(device: torch.device) -> str:
    """Return "bf16" where a device has instructions for it, otherwise "no": emulated bf16 is slow."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    instructions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    found = device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in instructions)
    return "bf16" if found else "no"


def make_accelerator(config: TrainingConfig, pipeline: ElitePipeline | None, folder: RunFolder | None) -> Accelerator:
    """Accelerate's view of devices, precision and processes.

    Raises:
        ValueError: when the batch cannot be split evenly, or not at all, or a tracker is not installed.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, is_initialized
    from accelerate.utils import ProjectConfiguration

    trackers = config.trackers if folder is not None else ()
    for tracker in trackers:
        _check_tracker(tracker)
    cpu = pipeline is not None and pipeline.device.type == "cpu"
    # Words that are left out leave their mappers without gradient, which DDP has to know.
    shared = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=config.words is not None)
    project = None
    if folder is not None:
        project = ProjectConfiguration(str(folder.path), logging_dir=str(folder.path / "logs"))
    if is_initialized() and AcceleratorState().mixed_precision != config.mixed_precision:
        AcceleratorState._reset_state()  # accelerate keeps one for the process: that of a run before
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=list(trackers) or None,
        project_config=project,
        kwargs_handlers=[shared],
    )
    pieces = accelerator.num_processes * config.gradient_accumulation_steps
    if config.batchwide_maximum and pieces > 1:
        raise ValueError(f"batchwide_maximum needs the whole batch at once, but it is shared out in {pieces} pieces.")
    if config.batch_size % pieces:
        raise ValueError(
            f"batch_size is {config.batch_size}; it must be a multiple of {pieces}: {accelerator.num_processes} "
            f"processes times {config.gradient_accumulation_steps} gradient_accumulation_steps."
        )
    return accelerator


def check_shared(accelerator: Accelerator, folder: RunFolder | None, found: Checkpoint | None) -> None:
    """Check that all processes go on from one checkpoint: on machines without a shared disk they would not.

    Raises:
        ValueError: when they found different ones.
    """
    step = torch.tensor([-1 if found is None else found.step], device=accelerator.device)
    steps = accelerator.gather(step).tolist()
    if folder is not None and len(set(steps)) > 1:
        raise ValueError(
            f"output {folder.path} must be a folder that all processes share; they found checkpoints {steps}."
        )


def _check_tracker(name: str) -> None:
    """Refuse a tracker that is not installed: accelerate would leave it out silently."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = _names(LOGGER_TYPE_TO_CLASS)
    if name not in known:
        raise ValueError(f"trackers holds {name!r}; accelerate knows {', '.join(known)}.")
    if name not in _names(get_available_trackers()):
        raise ValueError(f"trackers holds {name!r}, which is not installed: install it, or give --set trackers=[].")


def _names(trackers: Iterable[Any]) -> list[str]:
    return [str(getattr(each, "value", each)) for each in trackers]  # some are members of an enum, some plain strings


def load_model(config: TrainingConfig, pipeline: ElitePipeline | None = None) -> ElitePipeline:
    """The base model with the adapter that the run begins with, in float32.

    Raises:
        RuntimeError: when ``pipeline`` has no adapter.
        FileNotFoundError: when the model or the adapter is not there.
    """
    from elite.backbones import load_pipeline

    if pipeline is not None:
        pipeline.needed_adapter()  # says what to do when there is none
        return pipeline
    if config.adapter == "own":
        return load_pipeline(config.model, dtype=torch.float32)
    if config.adapter != "init":
        adapter = EliteAdapter.from_pretrained(RunFolder(config.adapter).adapter())
        return load_pipeline(config.model, dtype=torch.float32, adapter=adapter)
    # Without its own adapter, which would only be replaced.
    pipeline = load_pipeline(config.model, dtype=torch.float32, adapter="init")
    pipeline.attach_adapter(fresh_adapter(config, pipeline))
    return pipeline


def fresh_adapter(config: TrainingConfig, pipeline: ElitePipeline) -> EliteAdapter:
    """An untrained adapter of the settings' shape for a pipeline, drawn from the settings' seed."""
    parts = (pipeline.unet, pipeline.text_encoder, pipeline.image_encoder)
    generator = torch.Generator().manual_seed(config.seed)
    return EliteAdapter.for_models(*parts, **config.adapter_options(), generator=generator)


def stage_data(config: TrainingConfig, pipeline: ElitePipeline) -> Data:
    """The samples of the stage's objects; the last ``validation_rows`` of them are kept for validation.

    Raises:
        FileNotFoundError: when the data is not there.
        ValueError: for an unknown class, or when nothing is left to train on.
    """
    folder = OpenImagesFolder(Path(config.data), config.split)
    settings = SampleSettings.for_pipeline(
        pipeline, placeholder=pipeline.adapter.config.placeholder, **config.sample_options()
    )
    if config.stage == "global":
        index = index_boxes(folder, config.classes, config.min_area, config.max_area)
        kind: type[Samples] = GlobalSamples
    else:
        index = index_masks(folder, config.classes, config.min_side, config.min_aspect, resolution=settings.resolution)
        kind = LocalSamples
    held = config.validation_rows if config.validate_every else 0
    training = validation = index
    if 0 < 2 * held < len(index):
        # A fixed shuffle: neighbouring rows can be objects of one picture.
        frame = index.frame.sample(fraction=1.0, shuffle=True, seed=0)
        training = replace(index, frame=frame.head(len(index) - held))
        validation = replace(index, frame=frame.tail(held))
    # Among so few rows, one broken file is a large share and no reason to stop.
    still = replace(settings, augment=False, max_broken=0.999)
    return Data(kind(training, folder, settings), kind(validation, folder, still), index)
