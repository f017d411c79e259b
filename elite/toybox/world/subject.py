"""Subjects: what makes this dog this dog, most of which no caption says."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .colors import RGB, vivid

LIVE_CLASSES = ("dog", "cat", "rabbit", "bear", "bird", "fish", "fox", "owl", "frog", "penguin", "elephant", "pig")
OTHER_CLASSES = ("mug", "teapot", "vase", "car", "boot", "robot", "lamp", "backpack", "clock", "guitar", "house",
                 "candle")  # fmt: skip
CLASSES = LIVE_CLASSES + OTHER_CLASSES
LIVE = frozenset(LIVE_CLASSES)
V0_CLASSES = LIVE_CLASSES[:6] + OTHER_CLASSES[:6]
PATTERNS = ("plain", "spotted", "striped", "patched")


@dataclass(frozen=True)
class Subject:
    """One individual.

    Attributes:
        class_name: one of `CLASSES`.
        first: main colour.
        second: colour of the pattern and of the parts that a class shows off (ears, wings, handles).
        pattern: one of `PATTERNS`.
        pattern_scale: size of spots and stripes, 0 (small) to 1.
        pattern_seed: where they lie.
        proportions: eight numbers in [0, 1] that each class reads in its own way.
    """

    class_name: str
    first: RGB
    second: RGB
    pattern: str
    pattern_scale: float
    pattern_seed: int
    proportions: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.class_name not in CLASSES:
            raise ValueError(f"class_name must be one of {', '.join(CLASSES)}, got {self.class_name!r}.")
        if self.pattern not in PATTERNS:
            raise ValueError(f"pattern must be one of {', '.join(PATTERNS)}, got {self.pattern!r}.")

    @classmethod
    def sample(cls, seed: int | str, class_name: str | None = None) -> Subject:
        """Draw a subject; the same seed gives the same one."""
        rng = random.Random(f"subject:{seed}")
        drawn = rng.choice(CLASSES)
        first, second = vivid(rng), vivid(rng)
        while sum(abs(a - b) for a, b in zip(first, second, strict=True)) < 220:
            second = vivid(rng)  # two colours that nobody takes for one
        return cls(
            class_name=class_name or drawn,
            first=first,
            second=second,
            pattern=rng.choice(PATTERNS),
            pattern_scale=rng.random(),
            pattern_seed=rng.randrange(1 << 30),
            proportions=tuple(rng.random() for _ in range(8)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Subject:
        """The inverse of `to_dict`."""
        tuples = {key: tuple(value[key]) for key in ("first", "second", "proportions")}
        return cls(**{**value, **tuples})
