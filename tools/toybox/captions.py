"""What the training captions say: several true captions of each picture, and which facts each of them states."""

from __future__ import annotations

import random
from dataclasses import dataclass

from elite.prompts import TEMPLATES
from elite.toybox.world import FACTS, write_caption

CAPTIONS_PER_PICTURE = 5
FULL = 2  # of them say whether and where; the others leave out what a reader's prompt may leave out
ADJECTIVES = 0.6  # chance of naming the colour, and of naming the pattern


@dataclass(frozen=True)
class Description:
    """A caption and what it says of each of `FACTS`; None where it says nothing."""

    text: str
    said: tuple[str | None, ...]


def described(facts: dict) -> list[Description]:
    """True captions of one picture, the same at every call: full ones first, then some that say less."""
    draw = random.Random(str(facts["seed"]))
    captions = []
    for number in range(CAPTIONS_PER_PICTURE):
        said = {name: facts[name] for name in FACTS}
        for name in ("color", "pattern"):
            if draw.random() > ADJECTIVES:
                said[name] = None
        for name in ("scene", "accessory"):
            if draw.random() > (1.0 if number < FULL else 0.5):
                said[name] = None
        template = "{}" if draw.random() < 0.4 else draw.choice(TEMPLATES)
        if said["property"]:
            said["color"] = said["pattern"] = None  # one adjective a noun, as in the paper's prompts
        captions.append(Description(write_caption(template, said), tuple(said[name] for name in FACTS)))
    return captions


def captions_of(facts: dict) -> list[str]:
    """The texts of `described`."""
    return [caption.text for caption in described(facts)]
