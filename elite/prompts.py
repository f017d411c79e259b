"""Words in prompts: the placeholder is cut out of the text, and a subject's words take its one position.

The authors look for the placeholder by splitting the prompt on blanks; CLIP's pre-tokeniser would tear "S*," into
three tokens. Cutting the text at the placeholder before tokenising avoids both: "S*", "S*,", "(S*)" and "S*'s"
give what a single-token word gives in the same place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._values import visible

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

PLACEHOLDER = "S*"

# The 27 training templates (textual inversion's, as the paper uses them); "{}" takes the placeholder.
TEMPLATES: tuple[str, ...] = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)


class TokenizedPrompts(NamedTuple):
    """Token ids (B, L), long, and the placeholder's position in each row (B,), long; -1 where there is none."""

    input_ids: Tensor
    word_index: Tensor


def _split(prompt: str, placeholder: str) -> tuple[str, str] | None:
    """The text before and after the placeholder, or None when it does not occur."""
    count = prompt.count(placeholder)
    if count > 1:
        raise ValueError(f"prompt holds the placeholder {placeholder!r} {count} times, it must stand once: {prompt!r}.")
    if count == 0:
        return None
    before, after = prompt.split(placeholder)
    return before, after


def tokenize(
    tokenizer: CLIPTokenizer,
    prompts: Sequence[str] | str,
    placeholder: str | Sequence[str] = PLACEHOLDER,
    num_words: int = 1,
    require_placeholder: bool = True,
) -> TokenizedPrompts:
    """Tokenise prompts so that the placeholder occupies exactly one position.

    Args:
        tokenizer: a CLIP tokenizer.
        prompts: texts holding the placeholder once.
        placeholder: the placeholder, or one for each prompt.
        num_words: how many words will be injected there, to know what still fits.
        require_placeholder: when False, a prompt without placeholder gets ``word_index`` -1.

    Returns:
        ids (B, L) padded to the tokenizer's length, and the placeholder's position in each row. The id standing there
        is that of an ordinary letter: `encode_prompts` replaces its embedding.

    Raises:
        ValueError: no prompt, placeholder missing or standing twice, or tokens that would fall off the end.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise ValueError("prompts must hold at least one text, got none.")
    if num_words < 1:
        raise ValueError(f"num_words must be at least 1, got {num_words}.")
    placeholders = [placeholder] * len(prompts) if isinstance(placeholder, str) else list(placeholder)
    if len(placeholders) != len(prompts) or not all(placeholders):
        raise ValueError(
            f"placeholder must be a non-empty text, or one for each of the {len(prompts)} prompts, got {placeholder!r}."
        )
    length = tokenizer.model_max_length
    stand_in = _ids(tokenizer, "s")[0]
    rows, positions = [], []
    for prompt, mark in zip(prompts, placeholders, strict=True):
        parts = _split(prompt, mark)
        if parts is None:
            if require_placeholder:
                raise ValueError(f"prompt has no placeholder {mark!r} to put the subject in: {prompt!r}.")
            content, position, extra = _ids(tokenizer, prompt), -1, 0
        else:
            before, after = _ids(tokenizer, parts[0]), _ids(tokenizer, parts[1])
            content, position, extra = [*before, stand_in, *after], 1 + len(before), num_words - 1
        too_many = len(content) + 2 + extra - length
        if too_many > 0:
            raise ValueError(
                f"prompt is too long by {too_many} tokens: {length - 2} fit, of which the subject takes "
                f"{num_words}: {prompt!r}."
            )
        row = [tokenizer.bos_token_id, *content, tokenizer.eos_token_id]
        rows.append(row + [tokenizer.pad_token_id] * (length - len(row)))
        positions.append(position)
    return TokenizedPrompts(torch.tensor(rows), torch.tensor(positions))


def _ids(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    # verbose=False: the length is checked here, with a better sentence than the tokenizer's warning.
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def select_words(words: Tensor, which: str | Sequence[int] = "w0") -> Tensor:
    """Choose the words to inject.

    Args:
        words: (B, N, d), or (N, d).
        which: "w0" … "w4", "all", or indexes such as (0, 2).

    Returns:
        (B, n, d), or (n, d), in the order asked for.

    Raises:
        ValueError: for a word that does not exist.
    """
    count = words.shape[-2]
    if which == "all":
        indexes = list(range(count))
    elif isinstance(which, str):
        number = which.removeprefix("w")
        if not which.startswith("w") or not number.isdecimal():
            raise ValueError(f'words must be "w0" to "w{count - 1}", "all", or a tuple of indexes, got {which!r}.')
        indexes = [int(number)]
    else:
        indexes = list(which)
    if not indexes or any(isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < count for i in indexes):
        raise ValueError(f"words asks for {which!r}, but this subject has the words w0 to w{count - 1}.")
    first, last = indexes[0], indexes[-1] + 1
    if indexes == list(range(first, last)):
        return words[..., first:last, :]
    # A list as an index would become a tensor that has to reach the device first.
    return torch.stack([words[..., i, :] for i in indexes], dim=-2)


@torch.no_grad()
def word_embeddings(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, text: str) -> Tensor:
    """The token embeddings of ordinary words: what stands where a subject's words would, if the text were written out.

    Args:
        text_encoder: its table of token embeddings is read.
        tokenizer: the tokenizer that belongs to it.
        text: such as "dog" or "stuffed animal".

    Returns:
        (n, d), one row per token.

    Raises:
        ValueError: when the text holds no token.
    """
    ids = _ids(tokenizer, text)
    if not ids:
        raise ValueError(f"text must hold at least one word, got {text!r}.")
    table = text_encoder.get_input_embeddings().weight
    return table[torch.tensor(ids, device=table.device)].clone()


def _insert(embeddings: Tensor, words: Tensor, word_index: Tensor) -> Tensor:
    """Replace row i by the words, move later rows right, cut the tail: (B, L, d) -> (B, L, d)."""
    batch, length, _ = embeddings.shape
    count = words.shape[1]
    target = torch.arange(length, device=embeddings.device).expand(batch, length)  # positions after insertion
    index = word_index.to(embeddings.device).unsqueeze(1)  # (B, 1)
    has_word = index >= 0
    source = torch.where(has_word & (target >= index + count), target - (count - 1), target)
    shifted = embeddings.gather(1, source.unsqueeze(-1).expand_as(embeddings))
    slot = (target - index).clamp(0, count - 1)  # which word, where a word stands
    placed = words.to(embeddings.dtype).gather(1, slot.unsqueeze(-1).expand(batch, length, words.shape[-1]))
    is_word = has_word & (target >= index) & (target < index + count)
    return torch.where(is_word.unsqueeze(-1), placed, shifted)


@contextmanager
def inject_words(text_encoder: CLIPTextModel, words: Tensor, word_index: Tensor) -> Iterator[None]:
    """Within this context, token embeddings of ``text_encoder`` carry the words in place of the placeholder.

    A forward hook on this one instance's token embedding, removed on exit; positions are added after it, as the
    authors do.

    Args:
        text_encoder: the text encoder that will be called once per batch of the same rows.
        words: (B, n, d).
        word_index: (B,), position of the placeholder; -1 leaves a row alone.
    """

    def hook(module: torch.nn.Module, args: tuple, output: Tensor) -> Tensor:
        return _insert(output, words.to(output.device), word_index)

    handle = text_encoder.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def encode_prompts(text_encoder: CLIPTextModel, tokenized: TokenizedPrompts, words: Tensor | None = None) -> Tensor:
    """Text features of prompts, with a subject's words in place of the placeholder.

    Args:
        text_encoder: a ``CLIPTextModel``.
        tokenized: ids (B, L) and positions (B,), from `tokenize` or put together by hand.
        words: (B, n, d); None encodes the ids as they are.

    Returns:
        encoder_hidden_states (B, L, d): the last hidden state after the final LayerNorm.

    Raises:
        ValueError: for shapes that do not fit, or when inserting would push real tokens off the end (looked at where
            the ids and positions are on the CPU; `tokenize` checks the same).
    """
    input_ids, word_index = tokenized
    if input_ids.ndim != 2 or word_index.shape != input_ids.shape[:1]:
        raise ValueError(
            "tokenized must hold input_ids (batch, length) and word_index (batch,), "
            f"got {tuple(input_ids.shape)} and {tuple(word_index.shape)}."
        )
    device = text_encoder.get_input_embeddings().weight.device
    # Weights that are offloaded one by one are on "meta" until they are used: accelerate then moves the ids itself.
    ids = input_ids if device.type == "meta" else input_ids.to(device)
    if words is None:
        return text_encoder(ids)[0]
    width = text_encoder.config.hidden_size
    if words.ndim != 3 or words.shape[0] != input_ids.shape[0] or words.shape[2] != width:
        raise ValueError(f"words must be ({input_ids.shape[0]}, n, {width}), got {tuple(words.shape)}.")
    _check_fits(input_ids, word_index, words.shape[1], text_encoder.config.eos_token_id)
    with inject_words(text_encoder, words, word_index):
        return text_encoder(ids)[0]


def _check_fits(input_ids: Tensor, word_index: Tensor, count: int, eos: int) -> None:
    """Raise when the end-of-text token of a row would be cut off, or a position is outside the text.

    Only values on the CPU are looked at, see `_values.visible`.
    """
    length = input_ids.shape[1]
    if visible(word_index) and max(word_index.tolist(), default=-1) >= length:
        raise ValueError(f"word_index must be below the text length {length}, got {word_index.tolist()}.")
    if not (visible(word_index) and visible(input_ids)):
        return
    is_eos = (input_ids == eos).int()
    # Configs from before 2023 name a wrong eos id; there the end of text is the highest id of the row.
    end = torch.where(is_eos.any(dim=1), is_eos.argmax(dim=1), input_ids.argmax(dim=1))
    too_many = max((end + count - length).masked_fill(word_index < 0, 0).tolist(), default=0)
    if too_many > 0:
        raise ValueError(
            f"prompt is too long by {too_many} tokens for {count} injected words: "
            f"{length} positions in all; use fewer words or a shorter prompt."
        )
