"""The user study: blinded, shuffled, saved at once, counted exactly."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import beta, binom

from elite.evaluation.drawing import Anchor
from elite.evaluation.protocol import Evaluation
from elite.evaluation.study import QUESTIONS, Answers, pairs_of, preferences, read_answers
from elite.evaluation.study_widget import StudyWidget
from tests.evaluation.worlds import subject

SUBJECTS = [subject(1), subject(2, "owl")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("study")
    for name in ("copy", "rendering", "other"):
        Evaluation(Anchor(name), SUBJECTS, root / name, pictures=2).draw()
    return {name: root / name for name in ("copy", "rendering", "other")}


@pytest.fixture
def pairs(folders):
    return pairs_of(folders["rendering"], {"copies": folders["copy"], "others": folders["other"]}, count=20, seed=3)


def test_pairs_show_both_methods_blinded_and_shuffled(folders, pairs):
    assert Counter(pair.question for pair in pairs) == dict.fromkeys(QUESTIONS, 20)
    assert Counter(pair.rival for pair in pairs) == {"copies": 30, "others": 30}
    for pair in pairs:
        mine, theirs = (pair.left, pair.right) if pair.ours_is == "left" else (pair.right, pair.left)
        assert mine.parents[1] == folders["rendering"]
        assert theirs.parents[1] == folders[{"copies": "copy", "others": "other"}[pair.rival]]
        assert mine.relative_to(folders["rendering"]) == theirs.relative_to(theirs.parents[1])
    assert 15 < sum(pair.ours_is == "left" for pair in pairs) < 45
    assert any("an owl" in pair.text for pair in pairs) and all("{}" not in pair.text for pair in pairs)
    kinds = [pair.question for pair in pairs]
    assert kinds != sorted(kinds)  # the kinds are mixed
    rivals = {"copies": folders["copy"], "others": folders["other"]}
    assert pairs_of(folders["rendering"], rivals, count=20, seed=3) == pairs
    assert pairs_of(folders["rendering"], rivals, count=20, seed=4) != pairs


def test_answers_are_on_disk_at_once_and_gone_on_with(tmp_path, pairs):
    path = tmp_path / "deep" / "anna.jsonl"
    first = Answers(path, pairs)
    for number in range(3):
        assert first.current == pairs[number]
        first.answer(pairs[number].ours_is)
        assert len(path.read_text().splitlines()) == number + 1
    again = Answers(path, pairs)  # the notebook was closed
    assert again.current == pairs[3]
    again.answer("left" if pairs[3].ours_is == "right" else "right")
    found = read_answers(path)
    assert [one["prefers"] for one in found] == ["ours"] * 3 + [pairs[3].rival]
    with pytest.raises(ValueError, match="holds answers to other pairs"):
        Answers(path, pairs[1:])


def test_rates_have_exact_intervals():
    def answers(rival, wins, count):
        base = {"question": "text alignment", "ours": "ours", "rival": rival}
        return [{**base, "prefers": "ours" if number < wins else rival} for number in range(count)]

    every = preferences([*answers("b", 7, 20), *answers("a", 5, 5)])[::-1]
    assert [(one.rival, one.ours, one.answers) for one in every] == [("b", 7, 20), ("a", 5, 5)]
    one = every[0]
    # Clopper and Pearson by the beta distribution, and the two-sided test by adding up the binomial.
    assert (one.low, one.high) == pytest.approx((beta.ppf(0.025, 7, 14), beta.ppf(0.975, 8, 13)), abs=1e-6)
    likely = binom.pmf(range(21), 20, 0.5)
    assert one.p_value == pytest.approx(sum(p for p in likely if p <= likely[7] * (1 + 1e-9)), abs=1e-9)
    assert one.rate == 0.35 and every[1].high == 1


def test_the_widget_asks_saves_and_only_then_tells(tmp_path, pairs):
    answers = Answers(tmp_path / "a.jsonl", pairs[:3])
    widget = StudyWidget(answers)
    for pair in pairs[:3]:
        shown = [picture.value for picture in widget._pictures]
        assert shown == [pair.given.read_bytes(), pair.left.read_bytes(), pair.right.read_bytes()]
        assert QUESTIONS[pair.question] in widget._text.value and pair.text in widget._text.value
        visible = widget._text.value + widget.left.description + widget.right.description
        assert pair.rival not in visible and "ours" not in visible
        widget.left.click()
    assert [one["chosen"] for one in read_answers(tmp_path / "a.jsonl")] == ["left"] * 3
    assert widget.left.disabled and "All 3 questions are answered" in widget._text.value
    assert pairs[0].rival in widget._text.value
    assert "application/vnd.jupyter.widget-view+json" in widget._repr_mimebundle_()


def test_an_answer_that_cannot_be_written_is_asked_again(tmp_path, pairs, monkeypatch):
    answers = Answers(tmp_path / "a.jsonl", pairs[:2])
    widget = StudyWidget(answers)
    monkeypatch.setattr(Path, "open", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full")))
    widget.right.click()
    assert "could not be written: disk full" in widget._text.value
    assert answers.current == pairs[0]


def test_bad_input_is_one_sentence(folders, pairs, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no evaluation"):
        pairs_of(tmp_path, {"copies": folders["copy"]})
    with pytest.raises(ValueError, match="rivals must name at least one"):
        pairs_of(folders["copy"], {})
    Evaluation(Anchor("copy"), SUBJECTS[:1], tmp_path / "one", pictures=2).draw()
    with pytest.raises(ValueError, match="few drew other subjects than ours"):
        pairs_of(folders["copy"], {"few": tmp_path / "one"})
    with pytest.raises(ValueError, match='side must be "left" or "right"'):
        Answers(tmp_path / "x.jsonl", pairs).answer("both")
    (tmp_path / "bad.jsonl").write_text(json.dumps({"question": "taste"}) + "\n")
    with pytest.raises(ValueError, match=r"line 1 of .* is no answer"):
        read_answers(tmp_path / "bad.jsonl")
    next(folders["other"].rglob("*-0.png")).unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        pairs_of(folders["rendering"], {"others": folders["other"]}, count=60)
