"""Facts that hold for any input: drawn, not chosen."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elite.mapping import LocalMapper
from elite.prompts import PLACEHOLDER, tokenize
from tests.helpers import LENGTH, draw, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXT = st.text(alphabet="abt ohpf12,.!?()-'\n\"", max_size=10)


@settings(max_examples=200, deadline=None)
@given(
    before=TEXT.filter(lambda text: not text[-1:].isalpha() and not text.endswith("'")),
    after=TEXT.filter(lambda text: not text[:1].isalpha()),
)
def test_any_surroundings_leave_the_placeholder_one_position(before, after):
    """The same text with the word "S", read by CLIP's pre-tokeniser, is the reference.

    Letters that touch the word, and a quotation mark before it ("'s" is a token of CLIP's own), are left out: there
    "S" would not stay one token.
    """
    ids, index = tokenize(TOKENIZER, before + PLACEHOLDER + after)
    reference = TOKENIZER(before + "S" + after, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    assert torch.equal(ids, reference)
    assert ids[0, index[0]] == TOKENIZER("S", add_special_tokens=False).input_ids[0]


@settings(max_examples=30, deadline=None)
@given(marked=st.lists(st.booleans(), min_size=4, max_size=4), seed=st.integers(0, 2**16))
def test_patches_outside_any_mask_are_zero_and_the_others_do_not_notice(marked, seed):
    mapper = LocalMapper(6, 5, num_layers=2, hidden_dim=8)
    features = [draw(1, 5, 6, seed=seed + i) for i in range(2)]
    mask = torch.tensor(marked).float().view(1, 4, 1)
    with torch.no_grad():
        masked, whole = mapper(features, mask), mapper(features)
    for p, kept in enumerate(marked):
        assert torch.equal(masked[0, p], whole[0, p]) if kept else (masked[0, p] == 0).all()
