"""Teaches the noise predictor to look at a subject through its noun: cross attention maps with the mask as target.

Stable Diffusion's maps show where a word's thing is; ELITE's reweighting (Eq. 8) stands on that. A small model on few
pictures does not get there by itself: at 16 x 16 it reads the scene and leaves the noun unread.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F

SHARE = 0.5  # of the attention that the noun should get on its subject: the rest is left to the other words


class WatchedAttnProcessor:
    """Explicit attention that keeps its scores: what diffusers' ``AttnProcessor`` computes for the UNet's layers."""

    def __init__(self) -> None:
        self.scores: Tensor | None = None  # (B, h, Q, L), before the softmax

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Cross attention of ``hidden_states`` (B, Q, C) to ``encoder_hidden_states`` (B, L, d): (B, Q, C)."""
        query = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, h, Q, c)
        key, value = (
            project(encoder_hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, h, L, c)
            for project in (attn.to_k, attn.to_v)
        )
        self.scores = query @ key.transpose(-1, -2) * attn.scale
        out = (self.scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)  # (B, Q, inner)
        return attn.to_out[1](attn.to_out[0](out))


def watch(unet: UNet2DConditionModel) -> list[WatchedAttnProcessor]:
    """Give every cross attention layer a watched processor; returns them."""
    fused = unet.attn_processors
    explicit = next(unet.parameters()).device.type == "cpu"  # the fused backward pass is slow there in bfloat16
    unet.set_attn_processor(
        {
            name: WatchedAttnProcessor() if ".attn2." in name else AttnProcessor() if explicit else processor
            for name, processor in fused.items()
        }
    )
    return [processor for processor in unet.attn_processors.values() if isinstance(processor, WatchedAttnProcessor)]


def looking_loss(scores: Tensor, nouns: Tensor, masks: Tensor) -> Tensor:
    """Cross entropy between the attention a noun gets and `SHARE` of its subject's mask.

    Args:
        scores: of one layer before the softmax, (B, h, Q, L), Q a square number.
        nouns: position of the noun in each text, (B,), -1 where there is none; such samples do not count.
        masks: share of each cell that the subject covers, (B, S, S) in [0, 1], S a multiple of the layer's side.

    Returns:
        A scalar: the mean over heads and positions of the samples that count; 0 when none does.
    """
    told = nouns >= 0
    side = int(scores.shape[2] ** 0.5)
    target = SHARE * F.adaptive_avg_pool2d(masks[:, None], side).flatten(1)  # (B, Q)
    where = nouns.clamp(min=0).view(-1, 1, 1, 1).expand(*scores.shape[:3], 1)
    scores = scores.float()
    own = scores.gather(-1, where).squeeze(-1)  # (B, h, Q)
    others = scores.scatter(-1, where, float("-inf")).logsumexp(dim=-1)
    # The softmax of one against all others is the sigmoid of this difference.
    each = F.binary_cross_entropy_with_logits(own - others, target[:, None].expand_as(own), reduction="none")
    # All samples are computed and the untold ones left out: a shape that depends on values would wait for the device.
    return (each.mean((1, 2)) * told).sum() / told.sum().clamp(min=1)
