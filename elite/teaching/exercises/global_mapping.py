"""Checks for the exercises on the global mapping (chapter 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from elite.teaching.exercises._judge import attempt, fail, judge, noise


def bent(width: int, output: int, seed: int) -> nn.Module:
    """A small fixed network that is not linear, so that its mean is not the network of the mean."""
    first, second = nn.Linear(width, 6), nn.Linear(6, output)
    with torch.no_grad():
        for number, parameter in enumerate([*first.parameters(), *second.parameters()]):
            parameter.copy_(noise(*parameter.shape, seed=seed + number))
    return nn.Sequential(first, nn.Tanh(), second).requires_grad_(False)


def check_word(word: Callable[[nn.Module, nn.Module, Tensor], Tensor]) -> None:
    """Check how one layer's features become one word (Eq. 3).

    Args:
        word: takes the network for CLS, the network for patches, and features (B, 1 + p², D) with CLS first;
            returns the word (B, d).
    """
    cls_network, patch_network, features = bent(5, 3, 10), bent(5, 3, 20), noise(2, 1 + 9, 5, seed=11)
    cls, patches = features[:, 0], features[:, 1:]
    expected = cls_network(cls) + patch_network(patches).mean(dim=1)
    judge(
        "word",
        word,
        {"cls_network": cls_network, "patch_network": patch_network, "features": features},
        expected,
        mistakes={
            "CLS is left out. The word is the network of CLS plus the mean of the patches.": lambda: patch_network(
                patches
            ).mean(dim=1),
            "the patches are left out. Their mean is added to the network of CLS.": lambda: cls_network(cls),
            "the mean of the patches includes CLS: patches are features[:, 1:].": lambda: (
                cls_network(cls) + patch_network(features).mean(dim=1)
            ),
            "the patches are averaged before their network. Each patch goes through it, then the outputs are "
            "averaged.": lambda: cls_network(cls) + patch_network(patches.mean(dim=1)),
            "the patches are summed; they should be averaged.": lambda: (
                cls_network(cls) + patch_network(patches).sum(dim=1)
            ),
            "the two networks are swapped: the first is for CLS.": lambda: (
                patch_network(cls) + cls_network(patches).mean(dim=1)
            ),
            "CLS and patches are averaged; they should be added.": lambda: expected / 2,
            "CLS is added to every patch and nothing is averaged: that is the local mapping. A word is a single "
            "vector.": lambda: cls_network(cls)[:, None] + patch_network(patches),
        },
        shape="(batch, d)",
        praise="one layer gives one word: the network of CLS plus the mean over the patches.",
    )


def check_words(words: Callable[[Sequence[Tensor]], Tensor]) -> None:
    """Check how the words of all layers are put together.

    Args:
        words: takes a list of N words (B, d), deepest layer first; returns (B, N, d) with w0 first.
    """
    one_each = [noise(2, 3, seed=30 + i) for i in range(4)]
    judge(
        "words",
        words,
        {"words": one_each},
        torch.stack(one_each, dim=1),
        mistakes={
            "the words of all layers are averaged into one. Each layer keeps a word of its own: stack them.": lambda: (
                torch.stack(one_each).mean(dim=0)
            ),
            "the layers come first: the batch is the first dimension, the words the second.": lambda: torch.stack(
                one_each
            ),
            "the order is turned round: w0, from the deepest layer, comes first.": lambda: torch.stack(
                one_each[::-1], dim=1
            ),
            "the words are laid end to end in one long vector: stack them along a new dimension.": lambda: torch.cat(
                one_each, dim=1
            ),
        },
        shape="(batch, words, d)",
        praise="N layers give N words, w0 first.",
    )


def check_layers(select: Callable[[Sequence[Tensor], Sequence[int]], Sequence[Tensor]]) -> None:
    """Check which hidden states are the features of the given layers.

    Args:
        select: takes the hidden states h0 … hK of an encoder with K layers, each (B, tokens, D), and layer numbers;
            returns the outputs of those layers, in the order asked for. h0 is the input of the first layer.
    """
    name, layers = "layers", [6, 1, 2, 3, 4]
    states = [torch.full((1, 2, 1), float(i)) for i in range(7)]  # h_i holds the number i
    result, stopped = attempt(lambda: select(list(states), list(layers)))
    if stopped:
        return fail(name, f"{stopped} It was given 7 hidden states.")
    if result is None:
        return fail(name, "your function returns nothing yet. Return a list with one tensor a layer.")
    got = [int(state.flatten()[0]) for state in result]
    if got == [i - 1 for i in layers]:
        return fail(name, "each is one layer too early: hidden state 0 is the input, so layer i is at index i.")
    if got == sorted(layers):
        return fail(name, "the layers are sorted. Keep the order asked for: the deepest comes first and becomes w0.")
    if got == [i + 1 for i in layers if i < 6]:
        return fail(name, "each is one layer too late: layer i is at index i.")
    if got != layers:
        return fail(name, f"layers {layers} were asked for and {got} came back.")
    print(f"✓ {name}: the deepest layer first, then the shallow ones.")
    return None


def check_global_loss(loss: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """Check the loss of the global stage (Eq. 4).

    Args:
        loss: takes predicted noise (B, C, h, w), noise (B, C, h, w), words (B, N, d) and λ_global; returns a scalar.
    """
    predicted, true, words = noise(2, 4, 3, 3, seed=12), noise(2, 4, 3, 3, seed=13), 3 * noise(2, 5, 6, seed=14)
    weight = 0.5
    error = (predicted - true).square().mean()
    judge(
        "global loss",
        loss,
        {"predicted": predicted, "noise": true, "words": words, "weight": weight},
        error + weight * words.abs().mean(),
        mistakes={
            "the words are squared: that is an ℓ2 penalty. Eq. 4 takes absolute values, ℓ1, which drives small "
            "entries to zero.": lambda: error + weight * words.square().mean(),
            "the regulariser is missing: add λ times the mean absolute value of the words.": lambda: error,
            "λ is missing before the regulariser.": lambda: error + words.abs().mean(),
            "the absolute values are summed. Code and authors take their mean, so that λ does not depend on the "
            "number of words.": lambda: error + weight * words.abs().sum(),
            "the values of the words are averaged with their signs: take absolute values first.": lambda: (
                error + weight * words.mean()
            ),
            "the noise error is absolute; Eq. 1 squares it.": lambda: (
                (predicted - true).abs().mean() + weight * words.abs().mean()
            ),
            "λ weights the noise error; it belongs to the words.": lambda: weight * error + words.abs().mean(),
            "the squared error is summed; take its mean.": lambda: (
                (predicted - true).square().sum() + weight * words.abs().mean()
            ),
        },
        shape="a scalar",
        praise="the noise error plus a little for large words.",
    )
