"""What a competitor has learnt of a subject: some tensors, and what is needed to draw with them again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from elite.io.tensors import check_finite, read_safetensors, write_safetensors

FORMAT = "elite-competitor"


@dataclass(frozen=True, eq=False)
class Learned:
    """A subject as one competitor has learnt it.

    Attributes:
        method: name of the competitor.
        class_name: what the subject is.
        steps: optimiser steps taken.
        seconds: that they took.
        preparation: seconds before the first of them, for the class's pictures.
        tensors: on the CPU, named as the competitor wants them.
        settings: of the competitor.
    """

    method: str
    class_name: str
    steps: int
    seconds: float
    preparation: float
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all; returns its path.

        Raises:
            OSError: when it cannot be written.
            ValueError: when a value is not finite.
        """
        path = Path(path)
        check_finite(self.tensors, f"what {self.method} learnt")
        names = ("method", "class_name", "steps", "seconds", "preparation", "settings")
        facts = {name: getattr(self, name) for name in names}
        write_safetensors(path, self.tensors, {"format": FORMAT, "learned": json.dumps(facts)})
        return path

    @classmethod
    def load(cls, path: str | Path) -> Learned:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: when it is another kind of file, or damaged.
        """
        tensors, metadata = read_safetensors(path)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} does not hold what a competitor has learnt.")
        check_finite(tensors, path)
        return cls(**json.loads(metadata["learned"]), tensors=tensors)


@contextmanager
def swapped(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within this context, named parameters of a module have other values; afterwards their own again.

    Raises:
        ValueError: when the module lacks one of them, or has it in another shape.
    """
    parameters = dict(module.named_parameters())
    for name, tensor in tensors.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            raise ValueError(f"what was learnt has {name} {tuple(tensor.shape)}, which this model does not have.")
    own = {name: parameters[name].data for name in tensors}
    try:
        for name, tensor in tensors.items():
            parameters[name].data = tensor.to(own[name])
        yield
    finally:
        for name, data in own.items():
            parameters[name].data = data


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors on the CPU, which further training does not change."""
    return {name: tensor.detach().to("cpu", torch.float32, copy=True) for name, tensor in tensors.items()}
