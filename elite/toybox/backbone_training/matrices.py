"""Muon for the weight matrices of a part, AdamW for the rest.

Muon steps along the orthogonal part of the momentum, so that every direction of a matrix learns at the same pace; on
the toybox's transformers it needs fewer steps than AdamW alone. It is for hidden layers: first layers, heads and tables
of embeddings learn faster with AdamW. PyTorch's implementation takes matrices only: the kernel of a convolution is
handed to it as the matrix (outputs, inputs × height × width) that it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NARROWEST = 16  # a matrix with a shorter side has too few directions to even out


def as_matrix(weight: Tensor) -> Tensor:
    """A view of a weight as (outputs, everything else), whichever way its memory lies."""
    if weight.ndim == 4 and not weight.is_contiguous():  # channels last
        weight = weight.permute(0, 2, 3, 1)
    return weight.view(len(weight), -1)


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """The trained weights of a module that are matrices of some width; tables of embeddings are no matrices."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return [
        weight
        for weight in module.parameters()
        if weight.requires_grad
        and weight.ndim in (2, 4)
        and min(len(weight), weight[0].numel()) >= NARROWEST
        and id(weight) not in tables
    ]


class Matrices:
    """`torch.optim.Muon` on views of ``parameters``, at steps of the size that AdamW's would have.

    Args:
        parameters: weights of two or four dimensions.
        learning_rate: as for AdamW.
        weight_decay: as for AdamW.
    """

    def __init__(self, parameters: list[nn.Parameter], learning_rate: float, weight_decay: float) -> None:
        self.parameters = parameters
        self.views = [nn.Parameter(as_matrix(parameter.detach())) for parameter in parameters]
        self.optimizer = torch.optim.Muon(
            self.views, lr=learning_rate, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        )

    def step(self) -> None:
        """One step from the parameters' gradients."""
        for parameter, view in zip(self.parameters, self.views, strict=True):
            # A gradient may lie in memory differently from its weight.
            gradient = parameter.grad
            if gradient is not None and gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            view.grad = None if gradient is None else as_matrix(gradient)
        self.optimizer.step()
