"""What a setting may be: small rules that check a value, bring it to its type, and say in words what is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Rule:
    """A check of one value.

    Attributes:
        says: what the value has to be, as the end of a sentence.
        read: gives the value in its type, or raises ValueError or TypeError.
    """

    says: str
    read: Callable[[Any], Any]

    def apply(self, name: str, value: Any) -> Any:
        """The value in its type.

        Raises:
            ValueError: naming the setting, what it is and what it has to be.
        """
        try:
            return self.read(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{name} must be {self.says}, got {value!r}.") from None


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def whole(low: int) -> Rule:
    """A whole number of at least ``low``."""

    def read(value: Any) -> int:
        _require(not isinstance(value, bool) and int(value) == float(value) and int(value) >= low)
        return int(value)

    return Rule(f"a whole number, at least {low}", read)


def real(low: float, high: float = math.inf, strict: bool = False) -> Rule:
    """A number with low <= number < high, or low < number with ``strict``. YAML reads "1e-6" as a text, so do we."""

    def read(value: Any) -> float:
        number = float(value)
        _require(not isinstance(value, bool) and (low < number if strict else low <= number) and number < high)
        return number

    start = f"above {low:g}" if strict else f"at least {low:g}"
    return Rule(f"a number {start}" + ("" if high == math.inf else f" and below {high:g}"), read)


def one_of(*names: str) -> Rule:
    """One of a few words."""

    def read(value: Any) -> str:
        # YAML reads a bare no as False.
        value = "no" if value is False and "no" in names else value
        _require(value in names)
        return value

    return Rule("one of " + ", ".join(f'"{name}"' for name in names), read)


def flag() -> Rule:
    """True or False."""

    def read(value: Any) -> bool:
        _require(isinstance(value, bool))
        return value

    return Rule("true or false", read)


def text() -> Rule:
    """A text that is not empty; paths become texts."""

    def read(value: Any) -> str:
        _require(isinstance(value, (str, Path)) and str(value) != "")
        return str(value)

    return Rule("a text that is not empty", read)


def several(rule: Rule, count: int | None = None) -> Rule:
    """A list, each item by a rule; of ``count`` items when that is given."""

    def read(value: Any) -> tuple:
        _require(isinstance(value, (list, tuple)) and count in (None, len(value)))
        return tuple(rule.read(item) for item in value)

    return Rule(f"a list{'' if count is None else f' of {count} items'}, each item {rule.says}", read)


def optional(rule: Rule) -> Rule:
    """None, or what a rule allows."""
    return Rule(f"{rule.says}, or left out", lambda value: None if value is None else rule.read(value))


def either(first: Rule, second: Rule) -> Rule:
    """What one of two rules allows."""

    def read(value: Any) -> Any:
        try:
            return first.read(value)
        except (TypeError, ValueError):
            return second.read(value)

    return Rule(f"{first.says}, or {second.says}", read)
