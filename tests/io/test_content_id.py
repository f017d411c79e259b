"""Content ids: another for any change of the weights, the same for what is only cast, moved, copied or saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from elite.io.content_id import ContentId, content_hash


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 300), nn.LayerNorm(300))


def test_hash_sees_names_shapes_types_and_every_bit_but_not_the_order():
    tensors = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}
    others = [
        {"a": tensors["a"], "c": tensors["b"]},
        {"a": tensors["a"].view(2, 3), "b": tensors["b"]},
        {"a": tensors["a"].half(), "b": tensors["b"]},
        {"a": torch.nextafter(tensors["a"], torch.tensor(9.0)), "b": tensors["b"]},
    ]
    hashes = {content_hash(each) for each in (tensors, *others)}
    assert len(hashes) == 5
    assert content_hash(dict(reversed(tensors.items()))) == content_hash(tensors)


@pytest.mark.parametrize("types", [["half"], ["bfloat16"], ["half", "float"], ["bfloat16", "float", "half"]])
@pytest.mark.parametrize("asked_between", [True, False])
def test_casting_keeps_it(module, types, asked_between):
    kept = ContentId()
    mine = kept.of(module)
    assert mine == content_hash(module.state_dict())
    for name in types:
        getattr(module, name)()
        if asked_between:
            assert kept.of(module) == mine
    assert kept.of(module) == mine


@torch.no_grad()
def test_any_change_makes_another(module):
    kept, seen = ContentId(), set()
    changes = [
        lambda: module[0].weight.mul_(1.0001),
        lambda: module[0].weight[150, 3].add_(1e-3),  # one value, none of those that are looked at
        lambda: module[1].bias.data.copy_(torch.ones(300)),  # behind torch's back, as an average of weights is put in
        lambda: module.load_state_dict({n: t * 2 for n, t in module.state_dict().items()}, assign=True),
        lambda: module.half()[0].weight.mul_(1.5),  # cast and changed at once
    ]
    for change in changes:
        seen.add(kept.of(module))
        change()
    assert len({*seen, kept.of(module)}) == 6


@torch.no_grad()
def test_what_is_put_back_has_its_id_again(module):
    kept = ContentId()
    mine, before = kept.of(module), copy.deepcopy(module.state_dict())
    module[0].weight.zero_()
    assert kept.of(module) != mine
    module.load_state_dict(before)
    assert kept.of(module) == mine


def test_an_adopted_id_stays_until_the_weights_change(module):
    kept = ContentId()
    kept.adopt(module, "of a file")
    module.load_state_dict(copy.deepcopy(module.state_dict()))  # written to, with what is there
    assert kept.of(module) == "of a file"
    assert kept.of(module.half()) == "of a file"
    with torch.no_grad():
        module[0].bias[0] += 1
    assert kept.of(module) == content_hash(module.state_dict())


def test_weights_that_are_elsewhere_count_as_unchanged(module):
    kept = ContentId()
    assert kept.of(copy.deepcopy(module).to("meta")) == ""
    mine = kept.of(module)
    assert kept.of(module.to("meta")) == mine
