"""Table 2: the competitors at the step that is best for each, and how long it takes to know a subject.

Curves and best steps are measured on other subjects than the table's. Times are wall-clock seconds of one machine;
drawing is not counted.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from elite.evaluation.competitors import COMPETITORS, Learned, Learning, competitor
from elite.evaluation.studio import EDITING, Row, Studio
from elite.evaluation.subjects import spread

if TYPE_CHECKING:
    from elite.evaluation.subjects import EvaluationSubject

SHARES = (0.25, 0.5, 1.0)  # of a competitor's steps: the points of its curve
CURVE_PROMPTS = 5
KEPT_SUBJECTS = {"textual-inversion": None, "dreambooth-lora": 1, "custom-diffusion": 1, "dreambooth": 0}  # None: all
BEST = "the step with the largest product of DINO-I (to all but the given picture) and CLIP-T, both means over subjects"
EQUAL = (
    "the first measured step at which a competitor's mean DINO-I (to all but the given picture) reaches ELITE's on "
    "the same subjects, prompts and noise; its seconds of optimisation and of drawing class pictures over ELITE's "
    "seconds of encoding one picture"
)


def competitor_rows(studio: Studio) -> dict[str, Row]:
    """A row for each competitor, at its best step."""
    rows = {}
    for name in COMPETITORS:
        method = learning(studio, name, best_step(curve(studio, name)))
        kept = KEPT_SUBJECTS[name]
        rows[name] = Row(method, redrawn=None if kept is None else tuple(range(kept)))
    return rows


def learning(studio: Studio, name: str, budget: int, folder: Path | None = None) -> Learning:
    """A competitor with a budget, as a method whose name says both."""
    where = studio.folder / "learned" / f"{name}-{budget}" if folder is None else folder
    return Learning(competitor(name, studio.pipeline), where, budget, f"{name}-{budget}")


def curve(studio: Studio, name: str) -> list[dict[str, float]]:
    """Likeness, obedience and seconds of a competitor after some numbers of steps, on the choosing subjects."""
    total = competitor(name, studio.pipeline).settings.steps
    points = []
    for steps in sorted({max(1, round(share * total)) for share in SHARES}):
        method = learning(studio, name, steps)
        found = _measured(studio, Row(method))
        times = [method.learned(one) for one in studio.choosing]
        points.append({"steps": steps, **found, **_seconds(times)})
    return points


def best_step(points: list[dict[str, float]]) -> int:
    """The step of a curve that is best for the competitor, by the rule `BEST`."""
    return int(max(points, key=lambda one: max(one["dino_i_others"], 0.0) * max(one["clip_t"], 0.0))["steps"])


def times_and_curves(studio: Studio, rows: Mapping[str, Row], done: Mapping[str, Any]) -> dict[str, Any]:
    """Times to learn a subject, the curves, and the ratio at equal likeness; keeps what redrawing needs."""
    curves = {name: curve(studio, name) for name in COMPETITORS}
    ours = _measured(studio, Row(studio.elite(f"lambda-{EDITING:.1f}", fusion_weight=EDITING)))
    seconds = {"ELITE": {"seconds": encoding_seconds(studio)}}
    for label, row in rows.items():
        if isinstance(row.method, Learning):
            seconds[label] = _seconds([row.method.learned(one) for one in studio.subjects])
            _keep(studio, label, row.method)
    equal = {
        name: _equal(points, ours["dino_i_others"], seconds["ELITE"]["seconds"]) for name, points in curves.items()
    }
    reached = {name: one for name, one in equal.items() if one is not None}
    return {
        "machine": machine(studio),
        "seconds": seconds,
        "curve_subjects": [one.name for one in studio.choosing],
        "curve_prompts": CURVE_PROMPTS,
        "curves": curves,
        "ELITE_on_curve_subjects": ours,
        "best": {"rule": BEST, **{name: best_step(points) for name, points in curves.items()}},
        "equal": {"rule": EQUAL, **equal},
        "fastest": min(reached, key=lambda name: reached[name]["ratio"]) if reached else None,
    }


def encoding_seconds(studio: Studio) -> float:
    """Median seconds in which ELITE encodes a given picture, after one to warm up."""
    studio.use_own_adapter()
    found = []
    for subject in [studio.subjects[0], *studio.subjects]:
        started = perf_counter()
        studio.pipeline.encode_concept(subject.given.image, subject.given.mask)
        if studio.pipeline.device.type == "cuda":
            torch.cuda.synchronize()
        found.append(perf_counter() - started)
    return round(median(found[1:]), 5)


def machine(studio: Studio) -> dict[str, Any]:
    """What the times were measured on."""
    device = studio.pipeline.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _measured(studio: Studio, row: Row) -> dict[str, float]:
    """Means over the choosing subjects, with few prompts of each."""
    found = studio.result(row, [_few(one) for one in studio.choosing])["summary"]
    return {name: found[name]["mean"] for name in ("dino_i_others", "clip_t", "identity", "scene") if name in found}


def _few(subject: EvaluationSubject) -> EvaluationSubject:
    from dataclasses import replace

    return replace(subject, prompts=spread(subject.prompts, CURVE_PROMPTS))


def _seconds(learned: list[Learned]) -> dict[str, float]:
    return {
        "seconds": round(mean(one.seconds for one in learned), 3),
        "preparation": round(mean(one.preparation for one in learned), 3),
    }


def _equal(points: list[dict[str, float]], wanted: float, encoding: float) -> dict[str, float] | None:
    for point in points:
        if point["dino_i_others"] >= wanted:
            seconds = point["seconds"] + point["preparation"]
            return {"steps": point["steps"], "seconds": round(seconds, 3), "ratio": round(seconds / encoding, 1)}
    return None


def _keep(studio: Studio, label: str, method: Learning) -> None:
    """Copy what a competitor learnt of some subjects beside the tables, so that their pictures can be drawn again."""
    kept = KEPT_SUBJECTS[label]
    for subject in studio.subjects[:kept]:
        target = studio.learned / label / f"{subject.name}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(method.folder / f"{subject.name}.safetensors", target)
