"""What is recorded beside the weights: the numbers of the report with their bars, and the curves of training.

These files describe the weights and are no part of them, so ``SHA256SUMS`` does not cover them. The report names the
sums it was measured with instead: a report of other weights is known as such.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elite.io.checksums import CARD, CURVES, REPORT, SUMS, sha256

MEASURED = "## Measured quality\n"  # the last section of the card; the report writes what follows it
PART_NAMES = {  # of the curves, as the card calls them
    "clip": "CLIP pair",
    "vae": "autoencoder",
    "unet": "noise predictor",
    "identity": "identity encoder",
    "elite_global": "ELITE adapter, global stage",
    "elite_local": "ELITE adapter, local stage",
}


@dataclass(frozen=True)
class Measure:
    """One number of the report.

    Attributes:
        key: its name in the report.
        meaning: what it says, with its unit.
        bar: what it has to reach; None where nothing was asked.
        least: whether the bar is a lower bound; otherwise an upper one.
        form: how the number is written.
    """

    key: str
    meaning: str
    bar: float | None = None
    least: bool = True
    form: str = "{:.1%}"

    def reached(self, value: float | None) -> bool | None:
        """Whether ``value`` meets the bar; None where there is no bar or no number."""
        if self.bar is None or value is None:
            return None
        return value >= self.bar if self.least else value <= self.bar

    def row(self, value: float | None) -> str:
        """A row of a Markdown table."""
        bound = "none" if self.bar is None else f"at {'least' if self.least else 'most'} {self.form.format(self.bar)}"
        shown = "not measured" if value is None else self.form.format(value)
        met = {True: "yes", False: "**no**", None: "–"}[self.reached(value)]
        return f"| {self.meaning} | {shown} | {bound} | {met} |"


BACKBONE = (
    Measure("vae_psnr", "autoencoder: PSNR on unseen pictures, in dB", 27, form="{:.1f}"),
    Measure("vae_psnr_inside_mask", "autoencoder: PSNR inside the mask, in dB", 27, form="{:.1f}"),
    Measure("vae_class_kept", "autoencoder: the judge names the same class after it", 0.98),
    Measure("clip_top1_of_256", "CLIP pair: the chosen caption of 256 is true", 0.90),
    Measure("class_accuracy", "text to picture: the judge finds the class", 0.95),
    Measure("scene_accuracy", "text to picture: the judge finds the scene", 0.95),
    Measure("accessory_accuracy", "text to picture: the judge finds the accessory", 0.80),
    Measure("class_accuracy_held_out", "the class, for pairs of class and scene held out from training"),
    Measure("scene_accuracy_held_out", "the scene, for those pairs"),
    Measure("judge_class_accuracy", "the judge itself: class of unseen drawn pictures"),
    Measure("judge_scene_accuracy", "the judge itself: scene"),
    Measure("judge_accessory_accuracy", "the judge itself: accessory"),
    Measure("identity_triplet_accuracy", "identity encoder: the same subject is nearer than another", 0.95),
    Measure("seconds_batch8_25steps", "seconds for 8 pictures, 25 steps with guidance", 4, False, "{:.1f}"),
    Measure("load_seconds", "seconds to load everything, beyond the imports", 2, False, "{:.1f}"),
    Measure("weights_mb", "size of the weights, in MB", 32, False, "{:.1f}"),
)
# Identity is 0 for another subject of the same class and 1 for another rendering of the same subject.
ADAPTER = (
    Measure("concept_identity", 'ELITE, guidance 3: identity in "a photo of a S*", λ = 0.8', 0.7, form="{:.2f}"),
    Measure("edit_identity", "ELITE: identity in another scene, λ = 0.6", 0.5, form="{:.2f}"),
    Measure("edit_scene_accuracy", "ELITE: the judge finds that scene", 0.85),
    Measure("edit_identity_without_local", "identity, without the local branch", form="{:.2f}"),
    Measure("edit_scene_accuracy_without_local", "the scene, without the local branch"),
    Measure("edit_identity_all_words", "identity, with all words instead of the primary one", form="{:.2f}"),
    Measure("edit_scene_accuracy_all_words", "the scene, with all words"),
    Measure("concept_identity_paper_guidance", 'identity in "a photo of a S*", at guidance 5', form="{:.2f}"),
    Measure("edit_identity_paper_guidance", "identity in another scene, at guidance 5", form="{:.2f}"),
    Measure("edit_scene_accuracy_paper_guidance", "the scene, at guidance 5"),
)
MEASURES = (*BACKBONE, *ADAPTER)


@dataclass(frozen=True)
class SavedReport:
    """The report that stands beside the weights.

    Attributes:
        numbers: by the keys of `MEASURES`, those of `ADAPTER` where one was measured; None where it could not be.
        settings: what it was measured on: prompts, pictures, seed.
        current: whether it was measured on the weights it stands beside.
    """

    numbers: dict[str, float | None]
    settings: dict[str, int]
    current: bool


def save_report(folder: Path, numbers: Mapping[str, float | None], settings: Mapping[str, int]) -> Path:
    """Write the report beside the weights it was measured on, and its table into the card's last section.

    Args:
        folder: the weights.
        numbers: what `elite.toybox.report.report` gives.
        settings: what it was measured on.

    Raises:
        ValueError: if a number of the backbone that has a bar is not there.
    """
    missing = [measure.key for measure in BACKBONE if measure.bar is not None and measure.key not in numbers]
    if missing:
        raise ValueError(f"`numbers` has no {missing[0]!r}: pass what `elite.toybox.report.report` gives.")
    content = {"numbers": dict(numbers), "settings": dict(settings), "weights": sha256(Path(folder) / SUMS)}
    path = write_text(Path(folder) / REPORT, json.dumps(content, indent=1, sort_keys=True) + "\n")
    card = Path(folder) / CARD
    if card.is_file():
        before = card.read_text(encoding="utf-8").partition(MEASURED)[0].rstrip()
        write_text(card, f"{before}\n\n{MEASURED}\n{report_table(folder)}\n")
    return path


def read_report(folder: Path) -> SavedReport | None:
    """The report beside the weights; None where there is none."""
    path = Path(folder) / REPORT
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return SavedReport(content["numbers"], content["settings"], content["weights"] == sha256(Path(folder) / SUMS))


def report_table(folder: Path) -> str:
    """The report as a Markdown table with the bars beside the numbers, or a sentence that there is none."""
    report = read_report(folder)
    if report is None:
        return "These weights were not measured yet: `python -m elite.toybox.report --save` does it."
    head = ["| Measured | Reached | Bar | Met |", "|---|---|---|---|"]
    table = "\n".join(head + [measure.row(report.numbers.get(measure.key)) for measure in MEASURES])
    on = "Measured on {prompts} prompts and {pictures} unseen pictures, seed {seed}.".format(**report.settings)
    stale = "" if report.current else "**These numbers are of other weights than the ones that are here now.** "
    return f"{stale}{on}\n\n{table}"


def read_curves(folder: Path) -> dict[str, list[dict[str, float]]]:
    """The curves beside the weights, by part: lines with ``step``, mostly ``minutes``, and what was measured.

    Parts without a curve are left out; the order is that of their names.
    """
    paths = sorted((Path(folder) / CURVES).glob("*.jsonl"))
    return {path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in paths}


def part_name(part: str) -> str:
    """What the card calls a part whose curve has this name; an unknown one keeps its name."""
    return PART_NAMES.get(part, part)


def curve_table(folder: Path) -> str:
    """What the curves come to, as a Markdown table, or a sentence that there are none.

    Each loss is a mean over the 20 s or so before its line was written; validation is the last evaluation.
    """
    rows = []
    for part, lines in read_curves(folder).items():
        training = [line for line in lines if "loss" in line]
        tested = [line for line in lines if "loss" not in line]
        newest = tested[-1] if tested else {}
        last = ", ".join(f"{_name(key)}: {value:.3g}" for key, value in newest.items() if _name(key)) or "–"
        ends = f"{training[0]['loss']:.3g} | {training[-1]['loss']:.3g}" if training else "– | –"
        minutes = f"{lines[-1]['minutes']:.0f}" if "minutes" in lines[-1] else "–"
        rows.append(f"| {part_name(part)} | {lines[-1]['step']} | {minutes} | {ends} | {last} |")
    if not rows:
        return "The curves of training are not beside these weights."
    head = ["| Part | Steps | Minutes | First loss | Last loss | Last validation |", "|---|---|---|---|---|---|"]
    return "\n".join(head + rows)


def _name(key: str) -> str:
    """What a validation measures; empty for what only says when."""
    return "" if key in ("step", "minutes") else key.removeprefix("validation_")


def write_text(path: Path, text: str) -> Path:
    """Write under a temporary name and rename, so that a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path


def to_line(values: Mapping[str, Any]) -> str:
    """One line of a curve: JSON without blanks."""
    return json.dumps(dict(values), separators=(",", ":")) + "\n"
