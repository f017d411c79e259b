"""A competitor as a method of an evaluation: it learns each subject once, and keeps what it learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elite.evaluation.competitors.base import Competitor
from elite.evaluation.competitors.learned import Learned
from elite.evaluation.drawing import Drawing
from elite.evaluation.subjects import EvaluationSubject, fill

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class Learning:
    """A competitor that draws what it has learnt of each subject's given picture.

    Attributes:
        competitor: learns and draws.
        folder: ``SUBJECT.safetensors`` in it is what was learnt; it is read where it is there.
        budget: optimiser steps; those of the competitor's settings when left out.
        name: of the row; the competitor's when left out.
    """

    competitor: Competitor
    folder: Path
    budget: int | None = None
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or self.competitor.name
        self._last: tuple[str, Learned] | None = None

    def settings(self) -> Mapping[str, Any]:
        """The competitor's settings and the budget."""
        return {**asdict(self.competitor.settings), "budget": self._steps}

    @property
    def _steps(self) -> int:
        return self.competitor.settings.steps if self.budget is None else self.budget

    def learned(self, subject: EvaluationSubject) -> Learned:
        """What is known of a subject, learnt on first use.

        Raises:
            ValueError: when the file that is there was learnt with other settings, or is damaged.
        """
        if self._last is not None and self._last[0] == subject.name:
            return self._last[1]
        path = self.folder / f"{subject.name}.safetensors"
        if path.is_file():
            found = Learned.load(path)
            wanted = asdict(self.competitor.settings), self._steps, self.competitor.name
            if (dict(found.settings), found.steps, found.method) != wanted:
                raise ValueError(f"{path} was learnt with other settings: delete it, or give another folder.")
        else:
            found = self.competitor.learn([subject.given.image], subject.class_name, self._steps)
            found.save(path)
            found = Learned.load(path)  # what draws is what was saved, in this run and in one that goes on
        self._last = subject.name, found
        return found

    def draw(
        self, subject: EvaluationSubject, prompts: Sequence[str], seeds: Sequence[int], drawing: Drawing
    ) -> list[Image]:
        """Pictures of prompts with "{}" for the subject, one seed each."""
        with self.competitor.installed(self.learned(subject)) as noun:
            return drawing.draw(self.competitor.pipeline, [fill(prompt, noun) for prompt in prompts], seeds)
