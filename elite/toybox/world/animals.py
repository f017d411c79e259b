"""The live classes: one function each draws a body and says where its face and clothes go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .pen import Anchors, Pen

Body = Callable[[Pen, Sequence[float]], Anchors]


def _sitting(pen: Pen, p: Sequence[float], head: float) -> None:
    """Body, paws and head of the animals that sit and look at you."""
    pen.oval("body", 0.5, 0.74, 0.21 + 0.06 * p[1], 0.2)
    pen.oval("body", 0.36, 0.91, 0.1, 0.055)
    pen.oval("body", 0.64, 0.91, 0.1, 0.055)
    pen.oval("body", 0.5, 0.4, head, 0.18 + 0.03 * p[2])


def _seated(head: float, top: float = 0.24) -> Anchors:
    return Anchors((0.5 - 0.42 * head, 0.5 + 0.42 * head, 0.37), (0.5, top, 0.19), (0.58, 0.87), (0.5, 0.575, 0.19))


def dog(pen: Pen, p: Sequence[float]) -> Anchors:
    """Hanging ears, a muzzle, a tail."""
    head = 0.21 + 0.04 * p[0]
    pen.line("body", (0.68, 0.82), (0.84, 0.72 - 0.1 * p[4]), width=0.07)
    _sitting(pen, p, head)
    length = 0.13 + 0.07 * p[3]
    pen.oval("accent", 0.5 - head, 0.42, 0.075, length)
    pen.oval("accent", 0.5 + head, 0.42, 0.075, length)
    pen.oval("accent", 0.5, 0.485, 0.1, 0.075)
    pen.oval("dark", 0.5, 0.455, 0.045, 0.03)
    return _seated(head)


def cat(pen: Pen, p: Sequence[float]) -> Anchors:
    """Pointed ears and a raised tail."""
    head = 0.22 + 0.03 * p[0]
    pen.line("accent", (0.68, 0.86), (0.86, 0.78), (0.86, 0.5 - 0.12 * p[4]), width=0.075)
    for side in (-1, 1):
        outer, inner, tip = 0.5 + side * head, 0.5 + side * 0.05, 0.1 - 0.05 * p[3]
        pen.poly("body", (outer, 0.38), (outer - side * 0.01, tip), (inner, 0.27))
        pen.poly("accent", (outer - side * 0.03, 0.32), (outer - side * 0.03, tip + 0.07), (inner + side * 0.04, 0.27))
    _sitting(pen, p, head)
    pen.poly("dark", (0.465, 0.44), (0.535, 0.44), (0.5, 0.48))
    return _seated(head)


def rabbit(pen: Pen, p: Sequence[float]) -> Anchors:
    """Long upright ears, a pale belly."""
    head, length = 0.2 + 0.03 * p[0], 0.17 + 0.05 * p[3]
    for side in (-1, 1):
        pen.oval("body", 0.5 + side * (0.09 + 0.03 * p[4]), 0.2, 0.065, length)
        pen.oval("accent", 0.5 + side * (0.09 + 0.03 * p[4]), 0.2, 0.033, length * 0.75)
    _sitting(pen, p, head)
    pen.oval("accent", 0.5, 0.77, 0.12, 0.13)
    pen.oval("dark", 0.5, 0.455, 0.03, 0.024)
    return _seated(head)


def bear(pen: Pen, p: Sequence[float]) -> Anchors:
    """Round ears, a round muzzle and belly."""
    head, ear = 0.22 + 0.03 * p[0], 0.08 + 0.03 * p[3]
    for side in (-1, 1):
        pen.oval("body", 0.5 + side * (head - 0.03), 0.25, ear, ear)
        pen.oval("accent", 0.5 + side * (head - 0.03), 0.25, ear * 0.55, ear * 0.55)
    _sitting(pen, p, head)
    pen.oval("accent", 0.5, 0.48, 0.11, 0.08)
    pen.oval("accent", 0.5, 0.77, 0.14, 0.14)
    pen.oval("dark", 0.5, 0.455, 0.045, 0.03)
    return _seated(head)


def bird(pen: Pen, p: Sequence[float]) -> Anchors:
    """Seen from the side: beak, wing, tail, two legs."""
    pen.line("dark", (0.44, 0.8), (0.44, 0.95), width=0.03)
    pen.line("dark", (0.56, 0.8), (0.56, 0.95), width=0.03)
    pen.poly("accent", (0.3, 0.52), (0.03, 0.42 + 0.3 * p[3]), (0.3, 0.74))
    pen.poly("accent", (0.74, 0.3), (0.86 + 0.1 * p[0], 0.38), (0.74, 0.44))
    pen.oval("body", 0.47, 0.62, 0.26, 0.2 + 0.03 * p[1])
    pen.oval("body", 0.62, 0.36, 0.17, 0.16)
    pen.oval("accent", 0.4, 0.62, 0.15, 0.09 + 0.05 * p[2])
    return Anchors((0.58, 0.71, 0.33), (0.62, 0.22, 0.15), (0.55, 0.8), (0.58, 0.5, 0.16), 0.05)


def fish(pen: Pen, p: Sequence[float]) -> Anchors:
    """Seen from the side: a forked tail and two fins."""
    pen.poly("accent", (0.26, 0.55), (0.04, 0.34 - 0.06 * p[3]), (0.1, 0.55), (0.04, 0.76 + 0.06 * p[3]))
    pen.poly("accent", (0.4, 0.42), (0.52, 0.2 + 0.08 * p[2]), (0.7, 0.44))
    pen.poly("accent", (0.48, 0.7), (0.44, 0.86), (0.62, 0.72))
    pen.oval("body", 0.55, 0.55, 0.34, 0.18 + 0.07 * p[1])
    pen.poly("accent", (0.54, 0.56), (0.4, 0.5), (0.4, 0.66))
    return Anchors((0.68, 0.79, 0.49), (0.7, 0.38, 0.13), (0.5, 0.76), (0.58, 0.56, 0.1), 0.05)


def fox(pen: Pen, p: Sequence[float]) -> Anchors:
    """Large pointed ears, a pointed face, a bushy tail with a tip of its own."""
    pen.oval("body", 0.8, 0.68, 0.11, 0.2 + 0.04 * p[4])
    pen.oval("accent", 0.82, 0.52 - 0.04 * p[4], 0.08, 0.09)
    for side in (-1, 1):
        pen.poly("body", (0.5 + side * 0.27, 0.4), (0.5 + side * (0.24 + 0.05 * p[3]), 0.06), (0.5 + side * 0.04, 0.3))
    pen.oval("body", 0.5, 0.75, 0.17 + 0.05 * p[1], 0.19)
    pen.poly("body", (0.22, 0.34), (0.5, 0.24), (0.78, 0.34), (0.5, 0.62))
    pen.poly("accent", (0.24, 0.37), (0.44, 0.44), (0.5, 0.62))
    pen.poly("accent", (0.76, 0.37), (0.56, 0.44), (0.5, 0.62))
    pen.oval("accent", 0.5, 0.8, 0.09, 0.12)
    pen.oval("dark", 0.5, 0.58, 0.04, 0.035)
    return Anchors((0.41, 0.59, 0.38), (0.5, 0.26, 0.18), (0.64, 0.9), (0.5, 0.62, 0.16))


def owl(pen: Pen, p: Sequence[float]) -> Anchors:
    """A round body with tufts, wings, and rings about huge eyes."""
    for side in (-1, 1):
        pen.poly("body", (0.5 + side * 0.26, 0.36), (0.5 + side * (0.2 + 0.1 * p[3]), 0.1), (0.5 + side * 0.06, 0.24))
    pen.oval("body", 0.5, 0.56, 0.28 + 0.04 * p[1], 0.36)
    for side in (-1, 1):
        pen.oval("accent", 0.5 + side * 0.29, 0.62, 0.07 + 0.02 * p[2], 0.2)
        pen.oval("accent", 0.5 + side * 0.12, 0.4, 0.13, 0.13)
    pen.poly("dark", (0.46, 0.46), (0.54, 0.46), (0.5, 0.55))
    return Anchors((0.38, 0.62, 0.4), (0.5, 0.22, 0.19), (0.6, 0.88), (0.5, 0.6, 0.24), 0.08)


def frog(pen: Pen, p: Sequence[float]) -> Anchors:
    """Wide and low, with its eyes on top and a broad mouth."""
    for side in (-1, 1):
        pen.oval("accent", 0.5 + side * 0.34, 0.82, 0.14, 0.1)
        pen.oval("body", 0.5 + side * 0.19, 0.3, 0.11, 0.12)
    pen.oval("body", 0.5, 0.68, 0.3 + 0.06 * p[1], 0.22)
    pen.oval("body", 0.5, 0.45, 0.32 + 0.04 * p[0], 0.18)
    pen.oval("accent", 0.5, 0.74, 0.17, 0.13)
    pen.line("dark", (0.3, 0.49), (0.5, 0.545), (0.7, 0.49), width=0.03)
    return Anchors((0.31, 0.69, 0.29), (0.5, 0.3, 0.15), (0.6, 0.88), (0.5, 0.6, 0.24), 0.07)


def penguin(pen: Pen, p: Sequence[float]) -> Anchors:
    """Upright, with a large belly, flippers and a beak."""
    for side in (-1, 1):
        pen.oval("accent", 0.5 + side * 0.1, 0.94, 0.09, 0.035)
        pen.poly("body", (0.5 + side * 0.2, 0.45), (0.5 + side * (0.36 + 0.06 * p[3]), 0.72), (0.5 + side * 0.2, 0.66))
    pen.oval("body", 0.5, 0.64, 0.24 + 0.04 * p[1], 0.3)
    pen.oval("body", 0.5, 0.3, 0.18 + 0.03 * p[0], 0.18)
    pen.oval("accent", 0.5, 0.7, 0.16 + 0.03 * p[2], 0.22)
    pen.poly("accent", (0.45, 0.33), (0.55, 0.33), (0.5, 0.42))
    return Anchors((0.42, 0.58, 0.27), (0.5, 0.15, 0.16), (0.5, 0.86), (0.5, 0.47, 0.19))


def elephant(pen: Pen, p: Sequence[float]) -> Anchors:
    """Huge ears and a trunk."""
    for side in (-1, 1):
        pen.oval("accent", 0.5 + side * 0.3, 0.38, 0.15 + 0.03 * p[3], 0.2)
    _sitting(pen, p, 0.2)
    end = 0.1 + 0.12 * p[4]
    pen.line("accent", (0.5, 0.46), (0.5, 0.62), (0.5 + end, 0.7), width=0.1)
    pen.line("dark", (0.46, 0.54), (0.54, 0.54), width=0.026)
    return Anchors((0.42, 0.58, 0.36), (0.5, 0.23, 0.18), (0.66, 0.87), (0.5, 0.6, 0.18))


def pig(pen: Pen, p: Sequence[float]) -> Anchors:
    """A round snout with two nostrils, folded ears, a curly tail."""
    pen.ring("accent", 0.8, 0.74, 0.06, 0.06, 0.03)
    head = 0.23 + 0.03 * p[0]
    _sitting(pen, p, head)
    for side in (-1, 1):
        pen.poly("accent", (0.5 + side * head, 0.24), (0.5 + side * (head + 0.04), 0.42), (0.5 + side * 0.08, 0.25))
    pen.oval("accent", 0.5, 0.47, 0.11 + 0.02 * p[3], 0.085)
    for side in (-1, 1):
        pen.oval("dark", 0.5 + side * 0.045, 0.47, 0.024, 0.035)
    return _seated(head)


ANIMALS: dict[str, Body] = {f.__name__: f for f in (dog, cat, rabbit, bear, bird, fish, fox, owl, frog, penguin,
                                                   elephant, pig)}  # fmt: skip
