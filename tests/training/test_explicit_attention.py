"""Explicit attention on a CPU: what the fused kernel gives, for the calls it stands in for."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from elite.training import explicit_attention as attention
from elite.training.explicit_attention import ExplicitAttention, explicit_attention
from elite.training.steps import StageModule
from tests.helpers import draw
from tests.training.test_steps import drawn, gradients, make_batch

KEPT = torch.tensor([True, False, True, True, True, False, True]).expand(2, 1, 5, 7)
CALLS = {
    "plain": {},
    "scaled": {"scale": 0.3},
    "causal": {"is_causal": True},
    "added mask": {"attn_mask": draw(5, 7, seed=9)},
    "kept keys": {"attn_mask": KEPT},
}


def tensors(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Query (2, 3, 5, 4), key (2, 3, 7, 4), value (2, 3, 7, 6)."""
    shapes = ((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6))
    return [draw(*shape, seed=seed).to(dtype).requires_grad_() for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize("call", CALLS)
def test_explicit_attention_gives_what_the_fused_kernel_gives(call):
    """Values and gradients."""
    options = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in CALLS[call].items()}
    ours, theirs = tensors(), tensors()
    out, expected = explicit_attention(*ours, **options), F.scaled_dot_product_attention(*theirs, **options)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    (out * draw(*out.shape, seed=5)).sum().backward()
    (expected * draw(*out.shape, seed=5)).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-12, atol=1e-12)


def counting(monkeypatch) -> list:
    calls = []

    def explicit(*args, **kwargs):
        calls.append(args)
        return explicit_attention(*args, **kwargs)

    monkeypatch.setattr(attention, "explicit_attention", explicit)
    return calls


def test_it_stands_in_for_short_sequences_in_bf16_alone(monkeypatch):
    calls = counting(monkeypatch)
    with ExplicitAttention():
        F.scaled_dot_product_attention(*tensors(torch.float32))
        F.scaled_dot_product_attention(*tensors(torch.bfloat16), dropout_p=0.5)
        monkeypatch.setattr(attention, "LONGEST", 6)
        F.scaled_dot_product_attention(*tensors(torch.bfloat16))
        assert calls == []
        monkeypatch.setattr(attention, "LONGEST", 7)
        F.scaled_dot_product_attention(*tensors(torch.bfloat16))
    F.scaled_dot_product_attention(*tensors(torch.bfloat16))
    assert len(calls) == 1


@pytest.mark.parametrize("stage", ["global", "local"])
def test_a_step_in_bf16_keeps_its_gradient(fresh, monkeypatch, stage):
    """No further from float32 than the fused kernel's bf16 is, within a little."""
    module, batch = StageModule(fresh, stage), make_batch()
    draws = drawn(module)
    exact = flat(gradients(module, batch, *draws)[1])
    with torch.autocast("cpu", torch.bfloat16):
        fused = flat(gradients(module, batch, *draws)[1])
        calls = counting(monkeypatch)
        with ExplicitAttention():
            explicit = flat(gradients(module, batch, *draws)[1])
    assert calls  # by attn1, our processors and the CLIP encoders
    assert distance(explicit, exact) < 1.5 * distance(fused, exact) + 0.01


def flat(grads: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([grad.flatten() for grad in grads.values()])


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())
