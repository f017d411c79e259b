"""Which pictures fail, by a rule that no hand can bend."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elite.evaluation.studio import Row, Studio

RULE = (
    "Each picture has two ranks among all pictures: of its likeness to the subject (DINO-I to all but the given "
    "picture) and of its likeness to the text (CLIP-T with the class name), from 0 (the worst) to 1. A picture is as "
    "good as the lower of the two. The worst are shown, one of each subject at most."
)
SHOWN = 8


def worst(studio: Studio, rows: Mapping[str, Row], done: Mapping[str, Any]) -> dict[str, Any]:
    """The worst pictures of the first row: subject, prompt, picture, and which of the two likenesses was lost."""
    scores = next(iter(done.values()))["scores"]
    return {"rule": RULE, "worst": ranked(scores["dino_i_others"], scores["clip_t"])[:SHOWN]}


def ranked(likeness: list, alignment: list) -> list[dict[str, Any]]:
    """The worst picture of each subject, the worst first.

    Args:
        likeness, alignment: by subject, prompt and picture.
    """
    flat = [sorted(value for prompts in scores for pictures in prompts for value in pictures)
            for scores in (likeness, alignment)]  # fmt: skip
    count = max(1, len(flat[0]) - 1)
    found = []
    for subject, prompts in enumerate(likeness):
        of_subject = []
        for prompt, pictures in enumerate(prompts):
            for picture, value in enumerate(pictures):
                ranks = (
                    bisect_left(flat[0], value) / count,
                    bisect_left(flat[1], alignment[subject][prompt][picture]) / count,
                )
                of_subject.append(
                    {
                        "subject": subject,
                        "prompt": prompt,
                        "picture": picture,
                        "lost": "likeness" if ranks[0] <= ranks[1] else "text",
                        "rank": round(min(ranks), 4),
                    }
                )
        found.append(min(of_subject, key=lambda one: (one["rank"], one["prompt"], one["picture"])))
    return sorted(found, key=lambda one: (one["rank"], one["subject"]))
