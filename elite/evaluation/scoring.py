"""Scores of pictures: the three metrics under every convention that public harnesses use, and what a judge sees.

Harnesses disagree about what a picture is compared with, and their numbers with them. So every picture is scored in all
these ways at once, and which was meant is a matter of reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from elite.evaluation.encoders import Encoders
from elite.evaluation.metrics import image_likeness, is_nearest, text_likeness
from elite.evaluation.subjects import EvaluationSubject, facts_of, fill

if TYPE_CHECKING:
    from PIL.Image import Image

DIGITS = 4  # of every stored score

# What each score is. The first three are those of DreamBooth's evaluation, and of the paper's tables.
CONVENTIONS: Mapping[str, str] = {
    "clip_i": "CLIP-I, mean over all pictures of the subject, the given one among them",
    "clip_t": "CLIP-T, the class name for the placeholder",
    "dino_i": "DINO-I, mean over all pictures of the subject, the given one among them",
    "clip_i_input": "CLIP-I, to the given picture only (Kosmos-G)",
    "dino_i_input": "DINO-I, to the given picture only (Kosmos-G, DreamBench++)",
    "clip_i_others": "CLIP-I, to all pictures but the given one",
    "dino_i_others": "DINO-I, to all pictures but the given one",
    "clip_t_deleted": "CLIP-T, the placeholder deleted (textual inversion)",
    "clip_t_background": "CLIP-T, the words after the subject alone (CustomNet)",
    "clip_t_scaled": "CLIP-T × 2.5 (CustomConcept101, after CLIPScore)",
    "identity": "DINO-I to all but the given one, from 0 (look-alikes) to 1 (the subject's own pictures)",
    "retrieval": "1 where it is nearer to the subject's own pictures than to every look-alike",
    "class": "1 where the judge sees the subject's class",
    "scene": "1 where the judge sees the scene that the prompt names",
    "accessory": "1 where the judge sees what the prompt has the subject wear",
    "color": "1 where the judge sees the colour that the prompt asks for",
}


@dataclass(frozen=True, eq=False)
class SubjectScorer:
    """Scores pictures of one subject; what they are compared with is encoded once.

    Attributes:
        subject: whom the pictures should show.
        encoders: what looks at them.
    """

    subject: EvaluationSubject
    encoders: Encoders

    @cached_property
    def _clip(self) -> Tensor:
        """Of the given picture and the others, (1 + R, D)."""
        return self.encoders.clip_image([self.subject.given.image, *self.subject.references])

    @cached_property
    def _dino(self) -> Tensor:
        return self.encoders.dino([self.subject.given.image, *self.subject.references])

    @cached_property
    def _lookalikes(self) -> Tensor | None:
        """(L, K, D), or None where there are none."""
        groups = self.subject.lookalikes
        if not groups or not groups[0]:
            return None
        flat = self.encoders.dino([picture for group in groups for picture in group])
        return flat.unflatten(0, (len(groups), len(groups[0])))

    @cached_property
    def ends(self) -> tuple[float, float] | None:
        """Mean DINO-I of look-alikes, and of the subject's own pictures to each other: the ends of "identity"."""
        if self._lookalikes is None or len(self._dino) < 3:
            return None
        low = image_likeness(self._lookalikes.flatten(0, 1), self._dino[1:])
        return float(low.mean()), _among_themselves(self._dino[1:])

    @cached_property
    def real(self) -> dict[str, float]:
        """CLIP-I and DINO-I of the subject's own pictures to each other, the given one among them: what is no copy."""
        return {"clip_i": _among_themselves(self._clip), "dino_i": _among_themselves(self._dino)}

    def __call__(self, prompts: Sequence[str], pictures: Sequence[Image]) -> dict[str, list[float | None]]:
        """Every score of some pictures.

        Args:
            prompts: with "{}" for the subject, one for each picture.
            pictures: RGB.

        Returns:
            By the names of `CONVENTIONS`, one value a picture, not rounded; None where a score has no meaning for it.
            "identity" is left to `with_identity`, which needs all subjects.
        """
        if len(prompts) != len(pictures):
            raise ValueError(f"pictures must be one for each of the {len(prompts)} prompts, got {len(pictures)}.")
        clip, dino = self.encoders.clip_image(pictures), self.encoders.dino(pictures)
        texts = {
            "clip_t": [fill(prompt, self.subject.class_name) for prompt in prompts],
            "clip_t_deleted": [_tidy(prompt.replace("{}", "")) for prompt in prompts],
            "clip_t_background": [prompt.partition("{}")[2].strip() for prompt in prompts],
        }
        scores: dict[str, list[float | None]] = {
            "clip_i": image_likeness(clip, self._clip).tolist(),
            "dino_i": image_likeness(dino, self._dino).tolist(),
            "clip_i_input": image_likeness(clip, self._clip[:1]).tolist(),
            "dino_i_input": image_likeness(dino, self._dino[:1]).tolist(),
            "clip_i_others": image_likeness(clip, self._clip[1:]).tolist(),
            "dino_i_others": image_likeness(dino, self._dino[1:]).tolist(),
        }
        for name, wanted in texts.items():
            alike = text_likeness(clip, self._texts(wanted)).tolist()
            scores[name] = [value if text else None for value, text in zip(alike, wanted, strict=True)]
        scores["clip_t_scaled"] = [2.5 * max(value, 0.0) for value in scores["clip_t"] if value is not None]
        if self._lookalikes is not None:
            own = self._dino[1 : 1 + self._lookalikes.shape[1]]  # as many as there are of each look-alike
            scores["retrieval"] = is_nearest(dino, own, self._lookalikes).float().tolist()
        return scores | self._judged(prompts, pictures)

    def _texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts, each different one encoded once."""
        distinct = list(dict.fromkeys(texts))
        embeddings = self.encoders.clip_text([text or "a" for text in distinct])  # an empty one is not counted
        return embeddings[[distinct.index(text) for text in texts]]

    def _judged(self, prompts: Sequence[str], pictures: Sequence[Image]) -> dict[str, list[float | None]]:
        if self.encoders.judge is None:
            return {}
        seen = self.encoders.judge(pictures)
        wanted = [{**(facts := facts_of(prompt)), "color": facts.get("property")} for prompt in prompts]
        colors = set(_colors())
        scores: dict[str, list[float | None]] = {}
        if "class_name" in seen:
            scores["class"] = [float(answer == self.subject.class_name) for answer in seen["class_name"]]
        for question in ("scene", "accessory", "color"):
            if question in seen:
                asked = [facts.get(question) for facts in wanted]
                if question == "color":
                    asked = [color if color in colors else None for color in asked]
                scores[question] = [
                    None if right is None else float(answer == right)
                    for answer, right in zip(seen[question], asked, strict=True)
                ]
        return scores


def with_identity(
    likeness: Iterable[Iterable[Iterable[float | None]]], ends: Sequence[tuple[float, float] | None]
) -> list[list[list[float | None]]] | None:
    """The "identity" of pictures from their "dino_i_others", by subject, prompt and picture.

    The span is the mean over subjects: a subject with a close look-alike would otherwise outweigh all others, and the
    mean over subjects is a quotient of means.

    Args:
        likeness: "dino_i_others".
        ends: of each subject, see `SubjectScorer.ends`.

    Returns:
        The scores, or None where a subject has no ends, or they do not lie apart.
    """
    if not ends or any(end is None for end in ends):
        return None
    known = [end for end in ends if end is not None]
    span = sum(high - low for low, high in known) / len(known)
    if span < 1e-3:
        return None
    return [
        [[None if value is None else (value - low) / span for value in pictures] for pictures in prompts]
        for prompts, (low, _) in zip(likeness, known, strict=True)
    ]


def _among_themselves(embeddings: Tensor) -> float:
    """Mean cosine of all pairs of different pictures, of embeddings (P, D) with P > 1."""
    units = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    pairs, count = units @ units.T, len(units)
    return float((pairs.sum() - pairs.diagonal().sum()) / (count * (count - 1)))


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _colors() -> Iterable[str]:
    from elite.toybox.world import COLORS

    return COLORS
