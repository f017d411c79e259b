"""The authors' ``global_mapper.pt`` and ``local_mapper.pt``, and our adapter format beside them.

The published files are flat dictionaries: ``mapping_{i}.{j}.*`` and ``mapping_patch_{i}.{j}.*`` for the MLPs, and
``down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.weight``-style names for the keys and values.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import CONFIG_NAME, EliteAdapter, is_adapter_config
from .features import default_layers
from .io.files import read_json, replacing
from .io.fingerprint import fingerprint
from .io.hub import find_file
from .io.tensors import check_finite

OFFICIAL_REPOSITORY = "ELITE-library/ELITE"
GLOBAL_NAME = "global_mapper.pt"
LOCAL_NAME = "local_mapper.pt"
_SUBFOLDER = "checkpoints"  # where the repository keeps them


def load_official(
    global_pt: str | Path = OFFICIAL_REPOSITORY,
    local_pt: str | Path | None = None,
    unet: nn.Module | None = None,
    image_encoder: nn.Module | None = None,
    layers: Sequence[int] | None = None,
    revision: str | None = None,
    **hub: Any,
) -> EliteAdapter:
    """An adapter from the authors' checkpoints.

    Args:
        global_pt: path of ``global_mapper.pt``, or a folder or Hub repository that holds both files (there in
            ``checkpoints/``).
        local_pt: path of ``local_mapper.pt``, when ``global_pt`` is a single file.
        unet: attach the adapter to this UNet.
        image_encoder: note the encoder's fingerprint in the adapter.
        layers: hidden states the mappers read; (24, 4, 8, 12, 16) for five when left out.
        revision: commit of the repository.
        **hub: as `files.find_file`: ``token``, ``cache_dir``, ``local_files_only``.

    Returns:
        The adapter.

    Raises:
        FileNotFoundError: when a file does not exist.
        ValueError: when a file is not such a checkpoint, holds NaN, or its shapes do not fit.
    """
    if not str(global_pt).endswith(".pt"):
        source = global_pt
        global_pt, local_pt = (_locate(source, name, revision, **hub) for name in (GLOBAL_NAME, LOCAL_NAME))
    if local_pt is None:
        raise ValueError("local_pt is missing: give both global_mapper.pt and local_mapper.pt, or a folder with both.")
    first, second = _read(global_pt), _read(local_pt)
    config = _infer_config(first, global_pt, layers, "" if image_encoder is None else fingerprint([image_encoder]))
    with torch.device("meta"):
        adapter = EliteAdapter(**config)
    renamed = _to_ours(first, "global", global_pt) | _to_ours(second, "local", local_pt)
    adapter.check_weights(renamed, f"{global_pt} with {local_pt}")
    adapter.load_state_dict(renamed, assign=True)
    adapter.eval()
    return adapter if unet is None else adapter.attach(unet)


def save_official(adapter: EliteAdapter, folder: str | Path) -> tuple[Path, Path]:
    """Write an adapter as the authors' two files.

    Args:
        adapter: the adapter.
        folder: where; made when it does not exist.

    Returns:
        Paths of ``global_mapper.pt`` and ``local_mapper.pt``.

    Raises:
        OSError: when the folder cannot be written to.
    """
    paths = []
    for branch, name, mapper in (
        ("global", GLOBAL_NAME, adapter.global_mapper),
        ("local", LOCAL_NAME, adapter.local_mapper),
    ):
        tensors = OrderedDict(mapper.state_dict())
        for key, processor in adapter.processors.items():
            tensors[f"{key}_to_k.weight"] = getattr(processor, f"to_k_{branch}").weight
            tensors[f"{key}_to_v.weight"] = getattr(processor, f"to_v_{branch}").weight
        ready = OrderedDict((key, tensor.detach().cpu().contiguous()) for key, tensor in tensors.items())
        path = Path(folder) / name
        with replacing(path) as temporary:
            torch.save(ready, temporary)
        paths.append(path)
    return paths[0], paths[1]


def convert(
    output: str | Path,
    global_pt: str | Path = OFFICIAL_REPOSITORY,
    local_pt: str | Path | None = None,
    revision: str | None = None,
) -> Path:
    """Convert the authors' checkpoints to an adapter folder.

    Args:
        output: the folder to write.
        global_pt: see `load_official`.
        local_pt: see `load_official`.
        revision: commit of the repository.

    Returns:
        The folder.

    Raises:
        FileNotFoundError, ValueError: as `load_official`.
        OSError: when the folder cannot be written to.
    """
    return load_official(global_pt, local_pt, revision=revision).save_pretrained(output)


def own_adapter(source: str | Path, folder: str, revision: str | None = None, **hub: Any) -> EliteAdapter | None:
    """The adapter that a pipeline's folder or repository has in its subfolder ``folder``, or None.

    Raises:
        FileNotFoundError: when the Hub cannot be reached, though it was not forbidden to ask.
    """
    try:
        found = find_file(source, CONFIG_NAME, revision, folder, **hub)
    except FileNotFoundError:
        from huggingface_hub import constants

        if hub.get("local_files_only") or constants.HF_HUB_OFFLINE:
            return None  # what was loaded from the cache has no adapter in it
        raise
    return None if found is None else EliteAdapter.from_pretrained(source, revision, folder, **hub)


def named_adapter(source: str | Path, revision: str | None = None, **hub: Any) -> EliteAdapter:
    """An adapter in our format, or the authors' two files, from a folder or repository.

    Raises:
        FileNotFoundError: when it holds neither.
    """
    unreachable = None
    for name, folder in ((CONFIG_NAME, None), (GLOBAL_NAME, None), (GLOBAL_NAME, _SUBFOLDER)):
        try:
            found = find_file(source, name, revision, folder, **hub)
        except FileNotFoundError as error:
            unreachable = error  # offline, what is not in the cache may still be there under the next name
            continue
        if found is not None and name == CONFIG_NAME:
            if is_adapter_config(read_json(found)):
                return EliteAdapter.from_pretrained(source, revision, **hub)
        elif found is not None:
            return load_official(source, revision=revision, **hub)
    raise unreachable or FileNotFoundError(
        f"{source} holds neither an ELITE adapter ({CONFIG_NAME} and its weights) nor {GLOBAL_NAME}."
    )


def _locate(source: str | Path, name: str, revision: str | None, **hub: Any) -> Path:
    path = find_file(source, name, revision, **hub) if Path(source).is_dir() else None
    path = path or find_file(source, name, revision, _SUBFOLDER, **hub)
    if path is None:
        raise FileNotFoundError(f"{source} holds no {name}, neither at its top nor in {_SUBFOLDER}/.")
    return path


def _read(path: str | Path) -> dict[str, Tensor]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways; all mean the same to the reader
        raise ValueError(f"{path} is not a checkpoint of plain tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(value, dict) or not value or not all(isinstance(item, Tensor) for item in value.values()):
        raise ValueError(f"{path} is not one of the authors' checkpoints: expected a flat dictionary of tensors.")
    check_finite(value, path)
    return value


def _infer_config(
    tensors: dict[str, Tensor], path: str | Path, layers: Sequence[int] | None, encoder: str
) -> dict[str, Any]:
    """Shapes of an adapter from the tensors of a checkpoint."""
    numbers = {int(match[1]) for name in tensors if (match := re.match(r"mapping_(\d+)\.", name))}
    needed = {"mapping_0.0.weight", "mapping_0.6.weight"}
    if not numbers or not needed <= set(tensors) or numbers != set(range(len(numbers))):
        raise ValueError(f"{path} is not one of the authors' checkpoints: it has no mapping_0 … weights.")
    chosen = tuple(layers) if layers is not None else default_layers(24)[: len(numbers)]
    if len(chosen) != len(numbers):
        raise ValueError(f"layers must name {len(numbers)} layers, one for each mapping of {path}, got {len(chosen)}.")
    for name in (*sorted(needed), *(name for name in tensors if name.endswith("_to_k.weight"))):
        if tensors[name].ndim != 2:
            raise ValueError(f"{path} has {name} of shape {tuple(tensors[name].shape)}, expected two dimensions.")
    hidden_dim, input_dim = tensors["mapping_0.0.weight"].shape
    attention = {
        name.removesuffix("_to_k.weight"): tensor.shape[0]
        for name, tensor in tensors.items()
        if name.endswith("_to_k.weight")
    }
    return dict(
        input_dim=input_dim,
        output_dim=tensors["mapping_0.6.weight"].shape[0],
        layers=chosen,
        attention=attention,
        hidden_dim=hidden_dim,
        image_encoder=encoder,
    )


def _to_ours(tensors: dict[str, Tensor], branch: str, path: str | Path) -> dict[str, Tensor]:
    """Rename: mappings below their mapper, keys and values below their processor."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("mapping_"):
            key = f"{branch}_mapper.{name}"
        elif match := re.fullmatch(r"(.+)_(to_[kv])\.weight", name):
            key = f"processors.{match[1]}.{match[2]}_{branch}.weight"
        else:
            raise ValueError(f"{path} has the unknown weight {name}.")
        renamed[key] = tensor.contiguous()
    return renamed
