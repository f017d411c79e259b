"""The authors' procedure, for comparison: explicit softmax, two passes a step, local projections at every step."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from diffusers import LMSDiscreteScheduler
from torch import Tensor, nn

from elite.attention import EliteAttnProcessor
from elite.pipeline import ElitePipeline
from elite.sampling import SCHEDULE


@dataclass
class State:
    """What one UNet pass is conditioned on."""

    patches: Tensor | None = None
    index: Tensor | None = None
    weight: float = 1.0


def _split(tensor: Tensor, heads: int) -> Tensor:
    batch, length, width = tensor.shape
    return tensor.view(batch, length, heads, width // heads).transpose(1, 2).reshape(batch * heads, length, -1)


def _merge(tensor: Tensor, heads: int) -> Tensor:
    rows, length, width = tensor.shape
    return tensor.view(rows // heads, heads, length, width).transpose(1, 2).reshape(rows // heads, length, -1)


def _softmax(query: Tensor, key: Tensor) -> Tensor:
    return (torch.matmul(query, key.transpose(-1, -2)) * query.shape[-1] ** -0.5).softmax(dim=-1)


class NaiveSelfAttention:
    """attn1 by an explicit softmax."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        query, key, value = (_split(p(hidden_states), attn.heads) for p in (attn.to_q, attn.to_k, attn.to_v))
        out = _merge(_softmax(query, key) @ value, attn.heads)
        return attn.to_out[1](attn.to_out[0](out))


class NaiveCrossAttention(nn.Module):
    """attn2 with both branches by explicit softmaxes; the maximum is taken over the whole batch."""

    def __init__(self, ours: EliteAttnProcessor, state: State) -> None:
        super().__init__()
        self.ours, self.state = ours, state

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        query = _split(attn.to_q(hidden_states), attn.heads)
        key = _split(self.ours.to_k_global(encoder_hidden_states), attn.heads)
        value = _split(self.ours.to_v_global(encoder_hidden_states), attn.heads)
        probs = _softmax(query, key)
        out = _merge(probs @ value, attn.heads)
        if self.state.patches is not None:
            local_key = _split(self.ours.to_k_local(self.state.patches), attn.heads)
            local_value = _split(self.ours.to_v_local(self.state.patches), attn.heads)
            column = torch.cat([
                probs[row * attn.heads : (row + 1) * attn.heads, :, index]
                for row, index in enumerate(self.state.index)
            ])  # fmt: skip
            local = _softmax(query, local_key) * (column / column.max()).unsqueeze(-1)
            out = out + self.state.weight * _merge(local @ local_value, attn.heads)
        return attn.to_out[1](attn.to_out[0](out))


def naive_unet(pipe: ElitePipeline) -> tuple[nn.Module, State]:
    """A copy of the UNet with naive processors that use the adapter's weights."""
    state = State()
    pipe.adapter.detach()
    unet = copy.deepcopy(pipe.unet)
    pipe.adapter.attach(pipe.unet)
    processors = {
        name: NaiveCrossAttention(pipe.unet.attn_processors[name], state) if "attn2" in name else NaiveSelfAttention()
        for name in unet.attn_processors
    }
    unet.set_attn_processor(processors)
    return unet, state


@torch.no_grad()
def sample(
    unet: nn.Module,
    state: State,
    latents: Tensor,
    text: Tensor,
    negative: Tensor,
    patches: Tensor,
    index: Tensor,
    weight: float,
    steps: int,
    guidance_scale: float,
) -> Tensor:
    """LMS sampling with two UNet passes a step; see `elite.sampling.sample_lms` for the arguments."""
    scheduler = LMSDiscreteScheduler(**SCHEDULE)
    scheduler.set_timesteps(steps)
    latents = latents * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        model_input = scheduler.scale_model_input(latents, t)
        state.patches = None
        unconditional = unet(model_input, t, encoder_hidden_states=negative).sample
        state.patches, state.index, state.weight = patches, index, weight
        conditional = unet(model_input, t, encoder_hidden_states=text).sample
        noise = unconditional + guidance_scale * (conditional - unconditional)
        latents = scheduler.step(noise, t, latents).prev_sample
    return latents
