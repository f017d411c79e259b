"""Stored tables: one JSON each, with every picture's scores, what made them, and a digest that tells any change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from elite.evaluation.protocol import compact, summary
from elite.evaluation.scoring import CONVENTIONS
from elite.io.files import read_json, replacing

FORMAT = 1
KEYS = ("format", "name", "title", "settings", "provenance", "rows", "more", "digest")


class DamagedResultError(ValueError):
    """A stored result that is not what was written."""


def digest(value: Mapping[str, Any]) -> str:
    """Sixteen digits of the SHA-256 of a result, its own digest left out."""
    plain = {key: item for key, item in value.items() if key != "digest"}
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write(path: Path, value: Mapping[str, Any]) -> Path:
    """Write a result with its digest, whole or not at all; returns its path."""
    whole = {**value, "format": FORMAT}
    ordered = {key: whole[key] for key in KEYS if key in whole}
    ordered = json.loads(json.dumps(ordered))
    with replacing(path) as temporary:
        temporary.write_text(_laid_out({**ordered, "digest": digest(ordered)}), encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Any]:
    """Read a result and check that it is what was written.

    Raises:
        FileNotFoundError: when there is no such file.
        DamagedResultError: when it is not a result, was changed, or its means are not those of its scores.
    """
    if not path.is_file():
        raise FileNotFoundError(f"result {path} does not exist: elite report {path.stem} makes it.")
    try:
        value = read_json(path)
    except ValueError as error:
        raise DamagedResultError(f"result {path} is damaged: {error}") from error
    missing = [key for key in KEYS if key not in value]
    if missing or value["format"] != FORMAT:
        raise DamagedResultError(f"result {path} is damaged: it has no {missing[0] if missing else 'known format'}.")
    for label, row in value["rows"].items():
        found = summary({name: row["scores"][name] for name in CONVENTIONS if name in row["scores"]})
        odd = [name for name in {**found, **row["summary"]} if found.get(name) != row["summary"].get(name)]
        if odd:
            raise DamagedResultError(
                f"result {path} was changed: in row {label}, {odd[0]} is not the mean of its scores."
            )
    if value["digest"] != digest(value):
        raise DamagedResultError(f"result {path} was changed: its digest is {digest(value)}, not {value['digest']}.")
    return value


def table(value: Mapping[str, Any], columns: Iterable[str]) -> list[list[str]]:
    """Rows of text: a label, then each column's mean with its interval, "–" where it was not measured."""
    rows = []
    for label, row in value["rows"].items():
        cells = []
        for name in columns:
            one = row["summary"].get(name)
            cells.append("–" if one is None else f"{one['mean']:.3f} ({one['low']:.3f}–{one['high']:.3f})")
        rows.append([label, *cells])
    return rows


def _laid_out(value: Mapping[str, Any]) -> str:
    """JSON with a line for each row's score: small, and readable in a diff."""
    rows = ",\n".join(
        f"{json.dumps(label, ensure_ascii=False)}: {compact(row).rstrip()}" for label, row in value["rows"].items()
    )
    outside = compact({key: item for key, item in value.items() if key not in ("rows", "digest")}).rstrip()
    return f'{outside[:-2]},\n "rows": {{\n{rows}\n}},\n "digest": {json.dumps(value["digest"])}\n}}\n'
