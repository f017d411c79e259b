"""Writes trained parts into a weights folder, in half precision and all at once.

The folder is assembled under a temporary name and takes the old one's place in two renames, so that a program that
loads it meanwhile finds the old or the new weights, or for a moment none, and never half-written ones. A call killed
between the renames leaves the old folder as ``.<name>-old-<process>`` beside it; the next call says so and stops.
"""

from __future__ import annotations

import copy
import copy
import glob
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import ModelMixin, StableDiffusionPipeline
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil

from elite.adapter import EliteAdapter
from elite.attention import remove_processors
from elite.io.checksums import write_checksums
from elite.toybox import shapes

PIPELINE_PARTS = ("text_encoder", "vae", "unet", "image_encoder")
OTHER_PARTS = ("identity_encoder", "judge")
ADAPTER_FOLDER = "elite"


def save_part(part: nn.Module, folder: Path) -> None:
    """Write a diffusers or transformers model as half-precision safetensors whose configuration says float32.

    Transformers loads in the type that the configuration names, and half precision is far slower on a CPU.
    """
    halves = {name: value.half() if value.is_floating_point() else value for name, value in part.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(part, ModelMixin):
        part.save_config(folder)
        halves = {name: value.contiguous() for name, value in halves.items()}
        save_file(halves, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    else:
        part.save_pretrained(folder, state_dict=halves)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("dtype", "torch_dtype"):
        if key in config:
            config[key] = "float32"
    config.pop("_name_or_path", None)  # the folder it was read from says nothing to anyone else
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def update_weights(
    folder: Path, parts: dict[str, nn.Module | object], clip_head: dict[str, Tensor] | None = None
) -> None:
    """Replace ``parts``, by the names of their subfolders, in a weights folder, keeping the others.

    Raises:
        ValueError: if a part has a name that the folder has no place for.
        FileExistsError: if the folder is gone because a call was killed; its old self has to get its name back.
    """
    known = {*PIPELINE_PARTS, *OTHER_PARTS, "tokenizer", "scheduler", "feature_extractor"}
    for name in parts:
        if name not in known:
            raise ValueError(
                f"`parts` names {name!r}, which is no part of a weights folder: use one of {sorted(known)}."
            )

    def write(fresh: Path) -> None:
        for name, part in parts.items():
            shutil.rmtree(fresh / name, ignore_errors=True)
            if isinstance(part, nn.Module):
                save_part(part, fresh / name)
            else:
                part.save_pretrained(fresh / name)
        if clip_head is not None:
            halves = {name: tensor.half().contiguous() for name, tensor in clip_head.items()}
            save_file(halves, fresh / "clip_head.safetensors")

    _replace_folder(Path(folder), write)


def update_adapter(folder: Path, adapter: EliteAdapter) -> None:
    """Put an ELITE adapter into a weights folder, in half precision, in place of the one before.

    Raises:
        ValueError: if it was made for another image encoder or UNet than the folder's, or a weight is beyond the range
            of half precision; the folder is left as it was.
        FileNotFoundError: if there is no weights folder.
        FileExistsError: as in :func:`update_weights`.
    """
    from elite.pipeline import ElitePipeline

    folder = Path(folder)
    _refuse_orphan(folder)
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f"{folder} is no weights folder: it has no model_index.json.")
    half = copy.deepcopy(adapter).cpu()  # with its content id
    ElitePipeline.from_pretrained(folder, adapter=half)  # refuses one that does not fit
    half.detach().half()

    def write(fresh: Path) -> None:
        shutil.rmtree(fresh / ADAPTER_FOLDER, ignore_errors=True)
        half.save_pretrained(fresh / ADAPTER_FOLDER)

    _replace_folder(folder, write)


def _replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Change a copy of a folder, refresh its sums, and let it take the folder's place."""
    _refuse_orphan(folder)
    fresh, old = (folder.with_name(f".{folder.name}-{kind}-{os.getpid()}") for kind in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        if folder.exists():
            shutil.copytree(folder, fresh)
        fresh.mkdir(parents=True, exist_ok=True)
        write(fresh)
        write_checksums(fresh)
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
    finally:
        if old.exists() and not folder.exists():  # the second rename failed
            os.replace(old, folder)
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _refuse_orphan(folder: Path) -> None:
    """Raises FileExistsError where a call was killed between its two renames, so that nothing is begun without it."""
    if folder.exists():
        return
    left = sorted(folder.parent.glob(f".{glob.escape(folder.name)}-old-*"))
    if left:
        raise FileExistsError(
            f"{folder} is gone: replacing it was cut short, and it waits as {left[-1]}. Rename that to {folder.name}, "
            "or remove it to begin anew."
        )


def feature_extractor() -> CLIPImageProcessorPil:
    """CLIP's own image processor at the size of the miniature's encoder."""
    size = shapes.IMAGE_SIZE
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def write_weights(folder: Path, parts: dict[str, object], clip_head: dict[str, Tensor]) -> None:
    """Write a whole weights folder.

    Args:
        folder: replaced in two renames where it is there already.
        parts: every part by the name of its subfolder, the tokenizer included; "adapter" may be left out.
        clip_head: what scoring with the CLIP pair needs beside its encoders.

    Raises:
        FileExistsError: as in :func:`update_weights`.
    """
    parts = dict(parts)
    adapter = parts.pop("adapter", None)
    scheduler, extractor = shapes.build_scheduler(), feature_extractor()
    if adapter is not None and parts["unet"] is not None:
        remove_processors(parts["unet"])
    pipeline = StableDiffusionPipeline(
        **{name: parts[name] for name in (*PIPELINE_PARTS, "tokenizer")},
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=extractor,
        requires_safety_checker=False,
    )
    _refuse_orphan(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.save_config(folder)
    for name in OTHER_PARTS:
        parts[name] = parts[name].network
    update_weights(folder, parts | {"scheduler": scheduler, "feature_extractor": extractor}, clip_head)
    if adapter is not None:
        update_adapter(folder, adapter)


def random_weights(folder: Path, tokenizer: object, labels: list[str], seed: int = 0) -> None:
    """Write a complete weights folder of the frozen shapes with random weights.

    Raises:
        FileExistsError: as in :func:`update_weights`.
    """
    _refuse_orphan(folder)
    torch.manual_seed(seed)
    pipeline = StableDiffusionPipeline(
        vae=shapes.build_vae(),
        text_encoder=shapes.build_text_encoder(),
        tokenizer=tokenizer,
        unet=shapes.build_unet(),
        scheduler=shapes.build_scheduler(),
        safety_checker=None,
        feature_extractor=feature_extractor(),
        image_encoder=shapes.build_image_encoder(),
        requires_safety_checker=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.save_config(folder)
    parts = {name: getattr(pipeline, name) for name in PIPELINE_PARTS}
    parts |= {name: getattr(pipeline, name) for name in ("tokenizer", "scheduler", "feature_extractor")}
    parts |= {"identity_encoder": shapes.build_identity_encoder(), "judge": shapes.build_judge(labels)}
    head = {
        "text_projection.weight": torch.randn(shapes.PROJECTION_WIDTH, shapes.TEXT_WIDTH) * shapes.TEXT_WIDTH**-0.5,
        "visual_projection.weight": pipeline.image_encoder.visual_projection.weight.detach().clone(),
        "logit_scale": torch.tensor(2.659),
    }
    update_weights(folder, parts, head)
