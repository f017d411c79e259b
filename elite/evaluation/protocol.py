"""The evaluation of one method: pictures of all subjects and prompts, drawn in pieces, scored, written as one JSON.

A piece is some pictures of one subject, drawn in one batch. Pieces never change, whoever draws them: a run that was
killed goes on with the pieces that lack pictures, `accelerate launch` shares them among processes and machines, and the
result is the same to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elite.evaluation.drawing import Drawing, Method, described
from elite.evaluation.encoders import Encoders
from elite.evaluation.metrics import estimate
from elite.evaluation.scoring import CONVENTIONS, DIGITS, SubjectScorer, with_identity
from elite.evaluation.subjects import EvaluationSubject
from elite.io.files import read_json, replacing
from elite.io.images import read_image

if TYPE_CHECKING:
    from PIL.Image import Image

PLAN, RESULT, SHEET, GIVEN = "plan.json", "result.json", "sheet.jpg", "given.png"
Progress = Callable[[Sequence["Piece"]], Iterable["Piece"]]  # wraps the pieces, as tqdm does


@dataclass(frozen=True)
class Piece:
    """Pictures that are drawn in one batch: (prompt, picture) numbers of one subject."""

    subject: int
    wanted: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one method draws, and where its pictures lie.

    Attributes:
        method: what draws.
        subjects: whom.
        folder: ``SUBJECT/PROMPT-PICTURE.png`` in it and ``SUBJECT/given.png``, with plan, result and contact sheet.
        drawing: settings shared with other methods.
        pictures: of each subject and prompt; the paper draws five.
        batch: pictures of a piece.
        provenance: models and data behind the method, as plain values, kept with the result.

    Raises:
        ValueError: for no subjects, two of one name, a subject without prompts, or fewer than one picture.
    """

    method: Method
    subjects: Sequence[EvaluationSubject]
    folder: Path
    drawing: Drawing = field(default_factory=Drawing)
    pictures: int = 5
    batch: int = 25
    provenance: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        names = [subject.name for subject in self.subjects]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"subjects must be at least one, each with a name of its own, got {names}.")
        for subject in self.subjects:
            if not subject.prompts:
                raise ValueError(f"subject {subject.name} has no prompts; there is nothing to draw.")
        for name, value in (("pictures", self.pictures), ("batch", self.batch)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")

    def path(self, subject: int, prompt: int, picture: int) -> Path:
        """Where one picture lies."""
        return self.folder / self.subjects[subject].name / f"{prompt:02d}-{picture}.png"

    def pieces(self) -> list[Piece]:
        """All pictures, in batches of one subject each."""
        pieces = []
        for number, subject in enumerate(self.subjects):
            wanted = [(prompt, picture) for prompt in range(len(subject.prompts)) for picture in range(self.pictures)]
            for first in range(0, len(wanted), self.batch):
                pieces.append(Piece(number, tuple(wanted[first : first + self.batch])))
        return pieces

    def missing(self) -> list[Piece]:
        """The pieces of which a picture is not there yet."""
        return [piece for piece in self.pieces() if not all(path.is_file() for path in self._paths(piece))]

    def draw(self, progress: Progress = iter, process: int = 0, processes: int = 1) -> None:
        """Draw what is missing, or this process's part of it.

        Args:
            progress: wraps the pieces, as tqdm does.
            process, processes: consecutive pieces go to one process, so that few processes learn one subject.

        Raises:
            ValueError: when the folder holds the pictures of another evaluation.
            OSError: when a picture cannot be written.
        """
        self.claim()
        every = self.pieces()
        mine = set(every[len(every) * process // processes : len(every) * (process + 1) // processes])
        for piece in progress([piece for piece in self.missing() if piece in mine]):
            for picture, path in zip(self._drawn(piece), self._paths(piece), strict=True):
                with replacing(path) as temporary:
                    picture.save(temporary, format="PNG")

    def claim(self) -> None:
        """Say in the folder what is drawn there.

        Raises:
            ValueError: when it holds the pictures of another evaluation.
        """
        plan, path = self.plan(), self.folder / PLAN
        if path.is_file():
            before = read_json(path)
            if before != json.loads(json.dumps(plan)):
                odd = next(
                    name for name in {**before, **plan} if before.get(name) != json.loads(json.dumps(plan.get(name)))
                )
                raise ValueError(
                    f"output {self.folder} holds the pictures of another evaluation ({odd} differs): "
                    "give another folder, or delete this one."
                )
            return
        for subject in self.subjects:
            with replacing(self.folder / subject.name / GIVEN) as temporary:
                subject.given.image.save(temporary, format="PNG")
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")

    def plan(self) -> dict[str, Any]:
        """Everything that decides the pictures, as plain values."""
        return {
            **described(self.drawing, self.method),
            "subjects": [{"name": one.name, "class_name": one.class_name} for one in self.subjects],
            "prompts": [list(one.prompts) for one in self.subjects],
            "pictures": self.pictures,
            "batch": self.batch,
            "provenance": self.provenance or {},
        }

    def score(self, encoders: Encoders, progress: Callable[[Sequence[int]], Iterable[int]] = iter) -> dict[str, Any]:
        """The result: plan, scores of every picture, and their means with intervals.

        Args:
            encoders: what looks at the pictures.
            progress: wraps the subjects' numbers, as tqdm does.

        Raises:
            FileNotFoundError: when a picture is missing.
            ValueError: when a picture cannot be read.
        """
        absent = self.missing()
        if absent:
            path = next(path for path in self._paths(absent[0]) if not path.is_file())
            raise FileNotFoundError(f"{path} is missing: draw the pictures before they are scored.")
        scores: dict[str, list] = {}
        ends, real = [], []
        for number in progress(range(len(self.subjects))):
            scorer = SubjectScorer(self.subjects[number], encoders)
            found = self._scores_of(number, scorer)
            ends.append(scorer.ends)
            real.append(scorer.real)
            for name, values in found.items():
                scores.setdefault(name, []).append(values)
        identity = with_identity(scores["dino_i_others"], ends)
        if identity is not None:
            scores["identity"] = identity
        rounded = {name: _rounded(scores[name]) for name in CONVENTIONS if name in scores}
        return {
            **self.plan(),
            "encoders": {"name": encoders.name, "models": dict(encoders.models)},
            "summary": summary(rounded),
            "real": {name: round(sum(one[name] for one in real) / len(real), DIGITS) for name in real[0]},
            "ends": [None if end is None else [round(value, DIGITS) for value in end] for end in ends],
            "scores": rounded,
        }

    def _scores_of(self, number: int, scorer: SubjectScorer) -> dict[str, list[list[float | None]]]:
        subject = self.subjects[number]
        places = [(prompt, picture) for prompt in range(len(subject.prompts)) for picture in range(self.pictures)]
        drawn = [read_image(self.path(number, *place)) for place in places]
        flat = scorer([subject.prompts[prompt] for prompt, _ in places], drawn)
        step = self.pictures
        return {name: [flat_[i : i + step] for i in range(0, len(flat_), step)] for name, flat_ in flat.items()}

    def redraw(self, subject: int, prompt: int, picture: int) -> Image:
        """One picture drawn anew from its seed, with its whole piece; nothing is written."""
        piece = next(one for one in self.pieces() if one.subject == subject and (prompt, picture) in one.wanted)
        return self._drawn(piece)[piece.wanted.index((prompt, picture))]

    def _drawn(self, piece: Piece) -> list[Image]:
        subject = self.subjects[piece.subject]
        seeds = [self.drawing.picture_seed(piece.subject, *place) for place in piece.wanted]
        prompts = [subject.prompts[prompt] for prompt, _ in piece.wanted]
        return self.method.draw(subject, prompts, seeds, self.drawing)

    def _paths(self, piece: Piece) -> list[Path]:
        return [self.path(piece.subject, *place) for place in piece.wanted]


def summary(scores: dict[str, list]) -> dict[str, dict[str, float | int]]:
    """Of each score: mean, 95 % bootstrap interval over subjects, and the number of subjects."""
    found = {name: estimate(values) for name, values in scores.items()}
    return {
        name: {key: value if isinstance(value, int) else round(value, DIGITS) for key, value in one._asdict().items()}
        for name, one in found.items()
        if one is not None
    }


def write_result(path: Path, result: dict[str, Any]) -> Path:
    """Write a result as compact JSON, whole or not at all; returns its path."""
    with replacing(path) as temporary:
        temporary.write_text(compact(result), encoding="utf-8")
    return path


def compact(result: dict[str, Any]) -> str:
    """JSON with one line for each of the upper two levels: small, and still readable in a diff."""
    lines = []
    for key, value in result.items():
        if isinstance(value, dict) and value:
            inner = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items())
            lines.append(f"{json.dumps(key)}: {{\n  {inner}\n }}")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def _rounded(values: Any) -> Any:
    if isinstance(values, list):
        return [_rounded(value) for value in values]
    return None if values is None else round(values, DIGITS)


def run(evaluation: Evaluation, encoders: Callable[[], Encoders], progress: bool = True) -> dict[str, Any] | None:
    """Draw, wait for the other processes, score and write: the result, or None on processes other than the first.

    Args:
        evaluation: what to draw.
        encoders: loads what scores; it is called when all pictures are there, and on the first process alone.
        progress: show progress bars.

    Raises:
        ValueError: when the folder holds the pictures of another evaluation.
        OSError: when something cannot be written.
    """
    from accelerate import PartialState
    from tqdm.auto import tqdm

    state = PartialState()

    def bar(items: Sequence, desc: str, unit: str) -> Iterable:
        return tqdm(items, desc=desc, unit=unit, disable=not (progress and state.is_main_process), dynamic_ncols=True)

    if state.is_main_process:
        evaluation.claim()
    state.wait_for_everyone()
    evaluation.draw(
        lambda pieces: bar(pieces, evaluation.method.name, "batch"), state.process_index, state.num_processes
    )
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    result = evaluation.score(encoders(), lambda numbers: bar(numbers, "scoring", "subject"))
    contact_sheet(evaluation, evaluation.folder / SHEET)
    write_result(evaluation.folder / RESULT, result)
    return result


def contact_sheet(evaluation: Evaluation, path: Path, columns: int = 8, side: int = 128) -> Path:
    """Write one picture to look at: a row for each subject, the given picture first, then some of its prompts."""
    from diffusers.utils import make_image_grid

    rows, width = [], min(columns, min(len(one.prompts) for one in evaluation.subjects))
    for number, subject in enumerate(evaluation.subjects):
        count = len(subject.prompts)
        shown = [read_image(evaluation.path(number, place * count // width, 0)) for place in range(width)]
        rows += [picture.resize((side, side)) for picture in (subject.given.image, *shown)]
    sheet = make_image_grid(rows, rows=len(evaluation.subjects), cols=width + 1)
    with replacing(path) as temporary:
        sheet.save(temporary, format="JPEG", quality=88)
    return path
