"""The exercises' checks: stubs fail, planted mistakes fail with the message that explains them, solutions pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from elite.attention import reweight as package_reweight
from elite.features import patch_mask as package_patch_mask
from elite.losses import global_loss, local_loss
from elite.teaching import exercises


def attend(q, k, v, scale=None, dim=-1):
    return torch.softmax(q @ k.transpose(1, 2) * (q.shape[-1] ** -0.5 if scale is None else scale), dim=dim) @ v


def wide(alpha_bar):
    return alpha_bar.view(-1, 1, 1, 1)


def schedule(first, last, steps):
    roots = torch.tensor([first**0.5 + i * (last**0.5 - first**0.5) / (steps - 1) for i in range(steps)])
    return (1 - roots**2).double().log().cumsum(0).exp()


def word(cls_network, patch_network, features):
    patches = [patch_network(features[:, i]) for i in range(1, features.shape[1])]
    return cls_network(features[:, 0]) + sum(patches) / len(patches)


def patch_embeddings(cls_network, patch_network, features, mask):
    out = torch.zeros(features.shape[0], features.shape[1] - 1, 3)
    for b in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[b, i] = (cls_network(features[b, 0]) + patch_network(features[b, i + 1])) * mask[b, i]
    return out


def distance(scale, size):
    return "far" if scale / size < 0.6 else "near" if scale > size else "plain"


def draws(rows, step, seed, shape):
    streams = [np.random.Generator(np.random.Philox(np.random.SeedSequence([row, seed, step]))) for row in rows]
    return torch.stack([torch.from_numpy(stream.standard_normal(tuple(shape))) for stream in streams])


def one_stream(numbers, shape):
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(numbers))


SOLUTIONS: dict[str, Callable] = {
    "attention": lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v),
    "guidance": lambda u, c, s: (1 - s) * u + s * c,
    "add_noise": lambda z, e, a: wide(a) ** 0.5 * z + (1 - wide(a)) ** 0.5 * e,
    "noise_schedule": schedule,
    "predict_latents": lambda n, e, a: n / wide(a) ** 0.5 - ((1 - wide(a)) / wide(a)) ** 0.5 * e,
    "word": word,
    "words": lambda words: torch.cat([w[:, None] for w in words], dim=1),
    "layers": lambda states, layers: [states[i] for i in layers],
    "global_loss": global_loss,
    "patch_embeddings": patch_embeddings,
    "patch_mask": lambda mask, p: package_patch_mask(mask[:, None], p, mode="area"),
    "fusion": lambda q, kg, vg, kl, vl, w: attend(q, kg, vg) + w * attend(q, kl, vl),
    "reweight": package_reweight,
    "local_loss": local_loss,
    "distance": distance,
    "draws": draws,
    "learning_rate": lambda base, batch, accumulation, processes: base * batch * accumulation * processes,
}

# (check, the mistake as a reader would make it, words of the message that explains it)
MISTAKES: list[tuple[str, Callable, str]] = [
    ("attention", lambda q, k, v: attend(q, k, v, dim=1), "runs over the queries"),
    ("attention", lambda q, k, v: attend(q, k, v, scale=1), "1/√d′ is missing"),
    ("attention", lambda q, k, v: attend(q, k, v, scale=1 / q.shape[-1]), "divided by d′"),
    ("attention", lambda q, k, v: attend(q, k, v, scale=q.shape[-1] ** 0.5), "multiplied by √d′"),
    ("attention", lambda q, k, v: attend(q, k, v, scale=k.shape[1] ** -0.5), "number of words"),
    ("attention", lambda q, k, v: q @ k.mT / q.shape[-1] ** 0.5 @ v, "softmax is missing"),
    ("attention", lambda q, k, v: torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1), "multiply them by the values"),
    ("attention", lambda q, k, v: attend(q, k, v)[:, :2], "has shape (2, 2, 8); it should be (2, 4, 8)"),
    ("attention", lambda q, k, v: q @ v, "stopped with RuntimeError"),
    ("attention", lambda q, k, v: attend(q, k, v) + 1, "the shape is right, the values are not"),
    ("attention", lambda q, k, v: attend(q.mul_(1.0).add_(0), k, v.mul_(2)) / 2, "in place"),
    ("attention", lambda q, k, v: attend(q, k, v) / 0, "not finite"),
    ("attention", lambda q, k, v: "softmax", "returns a str"),
    ("guidance", lambda u, c, s: s * (c - u), "not added back"),
    ("guidance", lambda u, c, s: c + s * (u - c), "swapped"),
    ("guidance", lambda u, c, s: c + s * (c - u), "starts at the prediction with text"),
    ("guidance", lambda u, c, s: c, "scale is not used"),
    ("add_noise", lambda z, e, a: wide(a) * z + (1 - wide(a)) * e, "roots are missing"),
    ("add_noise", lambda z, e, a: (1 - wide(a)) ** 0.5 * z + wide(a) ** 0.5 * e, "swapped"),
    ("add_noise", lambda z, e, a: wide(a) ** 0.5 * z + (1 - wide(a) ** 0.5) * e, "√(1 − ᾱ)"),
    ("add_noise", lambda z, e, a: a**0.5 * z + (1 - a) ** 0.5 * e, "stopped with RuntimeError"),
    ("noise_schedule", lambda a, b, n: (1 - torch.linspace(a, b, n)).cumprod(0), "roots evenly"),
    ("noise_schedule", lambda a, b, n: torch.linspace(a**0.5, b**0.5, n) ** 2, "these are the β"),
    ("noise_schedule", lambda a, b, n: 1 - torch.linspace(a**0.5, b**0.5, n) ** 2, "torch.cumprod"),
    ("noise_schedule", lambda a, b, n: schedule(a, b, n) ** 0.5, "the root of ᾱ"),
    ("predict_latents", lambda n, e, a: n - (1 - wide(a)) ** 0.5 * e, "divide by √ᾱ"),
    ("predict_latents", lambda n, e, a: (n - e) / wide(a) ** 0.5, "taken out whole"),
    ("word", lambda f, g, x: g(x[:, 1:]).mean(1), "CLS is left out"),
    ("word", lambda f, g, x: f(x[:, 0]), "patches are left out"),
    ("word", lambda f, g, x: f(x[:, 0]) + g(x).mean(1), "includes CLS"),
    ("word", lambda f, g, x: f(x[:, 0]) + g(x[:, 1:].mean(1)), "before their network"),
    ("word", lambda f, g, x: f(x[:, 0]) + g(x[:, 1:]).sum(1), "are summed"),
    ("word", lambda f, g, x: f(x[:, :1]) + g(x[:, 1:]), "that is the local mapping"),
    ("words", lambda words: sum(words) / len(words), "averaged into one"),
    ("words", lambda words: torch.stack(words), "batch is the first dimension"),
    ("words", lambda words: torch.stack(words[::-1], 1), "order is turned round"),
    ("layers", lambda states, layers: [states[i - 1] for i in layers], "one layer too early"),
    ("layers", lambda states, layers: [states[i] for i in sorted(layers)], "sorted"),
    ("layers", lambda states, layers: [states[i] for i in layers[:2]], "came back"),
    ("global_loss", lambda p, n, w, s: ((p - n) ** 2).mean() + s * (w**2).mean(), "ℓ2"),
    ("global_loss", lambda p, n, w, s: ((p - n) ** 2).mean(), "regulariser is missing"),
    ("global_loss", lambda p, n, w, s: ((p - n) ** 2).mean() + w.abs().mean(), "λ is missing"),
    ("global_loss", lambda p, n, w, s: ((p - n) ** 2).mean() + s * w.abs().sum(), "are summed"),
    ("global_loss", lambda p, n, w, s: ((p - n) ** 2).mean() + s * w.mean(), "with their signs"),
    ("patch_embeddings", lambda f, g, x, m: g(x[:, 1:]) * m, "CLS is left out"),
    ("patch_embeddings", lambda f, g, x, m: only_first(f, g, x) * m, "reaches only the first patch"),
    ("patch_embeddings", lambda f, g, x, m: f(x[:, :1]) + g(x[:, 1:]), "mask is not applied"),
    ("patch_embeddings", lambda f, g, x, m: f(x[:, :1]) + g(x[:, 1:]) * m, "after the mask"),
    ("patch_embeddings", lambda f, g, x, m: (f(x[:, :1]) + g(x[:, 1:])) * (m == 0), "turned round"),
    ("patch_embeddings", lambda f, g, x, m: f(x[:, 0]) + g(x[:, 1:]), "stopped with RuntimeError"),
    ("patch_mask", lambda m, p: SOLUTIONS["patch_mask"](m.mT, p), "reading order"),
    ("patch_mask", lambda m, p: SOLUTIONS["patch_mask"](m, p)[..., 0], "last dimension is missing"),
    ("patch_mask", lambda m, p: (SOLUTIONS["patch_mask"](m, p) > 0).float(), "covered fraction"),
    ("fusion", lambda q, a, b, c, d, w: w * attend(q, a, b) + attend(q, c, d), "λ is on the global branch"),
    ("fusion", lambda q, a, b, c, d, w: w * (attend(q, a, b) + attend(q, c, d)), "both branches"),
    ("fusion", lambda q, a, b, c, d, w: (1 - w) * attend(q, a, b) + w * attend(q, c, d), "mixture"),
    ("fusion", lambda q, a, b, c, d, w: attend(q, torch.cat([a, c], 1), torch.cat([b, d], 1)), "share one softmax"),
    ("fusion", lambda q, a, b, c, d, w: attend(q, a, b) + attend(q, c, d), "λ is not used"),
    ("reweight", lambda p, m: p * (m / m.max())[..., None], "over the whole batch"),
    ("reweight", lambda p, m: p * m[..., None], "not divided by its maximum"),
    ("reweight", lambda p, m: p * (m / m.max(2, keepdim=True).values)[..., None], "each head"),
    ("reweight", lambda p, m: torch.nn.functional.normalize(package_reweight(p, m), p=1, dim=-1), "sum of 1"),
    ("local_loss", lambda p, n, m, v, w: ((p - n) ** 2).mean() + w * penalty(v), "mask is not used"),
    ("local_loss", lambda p, n, m, v, w: ((p - n) ** 2 * m).mean() + w * penalty(v), "divided by all positions"),
    ("local_loss", lambda p, n, m, v, w: ((p - n) ** 2 * m).sum() / m.sum() + w * penalty(v), "whole batch"),
    ("local_loss", lambda p, n, m, v, w: local_loss(p, n, m, v, 0.0) / 4 + w * penalty(v), "channels are averaged"),
    ("local_loss", lambda p, n, m, v, w: local_loss(p, n, m, v, 0.0), "regulariser is missing"),
    ("local_loss", lambda p, n, m, v, w: local_loss(p, n, m, v, 2 * w), "layers are summed"),
    ("distance", lambda s, f: {"far": "near", "near": "far"}.get(distance(s, f), "plain"), "far and near are swapped"),
    ("distance", lambda s, f: "far" if s < 38.4 else "near" if s > 64 else "plain", "not with pixels"),
    ("distance", lambda s, f: "far" if s / f < 0.5 else "near" if s > f else "plain", 'a crop of 38 in a frame of 64'),
    ("draws", lambda r, t, s, shape: torch.randn(len(r), *shape), "the generator has moved on"),
    ("draws", lambda r, t, s, shape: one_stream(1000 * s + t, (len(r), *shape)), "a generator for each row"),
    ("draws", lambda r, t, s, shape: one_stream(1000 * s + t, shape).expand(len(r), *shape), "row is not among"),
    ("draws", lambda r, t, s, shape: draws(r, 0, s, shape), "step is not among"),
    ("draws", lambda r, t, s, shape: draws(r, t, 0, shape), "seed of the run is not used"),
    ("draws", lambda r, t, s, shape: torch.stack([one_stream(50 * s + t + i, shape) for i in r]), "are added up"),
    ("draws", lambda r, t, s, shape: draws(r, t, s, shape).sigmoid(), "standard normal noise has 0 and 1"),
    ("draws", lambda r, t, s, shape: draws(r, t, s, shape)[0], "should be a tensor (3, 4, 16, 16)"),
    ("draws", lambda r, t, s, shape: draws(r, t, s), "stopped with TypeError"),
    ("draws", lambda r, t, s, shape: (torch.manual_seed(0), draws(r, t, s, shape))[1], "that others use"),
    ("learning_rate", lambda b, n, a, p: b, "this is the base rate"),
    ("learning_rate", lambda b, n, a, p: b * n * a, "processes are left out"),
    ("learning_rate", lambda b, n, a, p: b * n * p, "accumulation steps are left out"),
    ("learning_rate", lambda b, n, a, p: b * (n * a * p) ** 0.5, "root of the samples"),
]  # fmt: skip


def only_first(cls_network, patch_network, features):
    out = patch_network(features[:, 1:]).clone()
    out[:, 0] += cls_network(features[:, 0])
    return out


def penalty(values):
    return sum(value.abs().mean() for value in values) / len(values)


def said_by(name: str, function: Callable, capsys: pytest.CaptureFixture[str]) -> str:
    getattr(exercises, f"check_{name}")(function)
    return capsys.readouterr().out.strip()


def test_every_check_has_a_solution_and_mistakes_here():
    names = {name.removeprefix("check_") for name in exercises.__all__}
    assert set(SOLUTIONS) == names
    assert {name for name, *_ in MISTAKES} == names


@pytest.mark.parametrize("name", SOLUTIONS)
def test_solution_passes(name, capsys):
    assert said_by(name, SOLUTIONS[name], capsys).startswith("✓")


@pytest.mark.parametrize("name", SOLUTIONS)
def test_stub_fails_and_is_told_that_it_returns_nothing(name, capsys):
    said = said_by(name, lambda *arguments: None, capsys)
    assert said.startswith("✗") and "returns nothing yet" in said


@pytest.mark.parametrize(("name", "function", "words"), MISTAKES, ids=[f"{n}-{w[:24]}" for n, _, w in MISTAKES])
def test_planted_mistake_is_explained(name, function, words, capsys):
    said = said_by(name, function, capsys)
    assert said.startswith("✗") and words in said
