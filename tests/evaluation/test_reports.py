"""Tables: every one is made, stored, read back and checked; a changed number, a changed model, all are noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from elite.evaluation import competitors, results
from elite.evaluation.checking import MismatchError, check, places
from elite.evaluation.competing import best_step
from elite.evaluation.competitors import Settings
from elite.evaluation.drawing import Drawing
from elite.evaluation.failures import ranked
from elite.evaluation.metrics import subject_means
from elite.evaluation.reports import REPORTS, find, make
from elite.evaluation.results import DamagedResultError
from elite.evaluation.sheets import write_sheet
from elite.evaluation.studio import Studio
from elite.evaluation.variants import VARIANTS, MissingVariantError, save_variant
from tests.evaluation.test_variants import trained
from tests.evaluation.worlds import encoders, subject
from tests.helpers import tiny_pipeline

PROMPTS = ("a {} of the", "a red {}")
QUICK = Settings(4, 1e-3, prior_pictures=0)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    pipe = tiny_pipeline(seed=0)
    for name in VARIANTS:
        save_variant(name, trained(pipe, name), folder / "variants")
    return folder


def studio(home: Path, **changes) -> Studio:
    people = [subject(number, "to", PROMPTS) for number in range(2)]
    others = [subject(number, "the", PROMPTS) for number in range(7, 9)]
    parts = {
        "pipeline": tiny_pipeline(seed=0),
        "subjects": people,
        "choosing": others,
        "encoders": encoders(),
        "folder": home / "pictures",
        "drawing": Drawing(num_inference_steps=2),
        "variants": home / "variants",
        "learned": home / "results/learned",
    }
    return Studio(**{**parts, **changes})


@pytest.fixture(scope="module")
def stored(home) -> dict[str, Path]:
    """All tables, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(competitors, "MINIATURE", dict.fromkeys(competitors.COMPETITORS, QUICK))
        made = studio(home)
        paths = {name: results.write(home / f"results/{name}.json", make(name, made)) for name in REPORTS}
        write_sheet(made, find("lambda").rows(made), home / "lambda.jpg")
    return paths


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(competitors, "MINIATURE", dict.fromkeys(competitors.COMPETITORS, QUICK))


@pytest.mark.parametrize("name", REPORTS)
def test_a_stored_table_passes_its_check(home, stored, quick, name):
    lines = check(results.read(stored[name]), studio(home, folder=home / "nowhere"))
    value = results.read(stored[name])
    there = sum(len(pictures) for row in value["rows"].values() for prompts in row["scores"]["clip_i"]
                for pictures in prompts)  # fmt: skip
    assert len(lines) == len(set(lines)) == min(8, there) and all("off" in line for line in lines)
    assert not (home / "nowhere").exists()  # checking draws in memory


def test_rows_are_those_of_the_paper(home, stored):
    rows = {name: list(results.read(path)["rows"]) for name, path in stored.items()}
    assert len(rows["table1"]) == 6 and len(rows["table4"]) == 8 and len(rows["reweighting"]) == 4
    assert rows["lambda"] == [f"λ = {value:.1f}" for value in (0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)]
    assert {"textual-inversion", "dreambooth", "dreambooth-lora", "custom-diffusion", "ELITE"} <= set(rows["table2"])
    assert len(rows["words"]) == 1 + 4 * 6
    assert (home / "lambda.jpg").is_file()


def test_rows_of_two_tables_are_drawn_once(home, stored):
    one, other = (results.read(stored[name])["rows"] for name in ("table1", "table4"))
    assert one["multi layers, multi words [v]"] == other["multi layers, multi words, deepest first [v]"]
    assert (home / "pictures/first-v").is_dir()


def test_methods_of_a_table_differ_as_they_should(stored):
    rows = results.read(stored["no-global"])["rows"]
    means = {label: row["summary"]["clip_i"]["mean"] for label, row in rows.items()}
    assert len(set(means.values())) == len(means)
    assert rows["local with the class word, without global"]["method"]["words"] == "class"
    words = results.read(stored["words"])["more"]["primary"]
    assert (words["first"], words["middle"]) == ("w0", "w2")


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", ["table1", "lambda", "table2"])
def test_one_changed_score_is_noticed(stored, tmp_path, name, again):
    """By hand, or written anew with a digest that fits: then the means give it away, or the redrawn picture."""
    value = json.loads(stored[name].read_text())
    label, (one, prompt, picture) = places(value)[3]
    row = value["rows"][label]
    row["scores"]["clip_t"][one][prompt][picture] = round(row["scores"]["clip_t"][one][prompt][picture] + 0.02, 4)
    path = tmp_path / f"{name}.json"
    if again:
        results.write(path, value)
    else:
        path.write_text(json.dumps(value))
    with pytest.raises(DamagedResultError, match="is not the mean of its scores"):
        results.read(path)


@pytest.mark.parametrize("change", [0.009, 0.011])
def test_a_score_that_no_picture_has_is_noticed(home, stored, tmp_path, quick, change):
    """A table whose means and digest fit a wrong score, too; a hundredth is what machines may differ by."""
    value = json.loads(stored["lambda"].read_text())
    label, (one, prompt, picture) = places(value)[3]
    row = value["rows"][label]
    row["scores"]["clip_t"][one][prompt][picture] += change
    row["summary"] = results.summary(row["scores"])
    value = results.read(results.write(tmp_path / "lambda.json", value))
    if change < 0.01:
        check(value, studio(home))
    else:
        with pytest.raises(MismatchError, match=r"clip_t is off by 0\.01"):
            check(value, studio(home))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda value: value.pop("rows"), "has no rows"),
        (lambda value: value.update(format=9), "known format"),
        (lambda value: value["more"].update(x=1), "its digest is"),
        (lambda value: value["settings"].update(seed=4), "its digest is"),
    ],
)
def test_anything_else_that_was_changed_is_noticed_too(stored, tmp_path, spoil, message):
    value = json.loads(stored["lambda"].read_text())
    spoil(value)
    (tmp_path / "x.json").write_text(json.dumps(value))
    with pytest.raises(DamagedResultError, match=message):
        results.read(tmp_path / "x.json")


def test_a_file_that_is_missing_or_cut_short_is_one_sentence(stored, tmp_path):
    with pytest.raises(FileNotFoundError, match="elite report table1 makes it"):
        results.read(tmp_path / "table1.json")
    (tmp_path / "table1.json").write_text(stored["table1"].read_text()[:500])
    with pytest.raises(DamagedResultError, match="is damaged"):
        results.read(tmp_path / "table1.json")


def test_other_weights_subjects_or_encoders_are_told_from_a_wrong_score(home, stored, quick):
    value = results.read(stored["table1"])
    with pytest.raises(MismatchError, match="other weights"):
        check(value, studio(home, pipeline=tiny_pipeline(seed=1)))
    with pytest.raises(MismatchError, match="other encoders"):
        check(value, studio(home, encoders=encoders(models={"random": "2"})))
    with pytest.raises(MismatchError, match="other subjects"):
        check(value, studio(home, subjects=[subject(5, "to", PROMPTS)]))


def test_pictures_of_other_weights_are_not_taken_for_these(home, stored, quick):
    with pytest.raises(ValueError, match="holds the pictures of another evaluation"):
        make("lambda", studio(home, pipeline=tiny_pipeline(seed=1)))


def test_a_missing_variant_is_named(home, tmp_path, quick):
    with pytest.raises(MissingVariantError, match="variant single-word is not there"):
        make("table1", studio(home, variants=tmp_path, folder=tmp_path / "p"))
    with pytest.raises(ValueError, match="a report is one of table1"):
        make("table9", studio(home))


def test_table_2_says_how_long_each_takes_and_what_equal_means(stored):
    more = results.read(stored["table2"])["more"]
    assert more["seconds"]["ELITE"]["seconds"] > 0
    for name in competitors.COMPETITORS:
        points = more["curves"][name]
        assert [point["steps"] for point in points] == [1, 2, 4]
        assert more["best"][name] == best_step(points)
        reached = [p for p in points if p["dino_i_others"] >= more["ELITE_on_curve_subjects"]["dino_i_others"]]
        assert (more["equal"][name] is None) == (not reached)
        if reached:
            assert more["equal"][name]["steps"] == reached[0]["steps"]
            seconds = reached[0]["seconds"] + reached[0]["preparation"]
            assert more["equal"][name]["ratio"] == pytest.approx(seconds / more["seconds"]["ELITE"]["seconds"], abs=0.1)


def test_the_best_step_is_best_in_both():
    points = [
        {"steps": 1, "dino_i_others": 0.2, "clip_t": 0.9},
        {"steps": 2, "dino_i_others": 0.6, "clip_t": 0.6},
        {"steps": 3, "dino_i_others": 0.9, "clip_t": 0.2},
        {"steps": 4, "dino_i_others": -0.9, "clip_t": -0.9},
    ]
    assert best_step(points) == 2


def test_failures_follow_their_rule():
    likeness = [[[0.9, 0.1]], [[0.5, 0.6]], [[0.3, 0.8]]]
    alignment = [[[0.5, 0.6]], [[0.0, 0.9]], [[0.7, 0.1]]]
    found = ranked(likeness, alignment)
    assert [(one["subject"], one["picture"], one["lost"]) for one in found] == [
        (0, 1, "likeness"),
        (1, 0, "text"),
        (2, 0, "likeness"),
    ]
    assert found[0]["rank"] == found[1]["rank"] == 0


def test_means_of_a_table_are_those_of_its_scores(stored):
    row = results.read(stored["table1"])["rows"]["ours"]
    means = subject_means(row["scores"]["dino_i"])
    assert row["summary"]["dino_i"]["mean"] == pytest.approx(sum(means) / len(means), abs=6e-5)
    lines = results.table(results.read(stored["table1"]), ["dino_i", "scene"])
    assert lines[-1][0] == "ours" and lines[-1][1].startswith(f"{row['summary']['dino_i']['mean']:.3f}")
    assert lines[-1][2] == "–"


def test_choosing_subjects_are_not_those_of_the_tables(home):
    made = studio(home)
    assert not {one.name for one in made.subjects} & {one.name for one in made.choosing}
    assert replace(made.subjects[0], prompts=()).prompts == ()
