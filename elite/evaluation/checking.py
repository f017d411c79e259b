"""``elite report NAME --check``: a stored table is what was written, and its pictures still score what it says."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from elite.evaluation.competing import learning
from elite.evaluation.competitors import COMPETITORS
from elite.evaluation.drawing import ANCHORS, Anchor, Method, PlainText
from elite.evaluation.scoring import CONVENTIONS, SubjectScorer, with_identity
from elite.evaluation.studio import Row, Studio

REDRAWN = 8  # pictures of each table
TOLERANCE = 0.01


class MismatchError(ValueError):
    """A stored table that this model, these encoders or these seeds do not give."""


def check(stored: Mapping[str, Any], studio: Studio) -> list[str]:
    """Redraw some pictures of a stored table from their seeds, and compare all their scores.

    Which pictures these are depends on the table's name alone; they are spread over its rows.

    Args:
        stored: a table, as `results.read` gives it (which checks that it is what was written).
        studio: what it was made with.

    Returns:
        A line for each picture, saying how far its scores are off at most.

    Raises:
        MismatchError: when the table was made with other models or settings, or a score is off by more than 0.01.
    """
    _check_same(stored, studio)
    lines = []
    for label, place in places(stored):
        row = stored["rows"][label]
        worst, name = _redrawn(row, place, studio)
        where = f"{stored['name']}, row {label}, subject {place[0]}, prompt {place[1]}, picture {place[2]}"
        if worst > TOLERANCE:
            raise MismatchError(f"{where}: {name} is off by {worst:.4f}, more than {TOLERANCE}.")
        lines.append(f"{where}: at most {worst:.4f} off")
    return lines


def places(stored: Mapping[str, Any]) -> list[tuple[str, tuple[int, int, int]]]:
    """The pictures that are redrawn: (row's label, (subject, prompt, picture)), rows in turn."""
    draw = random.Random(f"check:{stored['name']}")
    rows = [label for label, row in stored["rows"].items() if row["redrawn"] is None or row["redrawn"]]
    order = draw.sample(rows, len(rows))
    every: dict[str, list[tuple[int, int, int]]] = {}
    for label in order:
        row = stored["rows"][label]
        scores = row["scores"]["clip_i"]
        every[label] = [
            (subject, prompt, picture)
            for subject in row["redrawn"] or range(len(scores))
            for prompt, pictures in enumerate(scores[subject])
            for picture in range(len(pictures))
        ]
        draw.shuffle(every[label])
    # The first of each row, then the second of each, …
    turns = [(label, every[label][turn]) for turn in range(REDRAWN) for label in order if turn < len(every[label])]
    return turns[:REDRAWN]


def _check_same(stored: Mapping[str, Any], studio: Studio) -> None:
    made = stored["provenance"]
    if made["weights"] != studio.provenance["weights"]:
        raise MismatchError(f"{stored['name']} was made with other weights than these: make it again.")
    used = {name: digest for name, digest in made["variants"].items()}
    if used != studio.variant_digests(used):
        raise MismatchError(f"{stored['name']} was made with other variants than these: make it again.")
    if made["encoders"] != {"name": studio.encoders.name, "models": dict(studio.encoders.models)}:
        raise MismatchError(f"{stored['name']} was scored by other encoders than these: make it again.")
    if stored["settings"]["subjects"] != [one.name for one in studio.subjects]:
        raise MismatchError(f"{stored['name']} was made with other subjects than these: make it again.")


def method_of(stored: Mapping[str, Any], studio: Studio) -> Method:
    """The method that a stored row was drawn by."""
    name = stored["name"]
    if "fusion_weight" in stored:
        options = {key: stored[key] for key in ("fusion_weight", "words", "reweighting")}
        return studio.elite(name, stored["variant"], **options)
    if "budget" in stored:
        kind = next(kind for kind in COMPETITORS if name == f"{kind}-{stored['budget']}")
        return learning(studio, kind, stored["budget"], studio.learned / kind)
    return Anchor(name) if name in ANCHORS else PlainText(studio.pipeline)


def _redrawn(row: Mapping[str, Any], place: tuple[int, int, int], studio: Studio) -> tuple[float, str]:
    """The largest difference of a picture's scores, and which score it is."""
    subject, prompt, picture = place
    prompts = None if row["prompts"] is None else tuple(row["prompts"])
    evaluation = studio.evaluation(Row(method_of(row["method"], studio), prompts, row["pictures"]))
    shown = evaluation.subjects[subject]
    seed = studio.drawing.picture_seed(*place)
    drawn = evaluation.method.draw(shown, [shown.prompts[prompt]], [seed], studio.drawing)
    scorer = SubjectScorer(studio.subjects[subject], studio.encoders)
    found = {name: values[0] for name, values in scorer([shown.prompts[prompt]], drawn).items()}
    if "identity" in row["scores"]:
        # The span between the ends is the mean over all subjects, which the table keeps.
        likeness: list[list[list[float | None]]] = [[[None]] for _ in row["ends"]]
        likeness[subject] = [[found["dino_i_others"]]]
        identity = with_identity(likeness, [tuple(end) for end in row["ends"]])
        found["identity"] = identity[subject][0][0] if identity is not None else None
    worst, name = 0.0, "nothing"
    for each in CONVENTIONS:
        if each in row["scores"]:
            kept, now = row["scores"][each][subject][prompt][picture], found.get(each)
            if (kept is None) != (now is None):
                return float("inf"), each
            if kept is not None and abs(kept - now) > worst:
                worst, name = abs(kept - now), each
    return worst, name
