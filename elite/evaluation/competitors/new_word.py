"""Training one row of a text encoder's token embeddings, and nothing else of it, with PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import CLIPTextModel


class NewWord:
    """A text encoder with one more word, the only one that learns.

    Args:
        text_encoder: a copy to change, all its weights frozen.
        start: what the word begins as, (d,).
    """

    def __init__(self, text_encoder: CLIPTextModel, start: Tensor) -> None:
        try:
            from peft import TrainableTokensConfig, get_peft_model
        except ImportError as error:
            raise ImportError("competitors train with PEFT: pip install 'peft>=0.15'.") from error

        table = text_encoder.get_input_embeddings()
        self.token = table.num_embeddings
        text_encoder.resize_token_embeddings(self.token + 1, mean_resizing=False)
        with torch.no_grad():
            text_encoder.get_input_embeddings().weight[self.token] = start
        text_encoder.requires_grad_(False)
        config = TrainableTokensConfig(token_indices=[self.token], target_modules=["token_embedding"])
        self._model: Any = get_peft_model(text_encoder, config)
        found = [p for p in self._model.parameters() if p.requires_grad]
        if len(found) != 1 or found[0].numel() != start.numel():
            raise RuntimeError(f"PEFT trains {sum(p.numel() for p in found)} numbers in place of {start.numel()}.")
        self.parameter: nn.Parameter = found[0]

    def encode(self, input_ids: Tensor) -> Tensor:
        """Text features (B, L, d) of ids (B, L), the new word's id among them, with gradient to the word."""
        return self._model(input_ids=input_ids)[0]

    def embedding(self) -> Tensor:
        """The word as it is now, (d,)."""
        return self.parameter.detach().flatten().clone()
