"""The identity encoder: says how alike two subjects are, whatever stands behind them. It never saw a caption."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTModel


class IdentityEncoder(nn.Module):
    """Wraps a small vision transformer; the feature is its class token on the unit sphere."""

    def __init__(self, network: ViTModel) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def from_pretrained(cls, folder: Path) -> IdentityEncoder:
        """Load in float32 and evaluation mode."""
        network = ViTModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32)
        return cls(network).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Unit features (B, 128) of images (B, 3, 128, 128) in [-1, 1]; their dot product is the likeness."""
        return F.normalize(self.network(images).last_hidden_state[:, 0], dim=-1)
