"""What a computation asks of its device, counted: a measure of speed where launching is the cost, on any machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from elite.attention import Conditioning, condition, install_processors, remove_processors, restore_processors

# What the CPU has to wait for: a value is fetched, or a result's size depends on values.
_FETCHING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "repeat_interleave.Tensor", "equal")
# No work for the device: another view of the same memory, or memory alone.
_FREE = ("empty", "lift_fresh", "detach", "alias", "_unsafe_view", "unbind", "split", "chunk")


class Operations(TorchDispatchMode):
    """Within this context every operation is counted as the device is asked for it; views cost nothing.

    Attributes:
        work: how often each operation was asked for, by name.
        waits: those among them after which the CPU has to wait for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func).removeprefix("aten.")
        if not (name.startswith(_FREE) or _is_view(func)):
            self.work[name] += 1
        # lift_fresh: a tensor is made of Python numbers. With a device they travel there, and the CPU sees to it.
        if name.startswith((*_FETCHING, "lift_fresh")) or _selects_by_values(name, args):
            self.waits[name] += 1
        return result


def count(run: Callable[[], object]) -> Operations:
    """The operations of one call of ``run``, after one that is not counted."""
    run()
    with Operations() as operations:
        run()
    return operations


def _is_view(func: Any) -> bool:
    """Whether an operation returns a part of its input's memory, unchanged."""
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _selects_by_values(name: str, args: tuple) -> bool:
    if not name.startswith(("index.", "index_put", "_index_put")):
        return False
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])


def over_plain(unet: nn.Module, tokens: int = 77, patches: int = 256) -> float:
    """Operations of one guided UNet call with a concept over those of the base model's: a machine-independent cost.

    Args:
        unet: with ELITE's processors; random inputs do, the count does not depend on values.
        tokens: L, text positions.
        patches: p².
    """
    config = unet.config
    width = config.cross_attention_dim
    latents = torch.zeros(2, config.in_channels, config.sample_size, config.sample_size)
    text, timestep = torch.zeros(2, tokens, width), torch.tensor(10)
    asked = Conditioning(torch.zeros(1, patches, width), torch.tensor([5]), fusion_weight=0.6)

    @torch.no_grad()
    def step() -> None:
        unet(latents, timestep, encoder_hidden_states=text)

    removed = remove_processors(unet)
    plain = count(step).work.total()
    restore_processors(unet, removed)
    with condition(unet, asked, guided=True):
        return count(step).work.total() / plain


def sd_layers() -> UNet2DConditionModel:
    """The layers of Stable Diffusion v1-4's UNet at an eighth of their width, random, with ELITE's processors."""
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(40, 80, 160, 160),
        layers_per_block=2,
        attention_head_dim=8,  # the number of heads, under its old name
        cross_attention_dim=96,
        norm_num_groups=8,
    )
    install_processors(unet)
    return unet.eval().requires_grad_(False)
