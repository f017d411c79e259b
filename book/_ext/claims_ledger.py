"""The ledger of the paper's claims, ``book/claims.yml``: its schema, and what can be wrong with it.

An entry says in our words what the paper claims and where, and answers with numbers of the miniature (each named by
its result file and key), tests, arithmetic on the paper's own figures, a command for Stable Diffusion, or a reason why
there is no number. The verdict is not written down: it follows from the numbers, so the two cannot disagree.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

ROOT = Path(__file__).resolve().parents[2]
LEDGER = ROOT / "book" / "claims.yml"
RESULTS = ("table1", "table2", "table4", "lambda", "words", "reweighting", "no-global", "failures")
REPORT = "report"  # of the bundled miniature, elite/toybox/weights/report.json

SECTIONS = (
    *("Abstract", "Sec. 1", "Sec. 2.1", "Sec. 2.2", "Sec. 2.3", "Sec. 3", "Sec. 3.1", "Sec. 3.2", "Sec. 3.3"),
    *("Sec. 4.1", "Sec. 4.2", "Sec. 4.3", "Sec. 4.4", "Sec. 4.5", "Sec. 5"),
    *("App. A.1", "App. A.2", "App. A.3", "App. A.4", "App. B.1", "App. B.2", "App. B.3"),
)
EQUATIONS = tuple(f"Eq. {number}" for number in range(1, 9))
TABLES = tuple(f"Table {number}" for number in range(1, 6))
FIGURES = tuple(f"Fig. {number}" for number in range(1, 18))
PLACES = (*SECTIONS, *EQUATIONS, *TABLES, *FIGURES)

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
Digits = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$")]
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Number(_Strict):
    """One number that was measured here.

    Attributes:
        of: what it is the number of.
        file: a name of `RESULTS` (``book/results/NAME.json``), or "report".
        key: where in that file, names joined by slashes.
        printed: the number as the book prints it; None until the file is there.
        interval: its 95 % interval as printed.
        digits: decimals that are printed.
    """

    of: Text
    file: Literal[*RESULTS, REPORT]
    key: Text
    printed: Digits | None = None
    interval: tuple[Digits, Digits] | None = None
    digits: int = Field(default=2, ge=0, le=6)

    def with_measured(self, value: float, interval: tuple[float, float] | None) -> Number:
        """The same number, printed as its file has it."""
        printed = None if interval is None else tuple(map(self._print, interval))
        return self.model_copy(update={"printed": self._print(value), "interval": printed})

    def __str__(self) -> str:
        interval = f" [{', '.join(self.interval)}]" if self.interval else ""
        return f"{self.printed or 'not measured yet'}{interval}"

    def _print(self, value: float) -> str:
        text = f"{value:.{self.digits}f}"
        return text.removeprefix("-") if float(text) == 0 else text


class Sum(_Strict):
    """Arithmetic on figures of the paper: ``sum`` gives ``gives``, to the digits printed.

    Attributes:
        of: what is computed.
        sum: numbers, + - * / ** and parentheses.
        gives: the result.
    """

    of: Text
    sum: Text
    gives: Digits

    @property
    def holds(self) -> bool:
        """Whether the sum gives the result."""
        digits = len(self.gives.partition(".")[2])
        return abs(evaluate(self.sum) - float(self.gives)) <= 0.5 * 10**-digits + 1e-9


class Entry(_Strict):
    """One claim and its answer.

    Attributes:
        id: a short name, words joined by hyphens.
        place: where the paper says it, of `PLACES`, its section first.
        claim: what it says, in our words.
        paper: the paper's own figures.
        numbers: what was measured here; in the order in which ``expect`` reads them.
        expect: how the numbers go if the claim holds here: each above the one before, below, or all about the same.
        within: how far apart numbers that are "level" may be.
        above: with a single number, what it exceeds if the claim holds here.
        arithmetic: what the paper's own figures give.
        tests: names of tests that hold this code to the claim.
        commands: what measures it with Stable Diffusion.
        because: why there is no number, or what a number does not say.
        uneasy: whether it is about figures or sentences of the paper that sit uneasily together.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    place: Annotated[tuple[Literal[*PLACES], ...], Field(min_length=1)]
    claim: Text
    paper: Text | None = None
    numbers: tuple[Number, ...] = ()
    expect: Literal["rises", "falls", "level"] | None = None
    within: float | None = Field(default=None, gt=0)
    above: float | None = None
    arithmetic: tuple[Sum, ...] = ()
    tests: tuple[Annotated[str, Field(pattern=r"^test_\w+$")], ...] = ()
    commands: tuple[Text, ...] = ()
    because: Text | None = None
    uneasy: bool = False

    @model_validator(mode="after")
    def _is_answered(self) -> Entry:
        if self.place[0] not in SECTIONS:
            raise ValueError(f"place must begin with a section of the paper, got {self.place[0]!r}.")
        if not (self.numbers or self.arithmetic or self.tests or self.because):
            raise ValueError("an entry must have numbers, arithmetic, tests or because; commands alone say too little.")
        if self.expect and len(self.numbers) < 2:
            raise ValueError(f"expect compares at least two numbers, got {len(self.numbers)}.")
        if (self.within is None) == (self.expect == "level"):
            raise ValueError('within belongs to expect: level, and says how near "level" is.')
        if self.above is not None and len(self.numbers) != 1:
            raise ValueError(f"above belongs to a single number, got {len(self.numbers)}.")
        return self

    @property
    def verdict(self) -> str:
        """What came of the claim, in a few words."""
        if self.uneasy:
            return "a remark on the paper"
        if any(number.printed is None for number in self.numbers):
            return "not measured yet"
        if self.expect or self.above is not None:
            return self._compared()
        for found, word in (
            (self.numbers, "measured"),
            (self.tests, "built so, held by a test"),
            (self.commands, "needs Stable Diffusion"),
            (self.arithmetic, "arithmetic"),
        ):
            if found:
                return word
        return "not on the miniature"

    def _compared(self) -> str:
        values = [float(number.printed) for number in self.numbers]
        spans = [_span(number) for number in self.numbers]
        if self.above is not None:
            if spans[0][0] > self.above:
                return "same direction"
            return "other direction" if spans[0][1] < self.above else "no clear difference"
        if self.expect == "level":
            near = max(values) - min(values) <= self.within + 1e-9
            return "same direction" if near else "other direction"
        sign = 1 if self.expect == "rises" else -1
        steps = [sign * (after - before) for before, after in pairwise(values)]
        half_widths = [(high - low) / 2 for low, high in spans]
        slack = [max(pair) for pair in pairwise(half_widths)]
        if any(step < -most - 1e-9 for step, most in zip(steps, slack, strict=True)):
            return "other direction" if sign * (values[-1] - values[0]) <= 0 else "not at every step"
        apart = spans[-1][0] > spans[0][1] if sign > 0 else spans[-1][1] < spans[0][0]
        return "same direction" if apart else "no clear difference"


def _span(number: Number) -> tuple[float, float]:
    low, high = number.interval or (number.printed, number.printed)
    return float(low), float(high)


def read_ledger(path: Path = LEDGER) -> tuple[Entry, ...]:
    """The entries of the ledger.

    Raises:
        ValueError: naming the entry, its field and what is wrong, for the first that does not fit the schema.
    """
    entries = []
    for position, raw in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")) or ()):
        name = raw.get("id", f"number {position + 1}") if isinstance(raw, dict) else f"number {position + 1}"
        try:
            entries.append(Entry.model_validate(raw))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "entry"
            raise ValueError(f"{path.name}: {name}: {field}: {first['msg']}") from error
    return tuple(entries)


def write_ledger(entries: Iterable[Entry], path: Path = LEDGER) -> None:
    """Write entries as `read_ledger` reads them, one form for each ledger; the comment on top of the file stays."""
    head = ""
    if path.is_file():
        head = "".join(re.match(r"(?:#[^\n]*\n)*", path.read_text(encoding="utf-8")).group())
    plain = [entry.model_dump(mode="json", exclude_defaults=True) for entry in entries]
    body = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=118, default_flow_style=None)
    temporary = path.with_suffix(".yml.part")
    temporary.write_text(head + body, encoding="utf-8")
    temporary.replace(path)


def evaluate(text: str) -> float:
    """The value of a sum.

    Raises:
        ValueError: for anything but numbers, + - * / ** and parentheses.
    """
    try:
        return float(_value(ast.parse(text, mode="eval").body))
    except (SyntaxError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"sum must be numbers, + - * / ** and parentheses, got {text!r}.") from error


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](_value(node.operand))
    raise TypeError
