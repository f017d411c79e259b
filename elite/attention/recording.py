"""What is kept of attention when maps are asked for: see `elite.attention.record_attention`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclass(frozen=True)
class LayerMaps:
    """Attention of one layer in one UNet call.

    Attributes:
        global_probs: over text positions, (B, h, Q, L); a guidance batch has its unconditional half first.
        local_probs: over patches, (rows, h, Q, p²), scaled by Eq. 8 when reweighting is on; None without local branch.
        first_row: where the conditioned samples start in ``global_probs``.
        size: the layer's (height, width); Q is their product.
    """

    global_probs: Tensor
    local_probs: Tensor | None
    first_row: int
    size: tuple[int, int]


@dataclass
class AttentionRecord:
    """Attention maps of the UNet calls made while recording.

    Attributes:
        calls: one mapping from layer name to `LayerMaps` for each call, oldest first.
    """

    calls: list[dict[str, LayerMaps]] = field(default_factory=list)
    _latent_size: tuple[int, int] = (0, 0)

    def start_call(self, latent_size: tuple[int, int]) -> None:
        """Begin a new UNet call on latents of this height and width."""
        self.calls.append({})
        self._latent_size = latent_size

    def add(self, name: str, global_probs: Tensor, local_probs: Tensor | None, first_row: int) -> None:
        """Keep one layer's maps, detached."""
        height, width = self._latent_size
        shrink = (height * width / global_probs.shape[2]) ** 0.5
        size = (round(height / shrink), round(width / shrink))
        local = None if local_probs is None else local_probs.detach()
        self.calls[-1][name] = LayerMaps(global_probs.detach(), local, first_row, size)

    def word_map(
        self, position: int | Tensor, size: int, calls: slice | None = None, layers: str | None = None
    ) -> Tensor:
        """Attention to one text position, averaged over heads, layers and calls.

        Args:
            position: text position, or one for each sample (B,).
            size: side of the result; every layer's map is brought to it bilinearly.
            calls: which calls; all when left out.
            layers: only layers whose name holds this text.

        Returns:
            (B, size, size), for the conditioned samples, in [0, 1].

        Raises:
            ValueError: when nothing was recorded, or the position is outside the text.
        """
        chosen = [
            maps
            for call in self.calls[calls or slice(None)]
            for name, maps in call.items()
            if layers is None or layers in name
        ]
        if not chosen:
            raise ValueError("no attention was recorded: call the UNet within record_attention first.")
        small = []
        for maps in chosen:
            probs = maps.global_probs[maps.first_row :].mean(dim=1)  # (B, Q, L)
            index = torch.as_tensor(position, device=probs.device).expand(probs.shape[0])
            if bool(((index < 0) | (index >= probs.shape[-1])).any()):
                raise ValueError(f"position must be in 0 to {probs.shape[-1] - 1}, got {position}.")
            column = probs.gather(-1, index.view(-1, 1, 1).expand(-1, probs.shape[1], 1))  # (B, Q, 1)
            picture = column.transpose(1, 2).unflatten(-1, maps.size)  # (B, 1, height, width)
            small.append(F.interpolate(picture.float(), size=(size, size), mode="bilinear", align_corners=False))
        return torch.stack(small).mean(dim=0).squeeze(1)


@contextmanager
def recording(unet: UNet2DConditionModel, processors: Mapping[str, Any]) -> Iterator[AttentionRecord]:
    """Point the processors at a fresh record, and begin a call in it whenever the UNet is called."""
    record = AttentionRecord()

    def start(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        sample = kwargs["sample"] if "sample" in kwargs else args[0]
        record.start_call(tuple(sample.shape[-2:]))

    before = {name: processor.recorder for name, processor in processors.items()}
    handle = unet.register_forward_pre_hook(start, with_kwargs=True)
    try:
        for name, processor in processors.items():
            processor.recorder = (record, name)
        yield record
    finally:
        handle.remove()
        for name, processor in processors.items():
            processor.recorder = before[name]
