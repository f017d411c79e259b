"""Captions in the words of the paper's prompts, and whether they are true."""

from __future__ import annotations

from collections.abc import Mapping

# What a caption can say of a picture; None says nothing.
FACTS = ("class_name", "scene", "accessory", "property", "color", "pattern")


def article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def write_caption(template: str, said: Mapping[str, str | None]) -> str:
    """A caption in the order of the paper's prompts: template, adjectives, class, accessory, scene.

    A property stands alone, as in the paper's prompts; otherwise the pattern comes before the colour.

    Args:
        template: "{}" for the bare noun with its article, or one of the paper's training templates.
        said: what to say, by `FACTS`; None or absent says nothing.
    """
    adjectives = (said.get("property"),) if said.get("property") else (said.get("pattern"), said.get("color"))
    noun = " ".join(word for word in (*adjectives, said["class_name"]) if word)
    if template == "{}":
        words = article(noun)
    elif template.endswith("a {}") and noun[0] in "aeiou":
        words = template.removesuffix("a {}") + article(noun)
    else:
        words = template.format(noun)
    return " ".join(part for part in (words, said.get("accessory"), said.get("scene")) if part)


def caption_is_true(said: Mapping[str, str | None], shown: Mapping[str, str | None]) -> bool:
    """Whether everything a caption says is so in a picture.

    Args:
        said: what the caption says, by `FACTS`.
        shown: what the picture shows (`Picture.facts`).
    """
    return all(said.get(name) in (None, shown.get(name)) for name in FACTS)
