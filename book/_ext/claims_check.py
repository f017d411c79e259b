"""Checks of the ledger: numbers against their result files, names of tests and commands, coverage, sums.

Each check returns sentences, none when all is well.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from claims_ledger import PLACES, REPORT, ROOT, Entry


class Measured(NamedTuple):
    """A number of a result file and its 95 % interval, where the file has one."""

    value: float
    interval: tuple[float, float] | None


def result_path(file: str, root: Path = ROOT) -> Path:
    """Where a result file is, or will be."""
    if file == REPORT:
        return root / "elite" / "toybox" / "weights" / "report.json"
    return root / "book" / "results" / f"{file}.json"


def read_result(file: str, root: Path = ROOT) -> dict[str, Any] | None:
    """A result file; None where there is none. A report without intervals does not have what the ledger cites."""
    path = result_path(file, root)
    if not path.is_file():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    return None if file == REPORT and "intervals" not in document else document


def look_up(document: dict[str, Any], file: str, key: str) -> Measured:
    """The number at ``key``: a plain one, or a mapping with ``mean``, ``low`` and ``high``; a report keeps them apart.

    Raises:
        KeyError: when it is not there.
    """
    number = _walk(document["numbers"] if file == REPORT else document, key)
    interval = document["intervals"].get(key) if file == REPORT else None
    if isinstance(number, dict) and {"mean", "low", "high"} <= number.keys():
        number, interval = number["mean"], (number["low"], number["high"])
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise KeyError(key)
    return Measured(float(number), None if interval is None else (float(interval[0]), float(interval[1])))


def _walk(found: Any, key: str) -> Any:
    for part in key.split("/"):
        if isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        elif isinstance(found, dict) and part in found:
            found = found[part]
        else:
            raise KeyError(key)
    return found


def filled(entries: Iterable[Entry], root: Path = ROOT) -> Iterator[Entry]:
    """The entries, with every number printed whose result file is there.

    Raises:
        ValueError: when a result file does not have the number.
    """
    for entry in entries:
        numbers = []
        for number in entry.numbers:
            if (document := read_result(number.file, root)) is None:
                numbers.append(number.model_copy(update={"printed": None, "interval": None}))
                continue
            try:
                numbers.append(number.with_measured(*look_up(document, number.file, number.key)))
            except KeyError as error:
                raise ValueError(f"{entry.id}: {number.of}: {number.file} has no number {number.key}") from error
        yield entry.model_copy(update={"numbers": tuple(numbers)})


def number_problems(entries: Iterable[Entry], root: Path = ROOT) -> list[str]:
    """Numbers that their files do not bear out: missing, not printed though the file is there, or other digits."""
    problems = []
    for entry in entries:
        for number in entry.numbers:
            name, document = f"{entry.id}: {number.of}", read_result(number.file, root)
            if document is None:
                if number.printed is not None:
                    problems.append(f"{name}: {number.printed} is printed, but {number.file} is not there")
                continue
            try:
                right = number.with_measured(*look_up(document, number.file, number.key))
            except KeyError:
                problems.append(f"{name}: {number.file} has no number {number.key}")
                continue
            if number.printed is None:
                problems.append(f"{name}: not printed, {number.file} says {right}: run python tools/fill_claims.py")
            elif number != right:
                problems.append(f"{name}: {number} is printed, {number.file} says {right}")
    return problems


def ledger_problems(entries: Iterable[Entry]) -> list[str]:
    """What is wrong with the ledger itself: ids used twice, places without an entry, sums that do not hold."""
    entries = tuple(entries)
    found = [f"{name}: used {times} times" for name, times in Counter(e.id for e in entries).items() if times > 1]
    covered = {place for entry in entries for place in entry.place}
    found += [f"{place}: no entry" for place in PLACES if place not in covered]
    for entry in entries:
        found += [f"{entry.id}: {sum_.sum} does not give {sum_.gives}" for sum_ in entry.arithmetic if not sum_.holds]
    return found


def missing_tests(entries: Iterable[Entry], root: Path = ROOT) -> list[str]:
    """Tests that entries name and ``tests/`` does not have."""
    defined = set()
    for path in (root / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    return [f"{e.id}: test {name} does not exist" for e in entries for name in e.tests if name not in defined]


def command_problems(entries: Iterable[Entry], root: Path = ROOT) -> list[str]:
    """Commands that entries name and the project does not have: programs, subcommands, options, make's targets."""
    return [
        f"{entry.id}: {command}: {problem}"
        for entry in entries
        for command in entry.commands
        if (problem := _why_not(shlex.split(command), root))
    ]


def _why_not(words: list[str], root: Path) -> str | None:
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return None if rest and rest[0] in targets else "no such target in the Makefile"
    if program != "elite":
        return "must begin with elite or make"
    import typer

    from elite.cli import app

    command = typer.main.get_command(app)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    if hasattr(command, "commands"):
        return f"no such command ({' '.join(rest[:1]) or 'none is named'})"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in known]
    if unknown:
        return f"no option {unknown[0]}"
    return _no_settings(rest) if command.name == "train" else None


def _no_settings(words: list[str]) -> str | None:
    """Why `elite train` would not take a preset with these changes."""
    from elite.cli.train import parse_changes
    from elite.training.presets import load_config

    changes = [word for before, word in pairwise(words) if before == "--set"]
    try:
        load_config(words[0] if words else "", **parse_changes(changes))
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return None
