"""Base models by name: the bundled miniature, Stable Diffusion v1-4, or any folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from .io.checksums import verify

if TYPE_CHECKING:
    from .pipeline import ElitePipeline

# Commits of the Hub repositories that this project names. None: no commit is known to us, so the newest is loaded.
REVISIONS: Mapping[str, str | None] = MappingProxyType(
    {
        "CompVis/stable-diffusion-v1-4": "133a221b8aa7292a167afc5127cb63fb5005638b",
        "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
        "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        "ELITE-library/ELITE": None,  # commit not known
        "facebook/dino-vits16": None,  # commit not known
    }
)
SD14 = "CompVis/stable-diffusion-v1-4"
CLIP_LARGE = "openai/clip-vit-large-patch14"
NAMES = ("toybox", "sd14")
TOYBOX = Path(__file__).parent / "toybox" / "weights"  # by its path: nothing below the toybox imports it


def best_device() -> torch.device:
    """``ELITE_DEVICE`` when it is set, otherwise a GPU when there is one, otherwise the CPU.

    Raises:
        ValueError: when ``ELITE_DEVICE`` is not a device.
    """
    wanted = os.environ.get("ELITE_DEVICE")
    if wanted:
        try:
            return torch.device(wanted)
        except RuntimeError as error:
            raise ValueError(f'ELITE_DEVICE must be a torch device such as "cpu" or "cuda", got {wanted!r}.') from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def load_pipeline(
    name: str | Path | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> ElitePipeline:
    """An `ElitePipeline`, ready to use.

    Args:
        name: "toybox" (the bundled miniature), "sd14" (Stable Diffusion v1-4 with the authors' checkpoints, from the
            Hub), or a folder; ``ELITE_BACKBONE``, or else "toybox", when left out.
        device: where to compute; `best_device` when left out.
        dtype: type of the weights; float32 for the toybox and on the CPU, otherwise fp16 when left out.
        **kwargs: for `ElitePipeline.from_pretrained`, such as ``adapter``.

    Returns:
        The pipeline, without progress bar for the toybox.

    Raises:
        ValueError: for a device that torch cannot compute on.
        FileNotFoundError: for an unknown name, or a folder that holds no pipeline.
    """
    name = name or os.environ.get("ELITE_BACKBONE") or "toybox"
    device = _usable(best_device() if device is None else device)
    small = str(name) == "toybox" or device.type == "cpu"
    dtype = dtype or (torch.float32 if small else torch.float16)
    if str(name) == "toybox":
        folder = verify(TOYBOX)
    elif str(name) == "sd14":
        return _cast(_load_sd14(dtype, **kwargs), dtype).to(device)
    else:
        folder = Path(name)
        if not (folder / "model_index.json").is_file():
            raise FileNotFoundError(
                f"model must be one of {', '.join(NAMES)} or a folder with a model_index.json, got {str(name)!r}."
            )
    from .pipeline import ElitePipeline

    with _without_bars():  # local files load in no time
        pipe = _cast(ElitePipeline.from_pretrained(folder, **kwargs), dtype).to(device)
    if str(name) == "toybox":
        pipe.set_progress_bar_config(disable=True)
    return pipe


def default_guidance(name: str | Path | None = None) -> float:
    """The guidance scale that suits a base model: 5, as in the paper; 3 for the toybox.

    Guidance amplifies the local branch as well: at 5 the miniature loses more of its scenes (see its card).

    Args:
        name: as for `load_pipeline`.
    """
    return 3.0 if str(name or os.environ.get("ELITE_BACKBONE") or "toybox") == "toybox" else 5.0


def _usable(device: torch.device | str) -> torch.device:
    """Try the device, so that an unusable one is reported before anything is loaded."""
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # a build without CUDA asserts
        raise ValueError(
            f'device must be one that torch can compute on here, such as "cpu", got {str(device)!r}: '
            f"{str(error).splitlines()[0].rstrip('.')}."
        ) from error


@contextmanager
def _without_bars() -> Iterator[None]:
    """Within this context diffusers and transformers show no progress bars."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown = [library for library in (of_diffusers, of_transformers) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _cast(pipe: ElitePipeline, dtype: torch.dtype) -> ElitePipeline:
    """Cast what was loaded: the argument that sets the type has different names in different releases of diffusers.

    Parts that have the type already are left alone: diffusers warns whenever a model of its own is cast.
    """
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module) and part.dtype != dtype:
            part.to(dtype=dtype)
    return pipe


def _load_sd14(dtype: torch.dtype, **kwargs: Any) -> ElitePipeline:
    """Stable Diffusion v1-4, CLIP ViT-L/14 and, unless another adapter is named, the authors' checkpoints."""
    from transformers import CLIPVisionModelWithProjection

    from .official import OFFICIAL_REPOSITORY
    from .pipeline import ElitePipeline

    encoder = CLIPVisionModelWithProjection.from_pretrained(CLIP_LARGE, revision=REVISIONS[CLIP_LARGE], dtype=dtype)
    options = {"adapter": OFFICIAL_REPOSITORY, "adapter_revision": REVISIONS[OFFICIAL_REPOSITORY], **kwargs}
    return ElitePipeline.from_pretrained(SD14, revision=REVISIONS[SD14], image_encoder=encoder, dtype=dtype, **options)
