"""What the training captions say: several true captions of each picture, and which facts each of them states."""

from __future__ import annotations

import random
from dataclasses import dataclass

from elite.prompts import TEMPLATES

FACTS = ("class_name", "scene", "accessory", "property", "color")
CAPTIONS_PER_PICTURE = 6


@dataclass(frozen=True)
class Description:
    """A caption and what it says of each of `FACTS`; None where it says nothing."""

    text: str
    said: tuple[str | None, ...]


def article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def write_caption(template: str, said: dict[str, str | None]) -> str:
    """A caption in the order of the paper's prompts: template, property or colour, class, accessory, scene."""
    adjective = said.get("property") or said.get("color")
    noun = f"{adjective} {said['class_name']}" if adjective else str(said["class_name"])
    if template == "{}":
        words = article(noun)
    elif template.endswith("a {}") and noun[0] in "aeiou":
        words = template.removesuffix("a {}") + article(noun)
    else:
        words = template.format(noun)
    return " ".join(part for part in (words, said.get("accessory"), said.get("scene")) if part)


def described(facts: dict) -> list[Description]:
    """True captions of one picture, the same at every call: its own first, then some that say less or say it otherwise."""
    draw = random.Random(str(facts["seed"]))
    captions = []
    for number in range(CAPTIONS_PER_PICTURE):
        # The first two say everything; the others leave out what a reader's prompt may leave out.
        keep = 1.0 if number < 2 else 0.5
        said = {name: facts[name] for name in FACTS}
        for name in ("scene", "accessory", "color"):
            if draw.random() > keep:
                said[name] = None
        if number < 2 and draw.random() < 0.5:
            said["color"] = None
        template = "{}" if draw.random() < 0.4 else draw.choice(TEMPLATES)
        if said["property"]:
            said["color"] = None  # one adjective a noun, as in the paper's prompts
        captions.append(Description(write_caption(template, said), tuple(said[name] for name in FACTS)))
    return captions


def captions_of(facts: dict) -> list[str]:
    """The texts of `described`."""
    return [caption.text for caption in described(facts)]
