"""Muon for the weight matrices of a part, AdamW for the rest.

Muon steps along the orthogonal part of the momentum, so that every direction of a matrix learns at the same pace; on
the toybox's transformers it needs fewer steps than AdamW alone. It is for hidden layers: first layers, heads and tables
of embeddings learn faster with AdamW. The kernel of a convolution counts as the matrix (outputs, inputs × height ×
width) that it is. `torch.optim.Muon` takes one matrix at a time and reads its rate on the host: neither can be part of
a CUDA graph, so the matrices of one shape are stacked here, and the rate is a tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NARROWEST = 16  # a matrix with a shorter side has too few directions to even out
MOMENTUM = 0.95


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


class Muon:
    """Orthogonalised momentum on many matrices at once, at steps of the size that AdamW's would have.

    Args:
        parameters: weights of two or four dimensions.
        weight_decay: as for AdamW.
    """

    def __init__(self, parameters: list[nn.Parameter], weight_decay: float) -> None:
        self.groups: dict[tuple[int, int], list[nn.Parameter]] = {}
        for parameter in parameters:
            self.groups.setdefault((len(parameter), parameter[0].numel()), []).append(parameter)
        self.momenta = {
            f"{rows}x{columns}": torch.zeros(len(group), rows, columns, device=group[0].device)
            for (rows, columns), group in self.groups.items()
        }
        self.weight_decay = weight_decay

    @torch.no_grad()
    def step(self, rate: Tensor) -> None:
        """One step from the parameters' gradients; ``rate`` is a scalar on their device."""
        for (rows, columns), parameters in self.groups.items():
            gradient = torch.stack([parameter.grad.reshape(rows, columns) for parameter in parameters])
            momentum = self.momenta[f"{rows}x{columns}"]
            momentum.lerp_(gradient, 1 - MOMENTUM)
            size = 0.2 * max(rows, columns) ** 0.5  # of an AdamW step
            update = orthogonal(gradient.lerp(momentum, MOMENTUM)) * (rate * size)
            torch._foreach_mul_(parameters, 1 - rate * self.weight_decay)
            torch._foreach_sub_(
                parameters, [part.view_as(p) for part, p in zip(update.unbind(), parameters, strict=True)]
            )


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices with orthogonal rows or columns, roughly, by five Newton-Schulz steps.

    Args:
        matrices: (N, rows, columns).

    Returns:
        Same shape; singular values between 0.7 and 1.2.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.mT if tall else x).to(matrices.dtype)
