"""The user study of Table 3: three questions about blinded pairs, and how often one method is preferred.

Left and right are shuffled, methods are not named, and every answer is on disk before the next pair is shown.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from elite.evaluation.protocol import GIVEN, PLAN
from elite.evaluation.subjects import fill
from elite.io.files import read_json

# The paper's questions, word by word (Sec. 4.4).
QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "text alignment": "Which image is more consistent with the text?",
        "image alignment": "Which image better represents the objects in target images?",
        "editing alignment": "Which image is more consistent with both the target subject and the text?",
    }
)
SIDES = ("left", "right")


@dataclass(frozen=True)
class Pair:
    """One question about two pictures.

    Attributes:
        question: one of `QUESTIONS`.
        ours, rival: names of the two methods.
        subject: its name.
        text: what was asked for, the class name in the subject's place.
        given: file of the picture that both methods were given.
        left, right: files of the two pictures.
        ours_is: "left" or "right".
    """

    question: str
    ours: str
    rival: str
    subject: str
    text: str
    given: Path
    left: Path
    right: Path
    ours_is: str


@dataclass(frozen=True)
class Preference:
    """How often ours was preferred to a rival under one question.

    Attributes:
        rival, question: whom, and under which.
        ours, answers: how often, of how many.
        low, high: exact 95 % interval of the rate (Clopper and Pearson).
        p_value: of a fair coin giving a count as far from a half.
    """

    rival: str
    question: str
    ours: int
    answers: int
    low: float
    high: float
    p_value: float

    @property
    def rate(self) -> float:
        """Share of answers that preferred ours."""
        return self.ours / self.answers


def pairs_of(
    ours: str | Path, rivals: Mapping[str, str | Path], count: int = 30, seed: int = 0, name: str = "ours"
) -> list[Pair]:
    """``count`` questions of each kind, drawn from the pictures of evaluations.

    Args:
        ours: folder of our evaluation, as `elite evaluate` leaves it.
        rivals: folders of other evaluations of the same subjects and prompts, by the rivals' names.
        count: questions of each kind; the paper asked each of its users 30.
        seed: of the choice, the order and the sides; give every participant another.
        name: of ours.

    Returns:
        The questions in a shuffled order, kinds and rivals mixed.

    Raises:
        FileNotFoundError: when a folder holds no evaluation, or lacks a picture.
        ValueError: when two evaluations drew different things, or nothing is to be asked.
    """
    plan = _plan(Path(ours))
    if not rivals or count < 1:
        raise ValueError(f"rivals must name at least one folder, and count be at least 1, got {dict(rivals)}, {count}.")
    for rival, folder in rivals.items():
        other = _plan(Path(folder))
        for key in ("subjects", "prompts", "pictures"):
            if other[key] != plan[key]:
                raise ValueError(f"{rival} drew other {key} than ours: pairs need the same of both.")
    draw = random.Random(f"study:{seed}")
    pairs = []
    for question in QUESTIONS:
        for number in range(count):
            rival = sorted(rivals)[number % len(rivals)]
            subject = draw.randrange(len(plan["subjects"]))
            prompt = draw.randrange(len(plan["prompts"][subject]))
            place = plan["subjects"][subject]["name"], f"{prompt:02d}-{draw.randrange(plan['pictures'])}.png"
            files = [Path(folder, *place) for folder in (ours, rivals[rival])]
            ours_is = draw.choice(SIDES)
            left, right = files if ours_is == "left" else files[::-1]
            text = fill(plan["prompts"][subject][prompt], plan["subjects"][subject]["class_name"])
            given = Path(ours, place[0], GIVEN)
            pairs.append(Pair(question, name, rival, place[0], text, given, left, right, ours_is))
    for pair in pairs:
        for file in (pair.given, pair.left, pair.right):
            if not file.is_file():
                raise FileNotFoundError(f"{file} is missing: draw the pictures before they are compared.")
    draw.shuffle(pairs)
    return pairs


def _plan(folder: Path) -> dict[str, Any]:
    if not (folder / PLAN).is_file():
        raise FileNotFoundError(f"{folder} holds no evaluation: elite evaluate --output {folder} makes one.")
    return read_json(folder / PLAN)


class Answers:
    """One participant's answers, each written when it is given: one JSON object a line.

    Args:
        path: of the file; answers that are there are kept, and their pairs not asked again.
        pairs: what is asked, in order.

    Raises:
        ValueError: when the file holds something else, or answers to other pairs.
    """

    def __init__(self, path: str | Path, pairs: Sequence[Pair]) -> None:
        self.path, self.pairs = Path(path), list(pairs)
        self.given = read_answers(self.path) if self.path.exists() else []
        asked = [_asked(pair) for pair in self.pairs[: len(self.given)]]
        if len(self.given) > len(self.pairs) or [{k: one[k] for k in asked[0]} for one in self.given] != asked:
            raise ValueError(f"{self.path} holds answers to other pairs: give each participant a file and a seed.")

    @property
    def current(self) -> Pair | None:
        """The pair that is asked now, or None when all are answered."""
        return self.pairs[len(self.given)] if len(self.given) < len(self.pairs) else None

    def answer(self, side: str) -> None:
        """Write the answer to the current pair.

        Args:
            side: "left" or "right".

        Raises:
            ValueError: for another side, or when all pairs are answered.
            OSError: when it cannot be written; the pair is then still the current one.
        """
        pair = self.current
        if pair is None:
            raise ValueError("all pairs are answered.")
        if side not in SIDES:
            raise ValueError(f'side must be "left" or "right", got {side!r}.')
        one = {**_asked(pair), "chosen": side, "prefers": pair.ours if side == pair.ours_is else pair.rival}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(one, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.given.append(one)


def _asked(pair: Pair) -> dict[str, str]:
    return {key: str(value) for key, value in asdict(pair).items() if key not in ("given", "left", "right")} | {
        "picture": pair.left.name
    }


def read_answers(path: str | Path) -> list[dict[str, str]]:
    """The answers of a file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the line that is no answer.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"answers {path} do not exist.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            one = json.loads(line)
            known = one["question"] in QUESTIONS and one["prefers"] in (one["ours"], one["rival"])
        except (ValueError, TypeError, KeyError):
            known = False
        if not known:
            raise ValueError(f"line {number} of {path} is no answer: {line[:60]!r}.")
        found.append(one)
    return found


def preferences(answers: Sequence[Mapping[str, str]]) -> list[Preference]:
    """How often ours was preferred, for each rival and question, with exact binomial intervals.

    Args:
        answers: of all participants.

    Returns:
        One for each rival and question that was asked, in the order of rivals' names and of `QUESTIONS`.
    """
    from scipy.stats import binomtest

    found = []
    for rival in sorted({one["rival"] for one in answers}):
        for question in QUESTIONS:
            asked = [one for one in answers if one["rival"] == rival and one["question"] == question]
            if asked:
                ours = sum(one["prefers"] == one["ours"] for one in asked)
                test = binomtest(ours, len(asked))
                interval = test.proportion_ci(method="exact")
                found.append(
                    Preference(
                        rival,
                        question,
                        ours,
                        len(asked),
                        float(interval.low),
                        float(interval.high),
                        float(test.pvalue),
                    )
                )
    return found
