"""Learns the byte-pair vocabulary of the captions and writes it as an ordinary CLIP tokenizer of 1024 tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from elite.toybox import world
from elite.toybox.shapes import TEXT_POSITIONS, VOCABULARY_SIZE

START, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"
# Prompts of the paper and of its readers use words that the captions may lack; each is worth a token or two.
COMMON_TEXT = """
a photo of a the of in on with and its top it at from by for next to near behind under over front back side is are
was photo rendering cropped photo bright clean dirty dark close-up cool weird good bad nice small large depiction
picture painting jungle snow beach cobblestone street pink fabric wooden floor city background mountain blue house
purple rug forest wheat field tree autumn leaves eiffel tower floating water ocean milk mirror sunflowers sidewalk
crowded green grass dirt road white wearing red hat santa rainbow scarf black top pair pink glasses yellow shirt
firefighter outfit police chef witch wizard shiny wet cube shaped red purple blue orange brown grey gray golden
silver striped dotted spotted plain checkered patterned dog cat bear bird fish rabbit fox penguin pig owl duck frog
turtle cow sheep lion monkey mug vase teapot car truck boat house backpack boot sneaker clock lamp chair guitar
robot balloon book ball candle bowl can toy stuffed animal plushie cup bottle big tall wide round long short soft
hard old new fine style drawing sketch watercolor digital art colorful color colour hat scarf glasses shirt coat
dress crown bow tie boots sunny rainy cloudy night day morning evening sky sun moon star stars this that these there
here some many other people person child man woman someone holding sitting standing running sleeping playing flying
swimming jumping looking left right middle center corner inside outside above between through kitchen garden desert
window door table bed sofa shelf box basket paper glass metal plastic stone leather wool gold bronze cotton straw
grey underwater space planet cloud rain storm fire ice lake pond island bridge castle tower church school market
library museum
"""


def count_words(texts: Iterable[str]) -> Counter[tuple[str, ...]]:
    """How often each word occurs, as its letters (CLIP's printable bytes), the last with the suffix."""
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        for word in re.findall(r"[^\W\d_]+|\d|[^\s\w]+", text.lower()):
            spelled = "".join(piece for piece, _ in letters.pre_tokenize_str(word))
            words[(*spelled[:-1], spelled[-1] + SUFFIX)] += 1
    return words


def learn_merges(texts: Iterable[str], count: int) -> list[tuple[str, str]]:
    """The first ``count`` byte-pair merges of ``texts``; among equally frequent pairs the first in the alphabet.

    The trainer of the tokenizers library breaks such ties differently in every process, so its vocabulary could not be
    made again.

    Raises:
        ValueError: if the texts are too few to give that many merges.
    """
    words = count_words(texts)
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        if not pairs:
            raise ValueError(f"`texts` give {len(merges)} merges, but {count} are needed: pass more captions.")
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, times in words.items():
            merged[join_pair(word, best)] += times
        words = merged
    return merges


def join_pair(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The word with every occurrence of the pair as one piece, from the left."""
    joined: list[str] = []
    for piece in word:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return tuple(joined)


def build_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges were learned from ``captions``: 512 bytes, the merges, then start and end."""
    common = [line for line in COMMON_TEXT.splitlines() if line] * 3
    # The order of sorted() and not that of a set: equal captions must give an equal vocabulary.
    merges = learn_merges([*sorted(set(captions)), *common], VOCABULARY_SIZE - 514)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + SUFFIX for letter in alphabet), *("".join(merge) for merge in merges), START, END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=END,
        model_max_length=TEXT_POSITIONS,
    )


def world_captions() -> list[str]:
    """Captions with every word of the world: all classes in all scenes, and everything that they can wear or be."""
    adjectives = [*world.PROPERTIES, *world.COLORS]
    said = [{"class_name": name, "scene": scene} for name in world.CLASSES for scene in world.SCENES]
    said += [{"class_name": name, "accessory": worn} for name in world.CLASSES for worn in world.ACCESSORIES]
    said += [{"class_name": name, "color": adjective} for name in world.CLASSES for adjective in adjectives]
    patterns = [pattern for pattern in world.PATTERNS if pattern != "plain"]
    said += [{"class_name": name, "pattern": pattern} for name in world.CLASSES for pattern in patterns]
    return [world.write_caption(template, facts) for facts in said for template in ("{}", "a photo of a {}")]

