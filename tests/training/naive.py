"""The training step of both stages written down plainly from the equations: a second opinion for the real one.

Nothing of `elite` is used: mappers from their weights, words put in row by row, attention by softmax, one sample and
one head at a time.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def base_models(pipe):
    """Copies of the UNet and text encoder that ELITE is not attached to."""
    pipe.adapter.detach()
    unet = copy.deepcopy(pipe.unet)
    pipe.adapter.attach(pipe.unet)
    return unet, copy.deepcopy(pipe.text_encoder)


def leaves(adapter) -> dict[str, Tensor]:
    """All weights of the adapter, by name, as tensors of their own that take gradients."""
    return {name: value.detach().clone().requires_grad_() for name, value in adapter.state_dict().items()}


def mlp(weights: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    for linear, norm in (("0", "1"), ("3", "4")):
        x = F.linear(x, weights[f"{prefix}.{linear}.weight"], weights[f"{prefix}.{linear}.bias"])
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        x = (x - mean) / (variance + 1e-5).sqrt()
        x = x * weights[f"{prefix}.{norm}.weight"] + weights[f"{prefix}.{norm}.bias"]
        x = torch.where(x > 0, x, 0.01 * x)
    return F.linear(x, weights[f"{prefix}.6.weight"], weights[f"{prefix}.6.bias"])


def words_of(weights: dict[str, Tensor], features: list[Tensor]) -> Tensor:
    """Eq. 3: (B, N, d)."""
    words = []
    for i, feature in enumerate(features):
        of_cls = mlp(weights, f"global_mapper.mapping_{i}", feature[:, 0])
        of_patches = mlp(weights, f"global_mapper.mapping_patch_{i}", feature[:, 1:]).mean(dim=1)
        words.append(of_cls + of_patches)
    return torch.stack(words, dim=1)


def patches_of(weights: dict[str, Tensor], features: list[Tensor], mask: Tensor) -> Tensor:
    """Eq. 5 with the mask (B, 1, S, S) brought to the grid by taking one pixel a patch: (B, p², d)."""
    total = 0
    for i, feature in enumerate(features):
        of_cls = mlp(weights, f"local_mapper.mapping_{i}", feature[:, :1])
        total = total + of_cls + mlp(weights, f"local_mapper.mapping_patch_{i}", feature[:, 1:])
    grid = round((feature.shape[1] - 1) ** 0.5)
    cell = mask.shape[-1] // grid
    small = mask[:, 0, ::cell, ::cell].reshape(len(mask), grid * grid, 1)
    return total / len(features) * small


def text_of(tokenizer, text_encoder, prompts: list[str], words: Tensor) -> tuple[Tensor, list[int]]:
    """Text features (B, L, d) with the words in place of "S*", and where the first of them is."""
    length, count = tokenizer.model_max_length, words.shape[1]
    ids = tokenizer([p.replace("S*", "S") for p in prompts], padding="max_length", return_tensors="pt").input_ids
    table = text_encoder.get_input_embeddings().weight
    rows, index = [], []
    for i, prompt in enumerate(prompts):
        at = 1 + len(tokenizer(prompt.split("S*")[0], add_special_tokens=False).input_ids)
        embedded = table[ids[i]]
        rows.append(torch.cat([embedded[:at], words[i], embedded[at + 1 :]])[:length])
        index.append(at)
        assert count + at < length
    embedder = text_encoder.get_input_embeddings()
    handle = embedder.register_forward_hook(lambda *_: torch.stack(rows))
    hidden = text_encoder(ids)[0]
    handle.remove()
    return hidden, index


class PlainAttention(nn.Module):
    """Eq. 2, 6 and 8 for one cross attention layer; with ``patches`` None only its global half."""

    def __init__(self, weights: dict[str, Tensor], key: str, patches: Tensor | None, index: list[int]) -> None:
        super().__init__()
        self.w = {short: weights[f"processors.{key}.to_{short}.weight"] for short in
                  ("k_global", "v_global", "k_local", "v_local")}  # fmt: skip
        self.patches, self.index = patches, index
        self.local_value = None

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        query = attn.to_q(hidden_states)
        key, value = encoder_hidden_states @ self.w["k_global"].T, encoder_hidden_states @ self.w["v_global"].T
        if self.patches is not None:
            key_local, value_local = self.patches @ self.w["k_local"].T, self.patches @ self.w["v_local"].T
            self.local_value = value_local
        width = query.shape[-1] // attn.heads
        outputs = []
        for b in range(len(query)):
            parts = [slice(h * width, (h + 1) * width) for h in range(attn.heads)]
            maps = [(query[b, :, c] @ key[b, :, c].T / width**0.5).softmax(-1) for c in parts]
            out = [probs @ value[b, :, c] for probs, c in zip(maps, parts, strict=True)]
            if self.patches is not None:
                peak = torch.stack([probs[:, self.index[b]] for probs in maps]).max()
                for h, c in enumerate(parts):
                    local = (query[b, :, c] @ key_local[b, :, c].T / width**0.5).softmax(-1)
                    local = local * (maps[h][:, self.index[b]] / peak)[:, None]
                    out[h] = out[h] + 1.0 * local @ value_local[b, :, c]
            outputs.append(torch.cat(out, dim=-1))
        return attn.to_out[0](torch.stack(outputs))


def predict(unet, weights, noisy, timesteps, text, patches, index) -> tuple[Tensor, list[Tensor]]:
    """The UNet's prediction, and V^l of every layer."""
    processors = dict(unet.attn_processors)
    for name in processors:
        if "attn2" in name:
            key = name.removesuffix(".processor").replace(".", "_")
            processors[name] = PlainAttention(weights, key, patches, index)
    unet.set_attn_processor(dict(processors))
    prediction = unet(noisy, timesteps, encoder_hidden_states=text).sample
    return prediction, [p.local_value for p in processors.values() if isinstance(p, PlainAttention)]


def noisy_latents(vae, pixel_values, noise, timesteps, posterior_noise) -> Tensor:
    """z_t of Eq. 1 for Stable Diffusion's schedule: 1000 steps, the root of β linear from √0.00085 to √0.012."""
    with torch.no_grad():
        mean, log_variance = vae.quant_conv(vae.encoder(pixel_values)).chunk(2, dim=1)
    latents = vae.config.scaling_factor * (mean + (0.5 * log_variance).exp() * posterior_noise)
    root = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    kept = (1 - root**2).cumprod(0)[timesteps].view(-1, 1, 1, 1).float()
    return kept.sqrt() * latents + (1 - kept).sqrt() * noise


def features_of(image_encoder, pixels: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
    with torch.no_grad():
        states = image_encoder(pixels, output_hidden_states=True).hidden_states
    return [states[layer] for layer in layers]


def step(pipe, stage, weights, batch, noise, timesteps, posterior_noise) -> Tensor:
    """The loss of Eq. 4 or 7; ``weights`` from `leaves`."""
    unet, text_encoder = base_models(pipe)
    noisy = noisy_latents(pipe.vae, batch["pixel_values"], noise, timesteps, posterior_noise)
    layers = pipe.adapter.config.layers
    words = words_of(weights, features_of(pipe.image_encoder, batch["pixel_values_clip"], layers))
    if stage == "global":
        text, index = text_of(pipe.tokenizer, text_encoder, batch["prompt"], words)
        prediction, _ = predict(unet, weights, noisy, timesteps, text, None, index)
        return ((prediction - noise) ** 2).mean() + 0.01 * words.abs().mean()
    text, index = text_of(pipe.tokenizer, text_encoder, batch["prompt"], words[:, :1].detach())
    features = features_of(pipe.image_encoder, batch["pixel_values_object"], layers)
    patches = patches_of(weights, features, batch["mask"])
    prediction, values = predict(unet, weights, noisy, timesteps, text, patches, index)
    per_sample = []
    for b, mask in enumerate(batch["loss_mask"]):
        per_sample.append((mask * (prediction[b] - noise[b]) ** 2).sum() / mask.sum())
    return torch.stack(per_sample).mean() + 1e-4 * sum(v.abs().mean() for v in values) / len(values)
