"""Checks for the exercises on the local mapping, fusion and reweighting (chapter 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from elite.teaching.exercises._judge import judge, noise
from elite.teaching.exercises.global_mapping import bent


def check_patch_embeddings(embed: Callable[[nn.Module, nn.Module, Tensor, Tensor], Tensor]) -> None:
    """Check how one layer's features become patch embeddings (Eq. 5).

    Args:
        embed: takes the network for CLS, the network for patches, features (B, 1 + p², D) with CLS first, and the
            object mask (B, p², 1) in {0, 1}; returns (B, p², d), zero where the mask is.
    """
    cls_network, patch_network, features = bent(5, 3, 40), bent(5, 3, 50), noise(2, 1 + 9, 5, seed=41)
    mask = (noise(2, 9, 1, seed=42) > 0).float()
    cls, patches = features[:, :1], features[:, 1:]
    cls_out, patch_out = cls_network(cls), patch_network(patches)
    judge(
        "patch embeddings",
        embed,
        {"cls_network": cls_network, "patch_network": patch_network, "features": features, "mask": mask},
        (cls_out + patch_out) * mask,
        mistakes={
            "CLS is left out. Its output is added to every patch, so that each patch knows what the whole picture "
            "shows.": lambda: patch_out * mask,
            "CLS reaches only the first patch. It is added to every patch: keep its dimension, features[:, :1], and "
            "let it broadcast.": lambda: torch.cat([patch_out[:, :1] + cls_out, patch_out[:, 1:]], dim=1) * mask,
            "the mask is not applied: patches outside the object must become zero vectors.": lambda: (
                cls_out + patch_out
            ),
            "CLS is added after the mask, so that patches outside the object are not zero.": lambda: (
                cls_out + patch_out * mask
            ),
            "the mask is turned round: it is 1 on the object, which stays.": lambda: (cls_out + patch_out) * (1 - mask),
            "the mask is applied to the features. Networks have biases, so a zero feature gives no zero vector: "
            "multiply the output.": lambda: cls_out + patch_network(patches * mask),
            "the patches are averaged: that is the global mapping. The local one keeps each patch.": lambda: (
                cls_out + patch_out.mean(dim=1, keepdim=True)
            )[:, 0],
            "CLS is counted as a patch: patches are features[:, 1:].": lambda: (
                (cls_out + patch_network(features))[:, :9] * mask
            ),
        },
        shape="(batch, patches, d)",
        praise="every patch on the object carries CLS with it; the background is zero.",
    )


def check_patch_mask(patch_mask: Callable[[Tensor, int], Tensor]) -> None:
    """Check how a mask of pixels becomes a mask of patches.

    Args:
        patch_mask: takes a mask (B, H, W) in {0, 1} and the number p of patches per side, which divides H and W;
            returns the covered fraction of each patch, (B, p², 1), patches in reading order.
    """
    mask = torch.zeros(2, 8, 8)
    mask[0, 0:3, 4:8], mask[1, 5:8, 1:4] = 1, 1
    grid = mask.reshape(2, 4, 2, 4, 2).mean(dim=(2, 4))  # (B, p, p)
    judge(
        "patch mask",
        patch_mask,
        {"mask": mask, "patches": 4},
        grid.flatten(1)[..., None],
        mistakes={
            "rows and columns are swapped: patches come in reading order, row by row.": lambda: grid.mT.flatten(1)[
                ..., None
            ],
            "the grid is still a square: flatten it to p² patches and add a last dimension of 1.": lambda: grid,
            "the last dimension is missing: (batch, patches, 1) multiplies embeddings (batch, patches, d).": lambda: (
                grid.flatten(1)
            ),
            "a patch counts as soon as one pixel is on the object; take the covered fraction, the mean.": lambda: (
                mask.reshape(2, 4, 2, 4, 2).amax(dim=(2, 4)).flatten(1)[..., None]
            ),
            "the pixels of a patch are summed; take their mean.": lambda: 4 * grid.flatten(1)[..., None],
        },
        shape="(batch, patches, 1)",
        praise="each patch knows how much of it is object.",
    )


def check_fusion(fusion: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """Check the fusion of the global and the local branch (Eq. 6).

    Args:
        fusion: takes query (B, Q, d′), global key and value (B, L, d′), local key and value (B, p², d′), and λ;
            returns (B, Q, d′).
    """
    query = noise(2, 4, 8, seed=60)
    key_g, value_g, key_l, value_l = (noise(2, n, 8, seed=s) for n, s in ((5, 61), (5, 62), (9, 63), (9, 64)))
    weight = 0.6

    def attend(key: Tensor, value: Tensor) -> Tensor:
        return torch.softmax(query @ key.mT / 8**0.5, dim=-1) @ value

    both, local = attend(key_g, value_g), attend(key_l, value_l)
    judge(
        "fusion",
        fusion,
        {
            "query": query,
            "key_global": key_g,
            "value_global": value_g,
            "key_local": key_l,
            "value_local": value_l,
            "fusion_weight": weight,
        },
        both + weight * local,
        mistakes={
            "λ is on the global branch. It weights the local one, so that λ = 0 leaves the text alone.": lambda: (
                weight * both + local
            ),
            "λ is on both branches; only the local one is weighted.": lambda: weight * (both + local),
            "this is a mixture, (1 − λ) global + λ local. In Eq. 6 the global branch keeps its full weight.": lambda: (
                (1 - weight) * both + weight * local
            ),
            "λ is not used.": lambda: both + local,
            "the local branch is missing.": lambda: both,
            "the global branch is missing.": lambda: weight * local,
            "words and patches share one softmax. Eq. 6 has two attentions, each with its own, and adds their "
            "results.": lambda: attend(torch.cat([key_g, key_l], dim=1), torch.cat([value_g, value_l], dim=1)),
            "λ multiplies the local keys, inside the softmax; it multiplies the result.": lambda: (
                both + attend(weight * key_l, value_l)
            ),
        },
        shape="(batch, queries, d′)",
        praise="the global branch in full, the local one times λ.",
    )


def check_reweight(reweight: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check the reweighting of local attention by the primary word's map (Eq. 8).

    Args:
        reweight: takes local probabilities (B, heads, Q, p²) and the primary word's map (B, heads, Q) in [0, 1];
            returns (B, heads, Q, p²).
    """
    probabilities = torch.softmax(noise(2, 3, 4, 5, seed=70), dim=-1)
    word_map = torch.sigmoid(noise(2, 3, 4, seed=71)) * torch.tensor([1.0, 0.4])[:, None, None]
    expected = probabilities * (word_map / word_map.amax(dim=(1, 2), keepdim=True))[..., None]
    judge(
        "reweighting",
        reweight,
        {"local_probs": probabilities, "word_map": word_map},
        expected,
        mistakes={
            "the maximum is taken over the whole batch. Then one picture's result depends on its neighbours: take it "
            "for each sample, amax(dim=(1, 2), keepdim=True).": lambda: (
                probabilities * (word_map / word_map.max())[..., None]
            ),
            "the map is not divided by its maximum: where the word looks most, local attention should stay as it "
            "is.": lambda: probabilities * word_map[..., None],
            "each head has a maximum of its own. It is taken over the heads and positions of a sample "
            "together.": lambda: probabilities * (word_map / word_map.amax(dim=2, keepdim=True))[..., None],
            "the maximum is taken over the heads only; positions belong to it too.": lambda: (
                probabilities * (word_map / word_map.amax(dim=1, keepdim=True))[..., None]
            ),
            "the rows are scaled back to a sum of 1, which undoes the reweighting: a row may sum to less.": lambda: (
                expected / expected.sum(dim=-1, keepdim=True)
            ),
            "the map is divided by its sum; Eq. 8 divides by its maximum.": lambda: (
                probabilities * (word_map / word_map.sum(dim=(1, 2), keepdim=True))[..., None]
            ),
            "the local probabilities come back unchanged.": lambda: probabilities,
        },
        shape="(batch, heads, queries, patches)",
        praise="local detail stays where the primary word looks, in each sample by its own measure.",
    )
