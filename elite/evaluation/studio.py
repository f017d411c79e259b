"""Where tables are made: a base model, its variants and competitors, the subjects, and the folder of all pictures.

Rows that stand in several tables are drawn once: a row's name is its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elite.evaluation.drawing import PHOTO, Drawing, Elite, Method
from elite.evaluation.encoders import Encoders
from elite.evaluation.metrics import estimate
from elite.evaluation.protocol import Evaluation
from elite.evaluation.provenance import provenance, weights_digest
from elite.evaluation.subjects import EvaluationSubject, toybox_subjects
from elite.evaluation.variants import FOLDER as VARIANTS
from elite.evaluation.variants import load_variant, primary_of

if TYPE_CHECKING:
    from elite.adapter import EliteAdapter
    from elite.pipeline import ElitePipeline

EDITING = 0.6  # λ of the paper for editing prompts, which all of DreamBench's are
Progress = Callable[[Sequence, str], Iterable]  # wraps what is done one by one, with a word for it


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        method: draws it.
        prompts: in place of each subject's own.
        pictures: of each prompt.
        redrawn: the numbers of the subjects whose pictures can be drawn again from what is stored; all when left out.
    """

    method: Method
    prompts: tuple[str, ...] | None = None
    pictures: int = 1
    redrawn: tuple[int, ...] | None = None


@dataclass(eq=False)
class Studio:
    """What tables are made with.

    Attributes:
        pipeline: with ELITE's own adapter.
        subjects: the subjects of all tables.
        choosing: other subjects, on which words and steps are chosen.
        encoders: what scores.
        folder: of all pictures, a folder for each row.
        drawing: settings of all rows.
        variants: folder of the variants' weights.
        learned: folder of what competitors have learnt and is stored beside the tables.
        model: name of the base model, for the record.
        progress: wraps what is done one by one.
    """

    pipeline: ElitePipeline
    subjects: Sequence[EvaluationSubject]
    choosing: Sequence[EvaluationSubject]
    encoders: Encoders
    folder: Path
    drawing: Drawing = field(default_factory=Drawing)
    variants: Path = field(default_factory=lambda: VARIANTS)  # a factory: pages would show the folder of the machine
    learned: Path = Path("book/results/learned")
    model: str = "toybox"
    progress: Progress = lambda items, what: items

    def __post_init__(self) -> None:
        self._own = self.pipeline.adapter
        self._adapters: dict[str, EliteAdapter] = {}
        self._digests: dict[str, str] = {}

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the base model and ELITE's own adapter are."""
        self.use_own_adapter()
        return provenance(self.model, self.pipeline)

    def use_own_adapter(self) -> None:
        """Attach ELITE's own adapter, after a variant's."""
        if self.pipeline.adapter is not self._own:
            self.pipeline.attach_adapter(self._own)

    def elite(self, name: str, adapter: str | None = None, **options: Any) -> Elite:
        """ELITE with its own adapter, or with a variant's."""
        chosen = self._own if adapter is None else self.adapter(adapter)
        return Elite(self.pipeline, name, adapter=chosen, variant=adapter, **options)

    def adapter(self, name: str) -> EliteAdapter:
        """A variant's adapter, on the pipeline's device; loaded on first use."""
        if name not in self._adapters:
            self._adapters[name] = load_variant(name, self.pipeline, self.variants)
        return self._adapters[name]

    def variant_digests(self, names: Iterable[str]) -> dict[str, str]:
        """Digests of variants, for the record."""
        wanted = sorted(set(names))
        for name in wanted:
            if name not in self._digests:
                self._digests[name] = weights_digest(self.adapter(name))
        return {name: self._digests[name] for name in wanted}

    def evaluation(self, row: Row, subjects: Sequence[EvaluationSubject] | None = None) -> Evaluation:
        """The evaluation that draws a row."""
        chosen = self.subjects if subjects is None else subjects
        if row.prompts is not None:
            chosen = [replace(one, prompts=row.prompts) for one in chosen]
        where = self.folder / row.method.name if subjects is None else self.folder / "choosing" / row.method.name
        made: dict[str, Any] = {"weights": self.provenance["weights"]}
        if isinstance(row.method, Elite) and row.method.variant is not None:
            made["variant"] = self.variant_digests([row.method.variant])
        return Evaluation(row.method, chosen, where, self.drawing, row.pictures, provenance=made)

    def result(self, row: Row, subjects: Sequence[EvaluationSubject] | None = None) -> dict[str, Any]:
        """Draw what is missing of a row, and score it."""
        chosen = self.evaluation(row, subjects)
        chosen.draw(lambda pieces: self.progress(pieces, row.method.name))
        return chosen.score(self.encoders, lambda numbers: self.progress(numbers, f"{row.method.name}, scores"))

    def primary(self, name: str) -> str:
        """The primary word of a variant: of the deepest layer, or, where all are, the one most like the subject.

        The latter is chosen on other subjects than those of the tables, by DINO-I of "a photo of a [w]".
        """
        layers = tuple(self.adapter(name).config.layers)
        place = primary_of(layers)
        if place is None:
            likeness = []
            for word in range(len(layers)):
                method = self.elite(f"{name}-alone-w{word}", name, fusion_weight=0.0, words=f"w{word}")
                scores = self.result(Row(method, (PHOTO,)), self.choosing)["scores"]
                found = estimate(scores["dino_i_others"])
                likeness.append(-1.0 if found is None else found.mean)
            place = likeness.index(max(likeness))
        return f"w{place}"


def toybox_studio(
    pipeline: ElitePipeline,
    encoders: Encoders,
    folder: Path,
    subjects: int | None = None,
    choosing: int = 6,
    prompts: int | None = None,
    **options: Any,
) -> Studio:
    """A studio on the miniature: its held-out subjects, and others to choose words and steps on.

    Args:
        pipeline: the miniature with its own adapter.
        encoders: what scores.
        folder: of all pictures.
        subjects: only so many of the twenty.
        choosing: how many other subjects.
        prompts: only so many of each subject's.
        **options: further fields of `Studio`.
    """
    from elite.toybox.world import CLASSES, EVALUATION_SUBJECTS, Subject

    others = [Subject.sample(f"selection:{n}", CLASSES[(7 * n) % len(CLASSES)]) for n in range(choosing)]
    return Studio(
        pipeline,
        toybox_subjects(EVALUATION_SUBJECTS[:subjects], prompts),
        toybox_subjects(others, prompts, seed=1),
        encoders,
        folder,
        **options,
    )
