"""What teaches the noise predictor to look at a subject through its noun."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from elite.toybox import WEIGHTS
from elite.toybox.backbone_training.latents import noun_positions, small_masks
from elite.toybox.backbone_training.looking import SHARE, looking_loss, watch
from elite.toybox.backbone_training.shapes import build_unet


def test_watched_attention_is_the_librarys_and_keeps_its_scores() -> None:
    torch.manual_seed(0)
    net = build_unet().eval()
    inputs = (torch.randn(2, 8, 16, 16), torch.tensor([10, 700]), torch.randn(2, 32, 128))
    net.set_attn_processor(AttnProcessor2_0())
    with torch.no_grad():
        expected = net(*inputs).sample
        watched = watch(net)
        found = net(*inputs).sample
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert sorted(tuple(layer.scores.shape[1:]) for layer in watched) == [(4, 16, 32)] + 3 * [(4, 64, 32)] + 3 * [
        (4, 256, 32)
    ]


def test_the_loss_is_the_cross_entropy_of_the_nouns_column() -> None:
    torch.manual_seed(0)
    scores, masks = torch.randn(3, 2, 16, 5), torch.rand(3, 8, 8)
    nouns = torch.tensor([3, -1, 0])
    total, count = 0.0, 0
    for row in (0, 2):
        for head in range(2):
            for query in range(16):
                found = scores[row, head, query].softmax(-1)[nouns[row]].item()
                y, x = 2 * (query // 4), 2 * (query % 4)
                target = SHARE * masks[row, y : y + 2, x : x + 2].mean().item()
                total -= target * math.log(found) + (1 - target) * math.log(1 - found)
                count += 1
    assert float(looking_loss(scores, nouns, masks)) == pytest.approx(total / count, rel=1e-5)


def test_texts_without_a_noun_teach_nothing() -> None:
    scores = torch.randn(2, 2, 16, 5, requires_grad=True)
    assert float(looking_loss(scores, torch.tensor([-1, -1]), torch.rand(2, 8, 8))) == 0


def test_a_descent_turns_the_map_to_the_subject() -> None:
    torch.manual_seed(0)
    scores = torch.randn(1, 1, 16, 5, requires_grad=True)
    masks = torch.zeros(1, 4, 4)
    masks[0, 1:3, 1:3] = 1
    optimizer = torch.optim.Adam([scores], 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        looking_loss(scores, torch.tensor([2]), masks).backward()
        optimizer.step()
    found = scores.softmax(-1)[0, 0, :, 2].view(4, 4)
    torch.testing.assert_close(found, SHARE * masks[0], atol=0.03, rtol=0)


def test_nouns_are_found_where_the_tokenizer_puts_them() -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    texts = ["", "a dog", "a photo of a red boot on the beach", "a picture of nothing"]
    found = noun_positions(tokenizer, texts, {"dog", "boot"})
    assert found.tolist() == [-1, 2, 6, -1]


def test_small_masks_are_means_of_cells() -> None:
    masks = np.zeros((1, 64, 64), np.uint8)
    masks[0, 4:8, 8:10] = 255  # half of the cell in row 1, column 2
    small = small_masks(masks)
    assert small[0, 1, 2] == 127 and int(small.sum()) == 127
