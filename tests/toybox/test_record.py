"""What stands beside the weights: the report with its bars, the thinned curves, and what the page says without them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elite import toybox
from elite.io import checksums
from elite.toybox import record
from elite.toybox.backbone_training import curves
from elite.toybox.backbone_training.fit import Fit, FitSettings

# the keys that the last line of the report has, and what each has to reach
BARS = {
    "vae_psnr": 27,
    "vae_psnr_inside_mask": 27,
    "vae_class_kept": 0.98,
    "clip_top1_of_256": 0.90,
    "class_accuracy": 0.95,
    "scene_accuracy": 0.95,
    "accessory_accuracy": 0.80,
    "identity_triplet_accuracy": 0.95,
    "seconds_batch8_25steps": 4,
    "load_seconds": 2,
    "weights_mb": 32,
}
ADAPTER_BARS = {"concept_identity": 0.7, "edit_identity": 0.5, "edit_scene_accuracy": 0.85}
SETTINGS = {"prompts": 400, "pictures": 512, "seed": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A weights folder with one file and its sums."""
    (tmp_path / "part.bin").write_bytes(b"weights")
    checksums.write_checksums(tmp_path)
    return tmp_path


def training(count: int, first: int = 1) -> list[dict[str, float]]:
    return [{"step": step, "minutes": step / 3, "loss": 1 / step} for step in range(first, first + count)]


def test_the_bars_are_those_that_were_asked_for():
    assert {measure.key: measure.bar for measure in record.MEASURES if measure.bar is not None} == BARS | ADAPTER_BARS
    smaller_is_better = {measure.key for measure in record.MEASURES if not measure.least}
    assert smaller_is_better == {"seconds_batch8_25steps", "load_seconds", "weights_mb"}


def test_the_card_ends_with_the_newest_report(folder: Path):
    card = folder / checksums.CARD
    card.write_text("# Card\n\nHow it was made.\n", encoding="utf-8")
    for value in (0.91, 0.97):
        record.save_report(folder, BARS | {"class_accuracy": value}, SETTINGS)
    text = card.read_text(encoding="utf-8")
    assert text == f"# Card\n\nHow it was made.\n\n## Measured quality\n\n{record.report_table(folder)}\n"
    assert "97.0%" in text and "91.0%" not in text
    checksums.check_checksums(folder)  # the card is no part of the weights


def test_the_table_says_which_bars_are_met(folder: Path):
    numbers = BARS | {"class_accuracy": 0.94, "load_seconds": 2.1, "vae_psnr": None}
    record.save_report(folder, numbers, SETTINGS)
    rows = {line.split(" | ")[0].strip("| "): line for line in record.report_table(folder).splitlines()}
    met = {measure.key: rows[measure.meaning].split(" | ")[-1].strip(" |") for measure in record.MEASURES}
    missed = {key for key, said in met.items() if said == "**no**"}
    assert missed == {"class_accuracy", "load_seconds"}
    assert met["vae_psnr"] == "–" and "not measured" in rows["autoencoder: PSNR on unseen pictures, in dB"]
    assert met["clip_top1_of_256"] == "yes"
    assert "94.0% | at least 95.0%" in rows["text to picture: the judge finds the class"]
    assert "not measured" in rows["ELITE: the judge finds that scene"]


def test_what_the_report_of_an_adapter_measures_is_in_the_table():
    import inspect

    from elite.toybox.concept_report import EDITS, concept_report

    endings = ["" if kind == "edit" else f"_{kind}" for kind in EDITS]
    keys = {f"edit_{what}{ending}" for what in ("identity", "scene_accuracy") for ending in endings}
    keys |= {"concept_identity", "concept_identity_paper_guidance"}
    assert keys == {measure.key for measure in record.ADAPTER}
    assert "concept_identity" in inspect.getsource(concept_report)


def test_a_report_without_a_number_is_refused(folder: Path):
    numbers = {key: value for key, value in BARS.items() if key != "scene_accuracy"}
    with pytest.raises(ValueError, match="'scene_accuracy'"):
        record.save_report(folder, numbers, SETTINGS)
    assert not (folder / "report.json").exists()


def test_a_report_of_other_weights_is_known_as_such(folder: Path):
    record.save_report(folder, BARS, SETTINGS)
    assert record.read_report(folder).current
    assert "other weights" not in record.report_table(folder)
    (folder / "part.bin").write_bytes(b"better weights")
    checksums.write_checksums(folder)
    assert not record.read_report(folder).current
    assert "of other weights" in record.report_table(folder)


def test_report_and_curves_leave_the_sums_alone(folder: Path):
    before = (folder / "SHA256SUMS").read_bytes()
    record.save_report(folder, BARS, SETTINGS)
    record.write_text(folder / "curves" / "unet.jsonl", record.to_line({"step": 1, "minutes": 0.1, "loss": 1.0}))
    checksums.check_checksums(folder)
    checksums.write_checksums(folder)
    assert (folder / "SHA256SUMS").read_bytes() == before
    (folder / "curves.bin").write_bytes(b"")  # not in the folder of the curves: this one counts
    with pytest.raises(toybox.ChecksumError, match=r"curves\.bin is not listed"):
        checksums.check_checksums(folder)


def test_without_report_and_curves_the_page_says_so(folder: Path):
    assert record.read_report(folder) is None and record.read_curves(folder) == {}
    assert "not measured yet" in record.report_table(folder)
    assert "not beside these weights" in record.curve_table(folder)


def test_a_thinned_curve_has_few_lines_and_the_means_of_all():
    tested = [{"step": step, "minutes": 1.0, "validation": 0.5} for step in range(10, 1000, 10)]
    lines = sorted(training(1000) + tested, key=lambda line: line["step"])
    thin = curves.thin_curve(lines, 100)
    assert len(thin) <= 100
    assert [line["step"] for line in thin] == sorted(line["step"] for line in thin)
    trained = [line for line in thin if "loss" in line]
    gaps = [b["step"] - a["step"] for a, b in itertools.pairwise(trained)]
    assert trained[-1]["step"] == 1000 and max(gaps) - min(gaps) <= 1
    first, second = trained[0]["step"], trained[1]["step"]
    expected = sum(1 / step for step in range(first + 1, second + 1)) / (second - first)
    assert trained[1]["loss"] == pytest.approx(expected, rel=1e-3)
    assert [line["step"] for line in thin if "validation" in line][::24] == [10, 990]  # the first and the last


def test_a_short_curve_stays_as_it_is():
    assert curves.thin_curve(training(5), 100) == [
        {"step": line["step"], "minutes": float(f"{line['minutes']:.4g}"), "loss": float(f"{line['loss']:.4g}")}
        for line in training(5)
    ]
    assert curves.thin_curve([], 100) == []


def test_steps_repeated_after_a_stop_count_once():
    lines = [*training(6), {"step": 4, "minutes": 9.0, "loss": 40.0}, {"step": 7, "minutes": 9.5, "loss": 70.0}]
    assert [(line["step"], line["loss"]) for line in curves.thin_curve(lines)] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.3333),
        (4, 40.0),
        (7, 70.0),
    ]


def test_curves_of_a_run_stand_beside_the_weights(tmp_path: Path, folder: Path):
    run = tmp_path / "run"
    (run / "unet").mkdir(parents=True)
    line = {"step": 3, "minutes": 0.5, "loss": 0.123456, "gradient": 7.0, "steps_per_s": 2.0}
    (run / "unet" / "curve.jsonl").write_text(json.dumps(line) + "\n")
    assert curves.copy_curves(curves.curves_of_run(run), folder) == ["unet"]
    assert record.read_curves(folder) == {"unet": [{"step": 3, "minutes": 0.5, "loss": 0.1235}]}
    assert "| noise predictor | 3 | 0 | 0.123 | 0.123 | – |" in record.curve_table(folder)
    record.write_text(folder / "curves" / "elite.jsonl", record.to_line({"step": 9, "loss": 0.5}))  # no clock
    assert "| elite | 9 | – | 0.5 | 0.5 | – |" in record.curve_table(folder)
    assert sorted(path.name for path in (folder / "curves").iterdir()) == ["elite.jsonl", "unet.jsonl"]


def test_what_training_logs_is_what_is_read(tmp_path: Path, folder: Path):
    import torch

    layer = torch.nn.Linear(2, 1)
    fit = Fit(layer, tmp_path / "vae", FitSettings(steps=2), evaluate=lambda: {"validation_psnr": 20.0})
    fit.run(lambda step, generator: {"loss": layer(torch.ones(1, 2)).square().mean()})
    assert curves.copy_curves({"vae": tmp_path / "vae" / "curve.jsonl"}, folder) == ["vae"]
    assert record.read_curves(folder)["vae"][-1]["validation_psnr"] == 20.0
    assert "| psnr: 20 |" in record.curve_table(folder)


def test_the_command_refuses_a_curve_that_is_not_there(tmp_path: Path):
    wrong = CliRunner().invoke(curves.app, [f"unet={tmp_path / 'none.jsonl'}", "--weights", str(tmp_path)])
    assert wrong.exit_code == 2 and not (tmp_path / "curves").exists()


def test_the_bundled_record_is_small_and_complete():
    paths = [*(toybox.WEIGHTS / "curves").glob("*"), toybox.WEIGHTS / "report.json"]
    assert sum(path.stat().st_size for path in paths if path.exists()) <= 50_000
    for part, lines in record.read_curves(toybox.WEIGHTS).items():
        assert 0 < len(lines) <= 200 and all("step" in line for line in lines), part
    saved = record.read_report(toybox.WEIGHTS)
    if saved is None:
        pytest.skip("the bundled weights have no report.json")
    assert set(BARS) <= set(saved.numbers) and set(saved.settings) == set(SETTINGS)
    assert saved.current, "report.json is of other weights: run `python -m elite.toybox.report --save`"
