"""The two mapping networks: CLIP features in, words (Eq. 3) or patch embeddings (Eq. 5) out.

Parameter names (``mapping_{i}.{j}`` and ``mapping_patch_{i}.{j}``) are those of the published checkpoints,
so that these load directly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _mlp(input_dim: int, hidden_dim: int, output_dim: int) -> nn.Sequential:
    """Three linear layers with LayerNorm and LeakyReLU between them: indices 0 … 6, as published."""
    return nn.Sequential(
        nn.Linear(input_dim, hidden_dim),
        nn.LayerNorm(hidden_dim),
        nn.LeakyReLU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.LayerNorm(hidden_dim),
        nn.LeakyReLU(),
        nn.Linear(hidden_dim, output_dim),
    )


class _PairedMapper(nn.Module):
    """One pair of MLPs per feature layer: one reads the CLS token, the other the patch tokens."""

    def __init__(self, input_dim: int, output_dim: int, depth: int, hidden_dim: int, output_scale: float) -> None:
        super().__init__()
        for name, value in (
            ("input_dim", input_dim),
            ("output_dim", output_dim),
            ("hidden_dim", hidden_dim),
            ("the number of feature layers", depth),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.hidden_dim = hidden_dim
        self.depth = depth
        self.output_scale = output_scale
        for i in range(depth):
            self.add_module(f"mapping_{i}", _mlp(input_dim, hidden_dim, output_dim))
            self.add_module(f"mapping_patch_{i}", _mlp(input_dim, hidden_dim, output_dim))

    def _outputs(self, features: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Per layer: the CLS output (B, 1, d) and the patch outputs (B, p², d)."""
        if len(features) != self.depth:
            raise ValueError(f"features must hold {self.depth} layers, one for each pair of MLPs, got {len(features)}.")
        pairs = []
        for i, feature in enumerate(features):
            if feature.ndim != 3 or feature.shape[-1] != self.input_dim or feature.shape[1] < 2:
                raise ValueError(
                    f"features[{i}] must be (batch, 1 + patches, {self.input_dim}), got {tuple(feature.shape)}."
                )
            cls_token, patches = feature[:, :1], feature[:, 1:]  # (B, 1, D), (B, p², D)
            pairs.append((getattr(self, f"mapping_{i}")(cls_token), getattr(self, f"mapping_patch_{i}")(patches)))
        return pairs


class GlobalMapper(_PairedMapper):
    """Words of a subject from multi-layer CLIP features (Eq. 3): one word for each layer.

    Args:
        input_dim: width D of the CLIP image encoder.
        output_dim: width d of the text encoder's token embeddings.
        num_words: number N of feature layers, and so of words; the first is the primary word w0.
        hidden_dim: width of the MLPs.
        output_scale: constant factor on the words, for text encoders with another embedding scale than CLIP's.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        num_words: int = 5,
        hidden_dim: int = 1024,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__(input_dim, output_dim, num_words, hidden_dim, output_scale)
        self.num_words = num_words

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features to words.

        Args:
            features: N tensors (B, 1 + p², D), deepest layer first.

        Returns:
            words (B, N, d): of each layer, the MLP of CLS plus the average of the patch MLP over the patches.

        Raises:
            ValueError: when the number of layers or a shape does not fit.
        """
        words = [cls_out + patch_out.mean(dim=1, keepdim=True) for cls_out, patch_out in self._outputs(features)]
        return torch.cat(words, dim=1) * self.output_scale  # (B, N, d)


class LocalMapper(_PairedMapper):
    """Patch embeddings of a subject from multi-layer CLIP features of its masked picture (Eq. 5).

    Args:
        input_dim: width D of the CLIP image encoder.
        output_dim: width d of the text encoder's output.
        num_layers: number of feature layers, averaged.
        hidden_dim: width of the MLPs.
        output_scale: constant factor on the embeddings.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        num_layers: int = 5,
        hidden_dim: int = 1024,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__(input_dim, output_dim, num_layers, hidden_dim, output_scale)
        self.num_layers = num_layers

    def forward(self, features: Sequence[Tensor], mask: Tensor | None = None) -> Tensor:
        """Map features to patch embeddings.

        Args:
            features: tensors (B, 1 + p², D), one for each layer.
            mask: (B, p², 1) in [0, 1]; patches outside the object become zero vectors.

        Returns:
            patch embeddings (B, p², d): the mean over layers of patch MLP + CLS MLP, times the mask.

        Raises:
            ValueError: when the number of layers or a shape does not fit.
        """
        # The CLS output (B, 1, d) is added to every patch: each patch then knows what the whole picture shows.
        per_layer = [cls_out + patch_out for cls_out, patch_out in self._outputs(features)]
        embeddings = torch.stack(per_layer).mean(dim=0) * self.output_scale  # (B, p², d)
        if mask is None:
            return embeddings
        if mask.shape != (*embeddings.shape[:2], 1):
            raise ValueError(
                f"mask must be (batch, patches, 1) = {(*embeddings.shape[:2], 1)}, got {tuple(mask.shape)}; "
                "features.patch_mask makes it from a picture mask."
            )
        return embeddings * mask.to(embeddings.dtype)
