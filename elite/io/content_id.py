"""Content ids: what tells sets of weights apart, down to the last bit, and stays the same when they are only cast."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_SAMPLES = 64  # values remembered of each tensor


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Twenty hexadecimal digits of a hash of every name, shape, type and bit.

    Args:
        tensors: by name, on any device; their order does not matter.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:20]


class ContentId:
    """The content id of a module's weights.

    It is their `content_hash`, made anew when they change. Casting to fp16 or bf16, and moving, keep it: the values
    are then those from before, rounded. Between changes only a few values of each tensor are looked at.
    """

    def __init__(self) -> None:
        self.value = ""  # empty when not known
        self._hash = ""
        self._versions: tuple = ()
        self._samples = torch.empty(0)

    def adopt(self, module: nn.Module, value: str) -> None:
        """Take ``value`` for the id of the weights as they are now, as when they come from a file that names it."""
        self.value = ""
        self.of(module)
        self.value = value or self.value

    @torch.no_grad()
    def of(self, module: nn.Module) -> str:
        """The id of the weights as they are now.

        Weights that are elsewhere (on the meta device, as when they are offloaded one by one) count as unchanged.
        """
        parameters = list(module.parameters())
        if any(parameter.is_meta for parameter in parameters):
            return self.value
        versions = tuple((p.dtype, 0 if p.is_inference() else p._version) for p in parameters)
        samples = _samples(parameters)
        if self.value and versions == self._versions and torch.equal(samples, self._samples):
            return self.value
        now = content_hash(module.state_dict())
        types = [[dtype for dtype, _ in each] for each in (versions, self._versions)]
        differ = types[0] != types[1] or not torch.equal(samples, self._samples)
        cast = differ and _is_rounded(samples, self._samples)
        if not self.value or not (cast or now == self._hash):
            self.value = now
        self._hash, self._versions, self._samples = now, versions, samples
        return self.value


def _samples(parameters: list[nn.Parameter]) -> Tensor:
    """Values spread over all tensors, in float32 on the CPU; they come there in one go."""
    found = [p.detach().flatten()[:: max(1, p.numel() // _SAMPLES)][:_SAMPLES].float() for p in parameters]
    return torch.cat([each.to(found[0].device) for each in found]).cpu() if found else torch.empty(0)


def _is_rounded(values: Tensor, before: Tensor) -> bool:
    """Whether every value is the one from before, or that rounded to fp16 or bf16."""
    if values.shape != before.shape:
        return False
    same = values == before
    for dtype in (torch.float16, torch.bfloat16):
        same |= values == before.to(dtype).float()
    return bool(same.all())
