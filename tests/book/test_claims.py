"""The ledger of claims: whole, answered, and in agreement with result files, tests and commands."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from claims_check import command_problems, filled, ledger_problems, missing_tests, number_problems  # noqa: E402
from claims_ledger import FIGURES, PLACES, RESULTS, SECTIONS, Entry, evaluate, read_ledger, write_ledger  # noqa: E402

BASE = {"id": "a-claim", "place": ["Sec. 4.2", "Table 1"], "claim": "It is so."}
TWO = [
    {"of": "one", "file": "table1", "key": "rows/one/scene"},
    {"of": "other", "file": "table1", "key": "rows/other/scene"},
]


def entry(**fields) -> Entry:
    return Entry.model_validate(BASE | fields)


def printed(*numbers, interval=None):
    return [{"of": str(n), "file": "lambda", "key": "x", "printed": n, "interval": interval} for n in numbers]


@pytest.fixture(scope="module")
def ledger() -> tuple[Entry, ...]:
    return read_ledger()


def write_results(root: Path, **rows: dict) -> None:
    (root / "book" / "results").mkdir(parents=True, exist_ok=True)
    (root / "book" / "results" / "table1.json").write_text(json.dumps({"rows": rows}))


def test_every_claim_has_an_entry_and_every_entry_an_answer(ledger):
    assert len(ledger) >= 120
    assert ledger_problems(ledger) == []
    assert all(e.numbers or e.arithmetic or e.tests or e.because for e in ledger)


def test_the_places_are_those_of_the_paper():
    """Written down once more: 22 sections, 8 equations, 5 tables, and every figure that the text refers to."""
    assert len(SECTIONS) == 22 and len(set(PLACES)) == len(PLACES) == 22 + 8 + 5 + 17
    assert {int(name.removeprefix("Fig. ")) for name in FIGURES} == set(range(1, 18))


def test_numbers_agree_with_their_result_files_to_the_printed_digits(ledger):
    """Where a file is missing, nothing may be printed; where it is there, everything must be."""
    assert number_problems(ledger) == []


def test_tests_and_commands_that_are_named_exist(ledger):
    assert missing_tests(ledger) == []
    assert command_problems(ledger) == []


@pytest.mark.parametrize("name", ["textual-inversion", "dreambooth", "custom-diffusion"])
def test_rivals_have_the_papers_settings(ledger, name):
    """As the ledger has them from the paper: batch, learning rate, steps."""
    from elite.evaluation.competitors.settings import PAPER

    (said,) = (e.paper for e in ledger if e.id == f"settings-{name}")
    batch, rate, steps = (float(one.replace(",", "")) for one in said.split(", "))
    assert (PAPER[name].batch_size, PAPER[name].learning_rate, PAPER[name].steps) == (batch, rate, steps)


def test_methods_that_commands_name_are_known(ledger):
    from elite.evaluation.competitors import COMPETITORS

    named = {name for e in ledger for command in e.commands for name in re.findall(r"--method (\S+)", command)}
    assert named and named <= set(COMPETITORS)


def test_rows_and_scores_that_are_named_are_those_that_reports_make(ledger, monkeypatch):
    from elite.evaluation import reports
    from elite.evaluation.competitors import COMPETITORS
    from elite.evaluation.scoring import CONVENTIONS

    config = SimpleNamespace(layers=(1, 2, 3, 4, 6))
    studio = SimpleNamespace(
        pipeline=None,
        elite=lambda *names, **options: None,
        primary=lambda name: "w0",
        adapter=lambda name: SimpleNamespace(config=config),
    )
    monkeypatch.setattr(reports, "competitor_rows", lambda studio: dict.fromkeys(COMPETITORS))
    labels = {name: set(report.rows(studio)) for name, report in reports.REPORTS.items()}
    numbers = [n for e in ledger for n in e.numbers if n.file != "report"]
    assert {n.file for n in numbers} == set(labels) == set(RESULTS)
    for number in numbers:
        part, label, *rest = number.key.split("/")
        if part == "rows":
            assert label in labels[number.file] and rest[0] == "summary" and rest[1] in CONVENTIONS, number.key
        else:
            assert (part, label) == ("more", "seconds") and rest[0] in labels[number.file], number.key
            assert rest[1] in ("seconds", "preparation"), number.key


def test_each_section_is_on_the_page_once_in_the_papers_order(ledger):
    page = (ROOT / "book" / "claims.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```\{claims\} (.+)$", page, re.MULTILINE)
    assert shown == ["uneasy", *SECTIONS]


def test_eight_of_nine_percentages_of_the_user_study_cannot_come_from_1800_answers(ledger):
    """By counting: which numbers of answers can give the nine percentages, rounded to two digits?"""
    table3 = {e.id: e.paper for e in ledger if e.id.startswith("table3-")}
    percentages = [float(one) for text in table3.values() for one in text.split(", ")]
    assert len(percentages) == 9

    def can_give(percent: float, answers: int) -> bool:
        nearest = round(percent * answers / 100)
        return any(f"{100 * k / answers:.2f}" == f"{percent:.2f}" for k in range(nearest - 1, nearest + 2))

    for answers in (1800, 600):
        assert sum(can_give(percent, answers) for percent in percentages) == 1
    fitting = (n for n in itertools.count(1) if all(can_give(percent, n) for percent in percentages))
    assert next(fitting) == 2200
    (said,) = (e.claim for e in ledger if e.id == "uneasy-number-of-answers")
    assert "eight of the nine" in said and "2,200" in said


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "must have numbers"),
        ({"commands": ["elite info x"]}, "commands alone say too little"),
        ({"because": " "}, "because"),
        ({"because": "x", "place": []}, "place"),
        ({"because": "x", "place": ["Sec. 9"]}, "place"),
        ({"because": "x", "place": ["Table 1"]}, "must begin with a section"),
        ({"because": "x", "id": "A claim"}, "id"),
        ({"because": "x", "colour": "red"}, "colour"),
        ({"numbers": TWO[:1], "expect": "rises"}, "at least two"),
        ({"numbers": TWO, "expect": "level"}, "within belongs"),
        ({"numbers": TWO, "above": 1.0}, "single number"),
        ({"numbers": [{**TWO[0], "file": "table9"}]}, "file"),
    ],
)
def test_an_entry_that_answers_nothing_or_says_nonsense_is_refused(tmp_path, fields, sentence):
    path = tmp_path / "claims.yml"
    path.write_text(json.dumps([BASE | fields]))
    with pytest.raises(ValueError, match=sentence) as caught:
        read_ledger(path)
    assert str(caught.value).startswith("claims.yml: ")


def test_double_ids_uncovered_places_and_wrong_sums_are_found():
    twice = [entry(because="x"), entry(because="y")]
    found = ledger_problems(twice)
    assert found[0] == "a-claim: used 2 times"
    assert "Fig. 7: no entry" in found and "Table 1: no entry" not in found
    wrong = entry(arithmetic=[{"of": "x", "sum": "0.699 - 0.714", "gives": "0.015"}])
    assert "a-claim: 0.699 - 0.714 does not give 0.015" in ledger_problems([wrong])
    assert "2 ** 3" not in str(ledger_problems([entry(arithmetic=[{"of": "x", "sum": "2 ** 3", "gives": "8"}])]))


@pytest.mark.parametrize("text", ["__import__('os')", "x + 1", "1 +", "True", "1 / 0", "[1]", "'a'"])
def test_a_sum_is_numbers_and_nothing_else(text):
    with pytest.raises(ValueError, match="sum must be numbers"):
        evaluate(text)


def test_a_number_that_differs_from_its_file_is_found(tmp_path):
    one = entry(numbers=[{**TWO[0], "printed": "0.71", "interval": ["0.65", "0.77"]}])
    assert number_problems([one], tmp_path) == ["a-claim: one: 0.71 is printed, but table1 is not there"]
    write_results(tmp_path, one={"scene": {"mean": 0.7149, "low": 0.6501, "high": 0.7699}})
    assert number_problems([one], tmp_path) == []
    for mean, high, says in ((0.7151, 0.7699, "0.72 [0.65, 0.77]"), (0.7149, 0.7751, "0.71 [0.65, 0.78]")):
        write_results(tmp_path, one={"scene": {"mean": mean, "low": 0.6501, "high": high}})
        (problem,) = number_problems([one], tmp_path)
        assert problem == f"a-claim: one: 0.71 [0.65, 0.77] is printed, table1 says {says}"
    write_results(tmp_path, one={"identity": 0.7149})
    assert number_problems([one], tmp_path) == ["a-claim: one: table1 has no number rows/one/scene"]


def test_not_measured_yet_is_for_missing_files_alone(tmp_path):
    waiting = entry(numbers=TWO)
    assert waiting.verdict == "not measured yet"
    assert number_problems([waiting], tmp_path) == []
    write_results(tmp_path, one={"scene": 0.4}, other={"scene": 0.9})
    assert number_problems([waiting], tmp_path) == [
        "a-claim: one: not printed, table1 says 0.40: run python tools/fill_claims.py",
        "a-claim: other: not printed, table1 says 0.90: run python tools/fill_claims.py",
    ]


def test_filling_from_a_file_without_the_key_says_which(tmp_path):
    write_results(tmp_path, one={"identity": 0.4})
    with pytest.raises(ValueError, match=r"^a-claim: one: table1 has no number rows/one/scene$"):
        tuple(filled([entry(numbers=TWO)], tmp_path))


def test_filling_prints_what_the_files_say_and_a_second_time_changes_nothing(tmp_path):
    path = tmp_path / "claims.yml"
    path.write_text("# a head\n# of two lines\n" + json.dumps([BASE | {"numbers": TWO, "expect": "rises"}]))
    write_results(
        tmp_path,
        one={"scene": {"mean": 0.4, "low": 0.35, "high": 0.45}},
        other={"scene": {"mean": 0.9, "low": 0.85, "high": 0.951}},
    )
    write_ledger(filled(read_ledger(path), tmp_path), path)
    once = path.read_text()
    assert once.startswith("# a head\n# of two lines\n- id: a-claim")
    (full,) = read_ledger(path)
    assert [n.printed for n in full.numbers] == ["0.40", "0.90"] and full.numbers[1].interval == ("0.85", "0.95")
    assert number_problems([full], tmp_path) == [] and full.verdict == "same direction"
    write_ledger(filled(read_ledger(path), tmp_path), path)
    assert path.read_text() == once


def test_the_ledger_is_as_the_tool_writes_it(ledger, tmp_path):
    path = tmp_path / "claims.yml"
    text = (ROOT / "book" / "claims.yml").read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    write_ledger(ledger, path)
    assert path.read_text(encoding="utf-8") == text


def test_numbers_of_the_miniatures_report_bring_their_intervals(tmp_path):
    report = tmp_path / "elite" / "toybox" / "weights" / "report.json"
    report.parent.mkdir(parents=True)
    one = entry(numbers=[{"of": "identity", "file": "report", "key": "edit_identity"}])
    report.write_text(json.dumps({"numbers": {"edit_identity": 0.5}}))  # without intervals: of another miniature
    assert number_problems([one], tmp_path) == []
    report.write_text(json.dumps({"numbers": {"edit_identity": 0.5}, "intervals": {"edit_identity": [0.4, 0.6]}}))
    (full,) = filled([one], tmp_path)
    assert (full.numbers[0].printed, full.numbers[0].interval) == ("0.50", ("0.40", "0.60"))


@pytest.mark.parametrize(
    ("numbers", "fields", "verdict"),
    [
        (printed("0.4", "0.9"), {"expect": "rises"}, "same direction"),
        (printed("0.4", "0.9"), {"expect": "falls"}, "other direction"),
        (printed("0.50", "0.52", interval=("0.4", "0.6")), {"expect": "rises"}, "no clear difference"),
        (printed("0.52", "0.50", interval=("0.4", "0.6")), {"expect": "rises"}, "no clear difference"),
        (printed("0.1", "0.5", "0.2", "0.9"), {"expect": "rises"}, "not at every step"),
        (printed("0.90", "0.91"), {"expect": "level", "within": 0.01}, "same direction"),
        (printed("0.90", "0.92"), {"expect": "level", "within": 0.01}, "other direction"),
        (printed("12", interval=("8", "20")), {"above": 1.0}, "same direction"),
        (printed("1.2", interval=("0.8", "2")), {"above": 1.0}, "no clear difference"),
        (printed("0.5", interval=("0.2", "0.8")), {"above": 1.0}, "other direction"),
        (printed("0.5"), {}, "measured"),
        ([], {"tests": ["test_x"], "because": "x"}, "built so, held by a test"),
        ([], {"commands": ["elite info x"], "because": "x"}, "needs Stable Diffusion"),
        ([], {"because": "x"}, "not on the miniature"),
        (printed("0.5"), {"uneasy": True}, "a remark on the paper"),
    ],
)
def test_the_verdict_follows_from_the_numbers(numbers, fields, verdict):
    assert entry(numbers=numbers, **fields).verdict == verdict


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("elite generate --model sd14 --output x", None),
        ("elite train sd14-global --set layers=[24]", None),
        ("make toybox-report", None),
        ("elite gnerate --model sd14", "no such command (gnerate)"),
        ("elite generate --modle sd14", "no option --modle"),
        ("elite download --limit 3", "no such command (--limit)"),
        ("elite train sd41-global", "config must be one of"),
        ("elite train sd14-global --set lairs=[24]", "lairs"),
        ("make coffee", "no such target in the Makefile"),
        ("rm -rf x", "must begin with elite or make"),
    ],
)
def test_a_command_is_looked_up_with_its_options(command, problem):
    found = command_problems([entry(because="x", commands=[command])])
    assert len(found) == (problem is not None)
    assert all(one.startswith(f"a-claim: {command}: ") and problem in one for one in found)


def test_a_test_that_does_not_exist_is_found():
    assert missing_tests([entry(tests=["test_no_such_thing", "test_a_test_that_does_not_exist_is_found"])]) == [
        "a-claim: test test_no_such_thing does not exist"
    ]


@pytest.mark.slow
def test_the_page_shows_every_claim_with_its_verdict(ledger, tmp_path):
    pytest.importorskip("sphinx", reason="sphinx is not installed")
    path = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'book' / '_ext')!r}]"
    (tmp_path / "conf.py").write_text(
        f"{path}\nextensions = ['myst_parser', 'sphinx.ext.autodoc', 'elite_book', 'elite_claims']\n"
    )
    page = (ROOT / "book" / "claims.md").read_text(encoding="utf-8").replace(" {cite:p}`wei2023elite`", "")
    (tmp_path / "index.md").write_text(page, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", str(tmp_path), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "claims" not in result.stderr, result.stderr
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'id="claim-([\w-]+)"', html) != []
    assert sorted(re.findall(r'id="claim-([\w-]+)"', html)) == sorted(e.id for e in ledger)
    for verdict in {e.verdict for e in ledger}:
        times = sum(e.verdict == verdict for e in ledger)
        assert html.count(f"<strong>{verdict.capitalize()}.</strong>") == times
