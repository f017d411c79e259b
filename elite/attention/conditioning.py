"""What one UNet batch is conditioned on beside its text: patch embeddings, the word's position, the fusion weight."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from elite._values import visible


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What one UNet batch is conditioned on, apart from its text.

    Attributes:
        patch_embeddings: e of Eq. 5, (B, p², d), or None for the global branch alone.
        word_index: position of the primary word in each text, (B,), long.
        fusion_weight: λ of Eq. 6: a number, or one for each sample (B,). 0 leaves the local branch out.
        reweighting: whether Eq. 8 scales the local attention by the primary word's map.
        batchwide_maximum: the authors' maximum over the batch instead of one for each sample.

    Raises:
        ValueError: for shapes that do not fit, or a word missing from a text that needs its map. On a device positions
            are not looked at: there a text without the word gets nothing of the local branch.
    """

    patch_embeddings: Tensor | None
    word_index: Tensor
    fusion_weight: float | Tensor = 1.0
    reweighting: bool = True
    batchwide_maximum: bool = False

    def __post_init__(self) -> None:
        if self.word_index.ndim != 1:
            raise ValueError(f"word_index must be (batch,), got {tuple(self.word_index.shape)}.")
        patches, weight, rows = self.patch_embeddings, self.fusion_weight, self.rows
        if patches is not None and (patches.ndim != 3 or patches.shape[0] != rows):
            raise ValueError(f"patch_embeddings must be ({rows}, patches, width), got {tuple(patches.shape)}.")
        if isinstance(weight, Tensor) and weight.shape != (rows,):
            raise ValueError(f"fusion_weight must be a number or ({rows},), got {tuple(weight.shape)}.")
        looks_at_word = self.has_local and self.reweighting
        if looks_at_word and visible(self.word_index) and min(self.word_index.tolist(), default=0) < 0:
            raise ValueError("word_index is -1 for a sample: reweighting needs the primary word in every text.")

    @property
    def rows(self) -> int:
        """Number of conditioned samples, B."""
        return self.word_index.shape[0]

    @cached_property
    def has_local(self) -> bool:
        """Whether the local branch is computed at all: patch embeddings are given and some fusion weight is not 0.

        Fusion weights on a device are not looked at: there the branch is computed.
        """
        if self.patch_embeddings is None:
            return False
        if not isinstance(self.fusion_weight, Tensor):
            return self.fusion_weight != 0
        return not visible(self.fusion_weight) or any(self.fusion_weight.tolist())
