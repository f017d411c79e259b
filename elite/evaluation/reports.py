"""The paper's tables and figures, as rows of methods: what `elite report NAME` makes.

All rows of a table share subjects, prompts and noise. Variants are compared with the control alone, which was trained
as briefly as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from elite.evaluation.competing import competitor_rows, times_and_curves
from elite.evaluation.drawing import PHOTO, Anchor, Elite, PlainText
from elite.evaluation.failures import worst
from elite.evaluation.studio import EDITING, Row, Studio

LAMBDAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
MULTI_WORD = ("single-layer", "first", "middle", "last")
KEPT = ("summary", "real", "ends", "scores")  # of a row's result


@dataclass(frozen=True)
class Report:
    """One table or figure.

    Attributes:
        title: what it shows, and where it stands in the paper.
        rows: by label.
        more: what else it says, made from the rows' results.
    """

    title: str
    rows: Callable[[Studio], Mapping[str, Row]]
    more: Callable[[Studio, Mapping[str, Row], Mapping[str, Any]], dict[str, Any]] | None = None


def make(name: str, studio: Studio) -> dict[str, Any]:
    """A table, as `results.write` keeps it; pictures that are there already are not drawn again.

    Args:
        name: one of `REPORTS`.
        studio: what it is made with.

    Raises:
        ValueError: for another name, or pictures that are those of another evaluation.
        variants.MissingVariantError: when a variant that it needs is not there.
    """
    report = find(name)
    rows = report.rows(studio)
    done: dict[str, Any] = {}
    for label, row in rows.items():
        result = studio.result(row)
        done[label] = {
            "method": result["method"],
            "pictures": row.pictures,
            "prompts": None if row.prompts is None else list(row.prompts),
            "redrawn": None if row.redrawn is None else list(row.redrawn),
            **{key: result[key] for key in KEPT},
        }
    more = {} if report.more is None else report.more(studio, rows, done)
    return {
        "name": name,
        "title": report.title,
        "settings": {
            **asdict(studio.drawing),
            "subjects": [one.name for one in studio.subjects],
            "choosing": [one.name for one in studio.choosing],
            "prompts": len(studio.subjects[0].prompts),
        },
        "provenance": {
            **studio.provenance,
            "variants": studio.variant_digests(_variants_of(rows)),
            "encoders": {"name": studio.encoders.name, "models": dict(studio.encoders.models)},
        },
        "rows": done,
        "more": more,
    }


def find(name: str) -> Report:
    """A report by its name.

    Raises:
        ValueError: for another name.
    """
    if name not in REPORTS:
        raise ValueError(f"a report is one of {', '.join(REPORTS)}, got {name!r}.")
    return REPORTS[name]


def _variants_of(rows: Mapping[str, Row]) -> set[str]:
    methods = [row.method for row in rows.values() if isinstance(row.method, Elite)]
    return {method.variant for method in methods if method.variant is not None}


def _words(studio: Studio, name: str) -> tuple[Row, Row]:
    """[v] and [w] of a variant: all its words, or the primary one alone, without local branch."""
    every = studio.elite(f"{name}-v", name, fusion_weight=0.0, words="all")
    one = studio.elite(f"{name}-w", name, fusion_weight=0.0, words=studio.primary(name))
    return Row(every), Row(one)


def _table1(studio: Studio) -> dict[str, Row]:
    single = Row(studio.elite("single-word", "single-word", fusion_weight=0.0))
    layer_v, layer_w = _words(studio, "single-layer")
    first_v, first_w = _words(studio, "first")
    return {
        "single layer, single word": single,
        "single layer, multi words [v]": layer_v,
        "single layer, multi words [w]": layer_w,
        "multi layers, multi words [v]": first_v,
        "multi layers, multi words [w] = ours without local": first_w,
        "ours": Row(studio.elite("control", "control", fusion_weight=EDITING)),
    }


def _table4(studio: Studio) -> dict[str, Row]:
    names = {
        "single-layer": "single layer, multi words",
        "middle": "multi layers, multi words, deepest in the middle",
        "last": "multi layers, multi words, deepest last",
        "first": "multi layers, multi words, deepest first",
    }
    rows = {}
    for name, label in names.items():
        rows[f"{label} [v]"], rows[f"{label} [w]"] = _words(studio, name)
    return rows


def _elite_at(studio: Studio, weight: float) -> Row:
    return Row(studio.elite(f"lambda-{weight:.1f}", fusion_weight=weight))


def _lambda(studio: Studio) -> dict[str, Row]:
    return {f"λ = {weight:.1f}": _elite_at(studio, weight) for weight in LAMBDAS}


def _table2(studio: Studio) -> dict[str, Row]:
    return {
        "text (floor)": Row(PlainText(studio.pipeline)),
        "another subject of the class (floor)": Row(Anchor("other")),
        "copy of the given picture (trap)": Row(Anchor("copy")),
        "rendering of the subject (ceiling)": Row(Anchor("rendering")),
        **competitor_rows(studio),
        "ELITE": _elite_at(studio, EDITING),
    }


def _each_word(studio: Studio) -> dict[str, Row]:
    rows = {"single-word: w0": _alone(studio, "single-word", "w0")}
    for name in MULTI_WORD:
        count = len(studio.adapter(name).config.layers)
        for words in [*(f"w{place}" for place in range(count)), "all"]:
            rows[f"{name}: {words}"] = _alone(studio, name, words)
    return rows


def _alone(studio: Studio, name: str, words: str) -> Row:
    method = studio.elite(f"{name}-photo-{words}", name, fusion_weight=0.0, words=words)
    return Row(method, (PHOTO,), pictures=2)


def _primary_words(studio: Studio, rows: Mapping[str, Row], done: Mapping[str, Any]) -> dict[str, Any]:
    layers = {name: list(studio.adapter(name).config.layers) for name in MULTI_WORD}
    return {"layers": layers, "primary": {name: studio.primary(name) for name in MULTI_WORD}}


def _reweighting(studio: Studio) -> dict[str, Row]:
    rows = {}
    for weight in (EDITING, 1.0):
        rows[f"λ = {weight:.1f}, with Eq. 8"] = _elite_at(studio, weight)
        method = studio.elite(f"unweighted-{weight:.1f}", fusion_weight=weight, reweighting=False)
        rows[f"λ = {weight:.1f}, without"] = Row(method)
    return rows


def _no_global(studio: Studio) -> dict[str, Row]:
    return {
        "ours": Row(studio.elite("control", "control", fusion_weight=EDITING)),
        "ours without local": _words(studio, "first")[1],
        "local with the class word, without global": Row(
            studio.elite("no-global", "no-global", fusion_weight=EDITING, words="class")
        ),
        "text (floor)": Row(PlainText(studio.pipeline)),
    }


def _failures(studio: Studio) -> dict[str, Row]:
    return {"ELITE": _elite_at(studio, EDITING)}


REPORTS: Mapping[str, Report] = MappingProxyType(
    {
        "table1": Report("Table 1: which layers give how many words", _table1),
        "table2": Report("Table 2: ELITE and what is optimised for each subject", _table2, times_and_curves),
        "table4": Report("Table 4: where the deepest layer stands among the words", _table4),
        "lambda": Report("Fig. 7 and 12: the fusion weight λ", _lambda),
        "words": Report('Fig. 5, 13 and 14: each word alone in "a photo of a [w]"', _each_word, _primary_words),
        "reweighting": Report("Fig. 16: local attention with and without Eq. 8", _reweighting),
        "no-global": Report("Fig. 17: the local mapping without the global one", _no_global),
        "failures": Report("Fig. 9: what fails, chosen by a rule", _failures, worst),
    }
)
