"""Reading, writing and checking tensors in safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from elite.io.files import replacing

# types of weights, and the type in which their values are added up to see whether all are finite
_CHECKED = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is another kind of file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or damaged: {error}.") from error


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors (made contiguous, on the CPU) as one safetensors file."""
    from safetensors.torch import save_file

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(ready, str(temporary), metadata=dict(metadata or {"format": "pt"}))


def check_finite(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise when a tensor holds NaN or infinity.

    Raises:
        ValueError: naming the first such tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.dtype not in _CHECKED:
            continue
        # One pass without a copy: NaN and infinity stay in a sum, and no sum of weights comes near the largest number.
        if not bool(tensor.sum(dtype=_CHECKED[tensor.dtype]).isfinite()):
            raise ValueError(
                f"{source} holds NaN or infinite values in {name}: the file is damaged or its training was."
            )


def check_names_and_shapes(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise when tensors do not have a model's names and shapes.

    Raises:
        ValueError: naming the first that is missing, unknown or of another shape.
    """
    odd = set(expected) ^ set(tensors)
    if odd:
        name = min(odd)
        state = "misses" if name in expected else "has the unknown"
        raise ValueError(f"{source} {state} weight {name} ({len(odd)} names differ).")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{source} has {name} of shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}."
            )
