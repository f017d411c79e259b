"""The authors' procedure around a UNet, written down from its description: a second opinion for whole predictions.

Nothing of `elite` is used. Weights are the flat dictionaries of ``global_mapper.pt`` and ``local_mapper.pt``; the map
of the primary word is divided by its maximum over the whole batch; guidance takes two passes; attention is an explicit
softmax, in self attention too.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy import integrate
from torch import Tensor, nn
from torch.nn import functional as F


def leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of a checkpoint's tensors that take gradients."""
    return {name: tensor.detach().clone().contiguous().requires_grad_() for name, tensor in tensors.items()}


def mlp(weights: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    for linear, norm in (("0", "1"), ("3", "4")):
        x = F.linear(x, weights[f"{prefix}.{linear}.weight"], weights[f"{prefix}.{linear}.bias"])
        x = F.layer_norm(x, x.shape[-1:], weights[f"{prefix}.{norm}.weight"], weights[f"{prefix}.{norm}.bias"])
        x = F.leaky_relu(x)
    return F.linear(x, weights[f"{prefix}.6.weight"], weights[f"{prefix}.6.bias"])


def words_of(weights: dict[str, Tensor], states: list[Tensor]) -> Tensor:
    pairs = [(mlp(weights, f"mapping_{i}", s[:, :1]), mlp(weights, f"mapping_patch_{i}", s[:, 1:]))
             for i, s in enumerate(states)]  # fmt: skip
    return torch.cat([cls + patches.mean(dim=1, keepdim=True) for cls, patches in pairs], dim=1)


def patches_of(weights: dict[str, Tensor], states: list[Tensor], mask: Tensor) -> Tensor:
    layers = [mlp(weights, f"mapping_{i}", s[:, :1]) + mlp(weights, f"mapping_patch_{i}", s[:, 1:])
              for i, s in enumerate(states)]  # fmt: skip
    return sum(layers) / len(layers) * mask


def text_of(text_encoder: nn.Module, ids: Tensor, words: Tensor, index: Tensor) -> Tensor:
    table = text_encoder.get_input_embeddings()
    rows = [torch.cat([table.weight[row[:i]], own, table.weight[row[i + 1 :]]])[: len(row)]
            for row, own, i in zip(ids, words, index.tolist(), strict=True)]  # fmt: skip
    handle = table.register_forward_hook(lambda *_: torch.stack(rows))
    hidden = text_encoder(ids)[0]
    handle.remove()
    return hidden


class Unet:
    """A copy of a UNet with the authors' attention; ``values`` are V^l of the last conditional call."""

    def __init__(self, unet: nn.Module, first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
        self.unet, self.first, self.second = copy.deepcopy(unet), first, second
        self.local, self.index, self.weight, self.values = None, None, 1.0, []
        names = self.unet.attn_processors
        self.unet.set_attn_processor({name: self._processor(name) for name in names})

    def __call__(self, latents, t, text, local=None, index=None, weight=1.0) -> Tensor:
        self.local, self.index, self.weight, self.values = local, index, weight, []
        return self.unet(latents, t, encoder_hidden_states=text).sample

    def _processor(self, name: str):
        key = name.removesuffix(".processor").replace(".", "_")

        def of_self(attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
            query, keys, values = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
            return attn.to_out[0](merge(softmax(query, keys, attn.heads) @ split(values, attn.heads), attn.heads))

        def cross(attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
            heads, query = attn.heads, attn.to_q(hidden_states)
            keys = encoder_hidden_states @ self.first[f"{key}_to_k.weight"].T
            values = encoder_hidden_states @ self.first[f"{key}_to_v.weight"].T
            probs = softmax(query, keys, heads)  # (B·h, Q, L), row b·heads + h
            out = merge(probs @ split(values, heads), heads)
            if self.local is not None:
                own = self.local @ self.second[f"{key}_to_v.weight"].T
                self.values.append(own)
                at = self.index.repeat_interleave(heads)
                column = probs[torch.arange(len(probs)), :, at].unsqueeze(-1)
                local = softmax(query, self.local @ self.second[f"{key}_to_k.weight"].T, heads)
                out = out + self.weight * merge(local * (column / column.max()) @ split(own, heads), heads)
            return attn.to_out[0](out)

        return cross if "attn2" in name else of_self


def split(x: Tensor, heads: int) -> Tensor:
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).permute(0, 2, 1, 3).reshape(batch * heads, length, -1)


def merge(x: Tensor, heads: int) -> Tensor:
    rows, length, width = x.shape
    return x.reshape(rows // heads, heads, length, width).permute(0, 2, 1, 3).reshape(rows // heads, length, -1)


def softmax(query: Tensor, keys: Tensor, heads: int) -> Tensor:
    query, keys = split(query, heads), split(keys, heads)
    return (query @ keys.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(dim=-1)


@torch.no_grad()
def sample_lms(unet: Unet, noise, text, negative, local, index, weight, steps, guidance) -> Tensor:
    """diffusers 0.11's LMS: timesteps evenly from 999 to 0 and never rounded, order 4, coefficients by quadrature."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = torch.cumprod(1 - betas, dim=0).numpy()
    timesteps = np.linspace(0, 999, steps)[::-1].copy()
    sigmas = np.append(np.interp(timesteps, np.arange(1000), ((1 - kept) / kept) ** 0.5), 0).astype(np.float32)
    latents, slopes = noise * float(sigmas.max()), []
    for i, t in enumerate(timesteps):
        model_input = latents / float((sigmas[i] ** 2 + 1) ** 0.5)
        without = unet(model_input, torch.tensor(t), negative)
        slopes.insert(
            0, without + guidance * (unet(model_input, torch.tensor(t), text, local, index, weight) - without)
        )
        nodes = [sigmas[i - k] for k in range(min(i + 1, 4))]
        for j, (node, slope) in enumerate(zip(nodes, slopes, strict=False)):
            others = nodes[:j] + nodes[j + 1 :]
            basis = lambda tau, n=node, o=others: np.prod([(tau - x) / (n - x) for x in o])  # noqa: E731
            latents = latents + integrate.quad(basis, sigmas[i], sigmas[i + 1], epsrel=1e-4)[0] * slope
    return latents
