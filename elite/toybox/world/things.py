"""The classes that are not alive (and have eyes all the same): one function each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .animals import Body
from .pen import Anchors, Pen


def mug(pen: Pen, p: Sequence[float]) -> Anchors:
    """A cylinder with a handle and a rim."""
    pen.ring("accent", 0.7, 0.6, 0.15 + 0.05 * p[0], 0.17, 0.065)
    pen.box("body", 0.2, 0.3 - 0.05 * p[1], 0.68, 0.92)
    pen.box("accent", 0.2, 0.28 - 0.05 * p[1], 0.68, 0.38 + 0.04 * p[2], 0.02)
    return Anchors((0.35, 0.53, 0.53), (0.44, 0.28, 0.2), (0.64, 0.9), (0.44, 0.64, 0.23))


def teapot(pen: Pen, p: Sequence[float]) -> Anchors:
    """A round belly with spout, handle and lid."""
    pen.poly("accent", (0.68, 0.74), (0.97, 0.4 - 0.05 * p[0]), (0.88, 0.36), (0.64, 0.54))
    pen.ring("accent", 0.2, 0.6, 0.15, 0.17, 0.06)
    pen.oval("body", 0.48, 0.64, 0.28, 0.24 + 0.04 * p[1])
    pen.oval("accent", 0.48, 0.42, 0.17 + 0.03 * p[2], 0.06)
    pen.oval("accent", 0.48, 0.33, 0.05, 0.05)
    return Anchors((0.39, 0.57, 0.58), (0.48, 0.38, 0.17), (0.68, 0.86), (0.48, 0.7, 0.25))


def vase(pen: Pen, p: Sequence[float]) -> Anchors:
    """A narrow neck on a round belly, with a lip and a band."""
    pen.box("body", 0.41 - 0.03 * p[1], 0.22, 0.59 + 0.03 * p[1], 0.6, 0.01)
    pen.oval("body", 0.5, 0.7, 0.23 + 0.06 * p[0], 0.23)
    pen.box("accent", 0.33 - 0.03 * p[2], 0.15, 0.67 + 0.03 * p[2], 0.24, 0.03)
    pen.box("accent", 0.29, 0.76, 0.71, 0.83, 0.02)
    return Anchors((0.41, 0.59, 0.62), (0.5, 0.16, 0.17), (0.7, 0.92), (0.5, 0.46, 0.12))


def car(pen: Pen, p: Sequence[float]) -> Anchors:
    """Two wheels, a cabin with windows, eyes for lamps."""
    roof = 0.26 + 0.1 * p[0]
    pen.poly("body", (0.2, 0.56), (0.32, roof), (0.68, roof), (0.84, 0.56))
    pen.box("body", 0.06, 0.5, 0.94, 0.78, 0.08)
    pen.poly("accent", (0.28, 0.53), (0.36, roof + 0.06), (0.48, roof + 0.06), (0.48, 0.53))
    pen.poly("accent", (0.53, 0.53), (0.53, roof + 0.06), (0.65, roof + 0.06), (0.74, 0.53))
    for x in (0.27, 0.73):
        pen.oval("dark", x, 0.79, 0.12, 0.12)
    for x in (0.27, 0.73):
        pen.oval("accent", x, 0.79, 0.05 + 0.02 * p[1], 0.05 + 0.02 * p[1])
    return Anchors((0.43, 0.57, 0.62), (0.5, roof, 0.17), (0.66, 0.78), (0.5, 0.7, 0.2))


def boot(pen: Pen, p: Sequence[float]) -> Anchors:
    """A tall shaft, a toe, a sole and a cuff."""
    top = 0.12 + 0.12 * p[0]
    pen.box("body", 0.27, top, 0.58, 0.88, 0.03)
    pen.oval("body", 0.66, 0.75, 0.23 + 0.04 * p[1], 0.15)
    pen.box("accent", 0.24, 0.84, 0.92, 0.93, 0.03)
    pen.box("accent", 0.24, top - 0.02, 0.61, top + 0.1 + 0.04 * p[2], 0.03)
    return Anchors((0.36, 0.51, 0.42), (0.43, top, 0.19), (0.5, 0.72), (0.43, 0.56, 0.17))


def robot(pen: Pen, p: Sequence[float]) -> Anchors:
    """A box on a box, with arms, legs and an aerial."""
    pen.line("accent", (0.5, 0.2), (0.5, 0.08), width=0.035)
    pen.oval("accent", 0.5, 0.07, 0.045, 0.045)
    wide = 0.02 * p[0]
    for side in (-1, 1):
        pen.box("accent", 0.5 + side * 0.35 - 0.06, 0.54, 0.5 + side * 0.35 + 0.06, 0.8, 0.03)
        pen.box("accent", 0.5 + side * 0.13 - 0.06, 0.84, 0.5 + side * 0.13 + 0.06, 0.96, 0.02)
    pen.box("body", 0.27 - wide, 0.18, 0.73 + wide, 0.5, 0.06)
    pen.box("body", 0.24, 0.52, 0.76, 0.87, 0.04)
    pen.box("accent", 0.36 - 0.04 * p[1], 0.61, 0.64 + 0.04 * p[1], 0.78, 0.03)
    pen.line("dark", (0.41, 0.43), (0.59, 0.43), width=0.03)
    return Anchors((0.4, 0.6, 0.32), (0.5, 0.2, 0.19), (0.53, 0.86), (0.5, 0.52, 0.2))


def lamp(pen: Pen, p: Sequence[float]) -> Anchors:
    """A wide shade on a thin stand."""
    pen.line("accent", (0.5, 0.5), (0.5, 0.88), width=0.055)
    pen.oval("accent", 0.5, 0.9, 0.18 + 0.05 * p[0], 0.055)
    edge = 0.06 * p[1]
    pen.poly("body", (0.36 - edge, 0.12), (0.64 + edge, 0.12), (0.84, 0.56), (0.16, 0.56))
    pen.box("accent", 0.15, 0.52, 0.85, 0.6, 0.03)
    return Anchors((0.41, 0.59, 0.37), (0.5, 0.13, 0.18), (0.42, 0.56), (0.5, 0.66, 0.1))


def backpack(pen: Pen, p: Sequence[float]) -> Anchors:
    """A rounded bag with a pocket, a flap and a loop."""
    pen.ring("accent", 0.5, 0.18, 0.1, 0.1, 0.045)
    for side in (-1, 1):
        pen.oval("accent", 0.5 + side * 0.3, 0.66, 0.08 + 0.02 * p[3], 0.18)
    pen.box("body", 0.23, 0.18, 0.77, 0.92, 0.2)
    pen.box("accent", 0.3, 0.62 - 0.03 * p[0], 0.7, 0.86, 0.06)
    pen.line("dark", (0.36, 0.67), (0.64, 0.67), width=0.028)
    return Anchors((0.41, 0.59, 0.42), (0.5, 0.2, 0.19), (0.54, 0.9), (0.5, 0.56, 0.24))


def clock(pen: Pen, p: Sequence[float]) -> Anchors:
    """A round face with two hands, bells and feet."""
    for side in (-1, 1):
        pen.oval("accent", 0.5 + side * 0.22, 0.17, 0.12, 0.1)
        pen.line("accent", (0.5 + side * 0.2, 0.82), (0.5 + side * 0.28, 0.94), width=0.06)
    pen.oval("body", 0.5, 0.54, 0.36, 0.36)
    pen.ring("accent", 0.5, 0.54, 0.36, 0.36, 0.05 + 0.03 * p[0])
    for turn, length in ((p[1], 0.15), (p[2], 0.22)):
        angle = math.pi * (0.15 + 0.7 * turn)
        pen.line(
            "dark", (0.5, 0.62), (0.5 + length * math.cos(angle), 0.62 + length * math.sin(angle) * 0.8), width=0.03
        )
    return Anchors((0.4, 0.6, 0.45), (0.5, 0.19, 0.19), (0.66, 0.88), (0.5, 0.72, 0.25))


def guitar(pen: Pen, p: Sequence[float]) -> Anchors:
    """Two bouts, a sound hole, a neck."""
    pen.box("accent", 0.46, 0.06, 0.54, 0.56, 0.01)
    pen.box("accent", 0.41, 0.03, 0.59, 0.14, 0.03)
    pen.oval("body", 0.5, 0.5, 0.18 + 0.03 * p[0], 0.15)
    pen.oval("body", 0.5, 0.74, 0.27 + 0.04 * p[1], 0.2)
    pen.oval("dark", 0.5, 0.64, 0.065, 0.055)
    pen.box("accent", 0.38, 0.82, 0.62, 0.87, 0.01)
    return Anchors((0.39, 0.61, 0.5), (0.5, 0.1, 0.15), (0.66, 0.94), (0.5, 0.6, 0.18))


def house(pen: Pen, p: Sequence[float]) -> Anchors:
    """A wall, a pointed roof, a door, a chimney."""
    pen.box("accent", 0.66, 0.14, 0.76, 0.4, 0.01)
    pen.box("body", 0.2, 0.44, 0.8, 0.92, 0.01)
    pen.poly("accent", (0.12, 0.48), (0.5, 0.12 + 0.08 * p[0]), (0.88, 0.48))
    pen.box("dark", 0.44 - 0.02 * p[1], 0.7, 0.56 + 0.02 * p[1], 0.92, 0.03)
    return Anchors((0.36, 0.64, 0.58), (0.5, 0.2, 0.18), (0.64, 0.92), (0.5, 0.66, 0.26))


def candle(pen: Pen, p: Sequence[float]) -> Anchors:
    """A column with a flame on a dish."""
    pen.oval("accent", 0.5, 0.9, 0.3 + 0.04 * p[0], 0.07)
    pen.line("dark", (0.5, 0.34), (0.5, 0.26), width=0.028)
    pen.oval("accent", 0.5, 0.2, 0.07, 0.09)
    pen.poly("accent", (0.44, 0.17), (0.5, 0.03), (0.56, 0.17))
    pen.box("body", 0.36 - 0.04 * p[1], 0.34, 0.64 + 0.04 * p[1], 0.88, 0.04)
    pen.oval("accent", 0.42, 0.37, 0.05, 0.08 + 0.05 * p[2])
    return Anchors((0.43, 0.57, 0.56), (0.5, 0.34, 0.17), (0.64, 0.88), (0.5, 0.66, 0.16))


THINGS: dict[str, Body] = {f.__name__: f for f in (mug, teapot, vase, car, boot, robot, lamp, backpack, clock, guitar,
                                                  house, candle)}  # fmt: skip
