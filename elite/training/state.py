"""What a training step changes (weights, AdamW's moments, an average, a scaler), as tensors and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from elite.adapter import EliteAdapter
from elite.training.run_folder import Checkpoint, CheckpointError

if TYPE_CHECKING:
    from accelerate.optimizer import AcceleratedOptimizer


class TrainedState:
    """What a step changes: a checkpoint keeps it, and `restore` takes it up again.

    Args:
        weights: what is trained, by its names in the adapter's ``state_dict``.
        optimizer: AdamW on these weights.
        scaler: of gradients in fp16.
        ema_decay: of the averaged weights; 0 keeps none.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        optimizer: AcceleratedOptimizer,
        scaler: torch.amp.GradScaler | None,
        ema_decay: float,
    ) -> None:
        from diffusers.training_utils import EMAModel

        self.weights, self.optimizer, self.scaler = weights, optimizer, scaler
        self.average = EMAModel(weights.values(), decay=ema_decay) if ema_decay else None

    def step(self) -> None:
        """Take a step along the gradients, and let the average follow."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.step(self.weights.values())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the weights are their average."""
        if self.average is None:
            yield
            return
        self.average.store(self.weights.values())
        self.average.copy_to(self.weights.values())
        try:
            yield
        finally:
            self.average.restore(self.weights.values())

    def keep_average(self) -> None:
        """Let the weights be their average from now on."""
        if self.average is not None:
            self.average.copy_to(self.weights.values())

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the weights ("weights.NAME"), and AdamW's moments ("NAME.exp_avg", "NAME.exp_avg_sq")."""
        weights = {f"weights.{name}": value.detach().clone() for name, value in self.weights.items()}
        return weights | optimizer_tensors(self.optimizer.optimizer, self.weights)

    def extra(self) -> dict[str, Any]:
        """The scaler's numbers."""
        return {"scaler": self.scaler.state_dict() if self.scaler is not None else None}

    @torch.no_grad()
    def restore(self, found: Checkpoint, adapter: EliteAdapter) -> None:
        """Go on from a checkpoint; what the stage does not train gets the checkpoint's values as well.

        Raises:
            CheckpointError: when it is of another stage or model.
        """
        averaged = found.adapter.state_dict()
        for name, parameter in adapter.named_parameters():
            parameter.copy_(found.tensors[f"weights.{name}"] if name in self.weights else averaged[name])
        restore_optimizer(self.optimizer.optimizer, self.weights, found.tensors)
        if self.average is not None:
            self.average.shadow_params = [averaged[name].to(value).clone() for name, value in self.weights.items()]
            self.average.optimization_step = found.step
        if self.scaler is not None and found.extra["scaler"] is not None:
            self.scaler.load_state_dict(found.extra["scaler"])


def optimizer_tensors(optimizer: torch.optim.Optimizer, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AdamW's moments by the names of the weights they belong to."""
    names = {id(parameter): name for name, parameter in trained.items()}
    return {
        f"{names[id(parameter)]}.{key}": value.reshape(-1) if value.ndim == 0 else value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, trained: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Put the moments of `optimizer_tensors` back; there are none while a scaler has skipped every step.

    Raises:
        CheckpointError: when one is missing.
    """
    if not any(name.endswith(".exp_avg") for name in tensors):
        return
    for name, parameter in trained.items():
        try:
            optimizer.state[parameter] = {
                "step": tensors[f"{name}.step"].reshape(()).clone(),
                **{key: tensors[f"{name}.{key}"].to(parameter).clone() for key in ("exp_avg", "exp_avg_sq")},
            }
        except KeyError as error:
            raise CheckpointError(f"the checkpoint lacks {error}: it is of another stage or another model.") from error
