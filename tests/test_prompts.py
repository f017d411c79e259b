"""The placeholder occupies one position, the subject's words take it, and nothing falls off the end unnoticed."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import cpu_offload

from elite.prompts import PLACEHOLDER, TEMPLATES, TokenizedPrompts, encode_prompts, select_words, tokenize
from tests.helpers import LENGTH, WIDTH, draw, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


# {} takes the placeholder, or a single-token word in its place
TEXTS = [
    "a photo of a {}",
    "{}",
    "{} on the beach",
    "a photo of {}, on the beach",
    "a photo ({}) of it",
    "the {}'s photo",
    "a photo\nof\n{}\non the beach",
    "  a   {}  !",
    "a {}. Then: more",
    "a {}-shaped photo",
    "a {}).",
]


@pytest.mark.parametrize("text", TEXTS)
def test_placeholder_reads_like_a_single_token_word_in_the_same_text(tokenizer, text):
    """CLIP's own pre-tokeniser on the text with "S" is the reference, as in the authors' prompts."""
    ids, index = tokenize(tokenizer, text.format(PLACEHOLDER))
    word = tokenizer("S", add_special_tokens=False).input_ids
    assert len(word) == 1
    options = {"padding": "max_length", "max_length": LENGTH, "return_tensors": "pt"}
    reference = tokenizer(text.format("S"), **options).input_ids
    assert reference[0, index[0]] == word[0]
    rest = torch.arange(LENGTH) != index[0]
    assert torch.equal(ids[0, rest], reference[0, rest])


def test_placeholder_position_is_counted_in_tokens_not_in_blanks(tokenizer):
    """ "beach" is five pieces here: splitting at blanks would put the word elsewhere (one before, or one after)."""
    ids, index = tokenize(tokenizer, "beach S* photo")
    before = tokenizer("beach", add_special_tokens=False).input_ids
    assert len(before) > 1
    assert index.tolist() == [1 + len(before)]
    assert ids[0, index[0] + 1] == tokenizer("photo", add_special_tokens=False).input_ids[0]


def naive_insertion(embeddings, words, index):
    """The second opinion: lists, one row at a time."""
    rows = []
    for row, own, i in zip(embeddings, words, index.tolist(), strict=True):
        kept = list(row) if i < 0 else [*row[:i], *own, *row[i + 1 :]]
        rows.append(torch.stack(kept[: len(row)]))
    return torch.stack(rows)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_words_stand_exactly_at_the_placeholder_and_later_tokens_move_right(tiny, count):
    """Fails when the words are put one position too early or too late."""
    tokenized = tokenize(tiny.tokenizer, ["a S* of the beach", "no word here", "S*"], require_placeholder=False)
    assert tokenized.word_index.tolist() == [2, -1, 1]
    words = draw(3, count, WIDTH)
    encoder = tiny.text_encoder
    expected = naive_insertion(encoder.get_input_embeddings()(tokenized.input_ids), words, tokenized.word_index)
    got = []
    body = getattr(encoder, "text_model", encoder)  # flat since transformers 5.6
    handle = body.encoder.layers[0].register_forward_pre_hook(lambda module, args: got.append(args[0]))
    try:
        encode_prompts(encoder, tokenized, words)
    finally:
        handle.remove()
    positions = body.embeddings.position_embedding.weight[:LENGTH]
    torch.testing.assert_close(got[0], expected + positions)


def test_text_encoder_is_itself_again_after_an_injection(tiny):
    tokenized = tokenize(tiny.tokenizer, "a S*")
    before = encode_prompts(tiny.text_encoder, tokenized)
    encode_prompts(tiny.text_encoder, tokenized, draw(1, 1, WIDTH))
    with pytest.raises(ValueError, match="words must be"):
        encode_prompts(tiny.text_encoder, tokenized, draw(1, 1, WIDTH + 1))
    assert torch.equal(encode_prompts(tiny.text_encoder, tokenized), before)


def test_a_text_encoder_that_is_offloaded_layer_by_layer_gives_the_same_features(tiny):
    tokenized, words = tokenize(tiny.tokenizer, "a S*"), draw(1, 1, WIDTH)
    encoder = copy.deepcopy(tiny.text_encoder)
    expected = [encode_prompts(encoder, tokenized, given) for given in (words, None)]
    cpu_offload(encoder, execution_device=torch.device("cpu"))
    assert encoder.get_input_embeddings().weight.is_meta
    for given, before in zip((words, None), expected, strict=True):
        torch.testing.assert_close(encode_prompts(encoder, tokenized, given), before)


def test_gradients_reach_the_words(tiny):
    words = draw(1, 2, WIDTH).requires_grad_()
    encode_prompts(tiny.text_encoder, tokenize(tiny.tokenizer, "a S*", num_words=2), words).square().sum().backward()
    assert (words.grad.abs().sum(dim=-1) > 0).all()


def test_words_are_chosen_by_name_or_index():
    words = draw(2, 5, WIDTH)
    assert torch.equal(select_words(words, "w0"), words[:, :1])
    assert torch.equal(select_words(words, "w3"), words[:, 3:4])
    assert torch.equal(select_words(words, "all"), words)
    assert torch.equal(select_words(words, (4, 0)), words[:, [4, 0]])
    for wrong in ("w5", "first", (), (0, 7), (True,), "w"):
        with pytest.raises(ValueError, match="words"):
            select_words(words, wrong)


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ("a photo of a dog", "has no placeholder"),
        (["a S*", "a dog"], "has no placeholder"),
        ("S* and S*", "2 times"),
        ([], "at least one text"),
        ("a S* " + "x " * LENGTH, "too long by"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(tokenizer, prompts, sentence):
    with pytest.raises(ValueError, match=sentence):
        tokenize(tokenizer, prompts)


def test_prompt_that_fits_with_one_word_but_not_with_five_is_refused(tiny):
    text = "S*" + " x" * (LENGTH - 3)
    tokenized = tokenize(tiny.tokenizer, text)
    encode_prompts(tiny.text_encoder, tokenized, draw(1, 1, WIDTH))
    with pytest.raises(ValueError, match="too long by 4 tokens"):
        tokenize(tiny.tokenizer, text, num_words=5)
    with pytest.raises(ValueError, match="too long by 4 tokens"):
        encode_prompts(tiny.text_encoder, tokenized, draw(1, 5, WIDTH))


def test_position_outside_the_text_is_refused(tiny):
    ids = tokenize(tiny.tokenizer, "a S*").input_ids
    with pytest.raises(ValueError, match="word_index must be below"):
        encode_prompts(tiny.text_encoder, TokenizedPrompts(ids, torch.tensor([LENGTH])), draw(1, 1, WIDTH))


def test_templates_are_the_27_of_the_paper_each_with_one_gap():
    assert len(TEMPLATES) == len(set(TEMPLATES)) == 27
    assert all(template.count("{}") == 1 for template in TEMPLATES)
