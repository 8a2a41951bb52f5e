"""Bodies of the drawn pets in four poses, in a frame with the ground at y = 0 and height near one.

A cat is slim, with thin legs and a long thin curving tail; a dog is sturdier, with thick legs and
a shorter, thicker tail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from flax_attn.data.drawn.canvas import Canvas, Points, ellipse, ribbon, spline, symmetric
from flax_attn.data.drawn.coat import Coat, body_texture
from flax_attn.data.drawn.heads import draw_head

EDGE = 0.014


@dataclass(frozen=True)
class Pose:
    """How far a pose reaches (the same for both species) and whether it lets the head turn.

    ``head`` and ``head_radius`` bound the face, which occluders keep clear of; ``left``, ``right``
    and ``top`` bound the whole animal, the ground being at 0.
    """

    head: tuple[float, float]
    head_radius: float
    left: float
    right: float
    top: float
    head_turns: bool


POSES: Mapping[str, Pose] = {
    "sitting": Pose((0.0, -0.8), 0.25, -0.42, 0.42, -1.15, False),
    "standing": Pose((0.5, -0.82), 0.2, -0.72, 0.9, -1.12, True),
    "lying": Pose((0.42, -0.5), 0.22, -0.72, 0.82, -0.85, True),
    "portrait": Pose((0.0, -0.55), 0.42, -0.56, 0.62, -1.2, True),
}


@dataclass(frozen=True)
class _Body:
    """What every part of one body needs, and the proportions that tell the species."""

    canvas: Canvas
    fur: Canvas
    coat: Coat
    rng: np.random.Generator
    is_dog: bool
    profile: bool

    def part(self, points: Points) -> None:
        self.canvas.cut(points, self.fur, edge=self.coat.edge, edge_width=EDGE)

    def choose(self, cat: float, dog: float, spread: float = 0.08) -> float:
        """Returns a proportion: the species' own value, give or take ``spread`` of it."""
        return (dog if self.is_dog else cat) * float(self.rng.uniform(1 - spread, 1 + spread))

    def paw(self, x: float, y: float, radius: float) -> None:
        shape = ellipse(x, y - 0.6 * radius, 1.15 * radius, 0.65 * radius)
        if self.coat.white_paws:
            light = self.canvas.texture(self.coat.light)
            self.canvas.cut(shape, light, edge=self.coat.edge, edge_width=EDGE)
        else:
            self.part(shape)
        for toe in (-0.35, 0.35):
            line = np.array([(x + toe * radius, y - 0.5 * radius), (x + toe * radius, y)])
            self.canvas.line(line, self.coat.edge, 0.009)

    def leg(self, points: list[tuple[float, float]], width: float) -> None:
        self.part(ribbon(points, 1.5 * width, width))
        self.paw(points[-1][0] + 0.2 * width, points[-1][1] + 0.5 * width, 0.7 * width)

    def tail(self, cat: list[tuple[float, float]], dog: list[tuple[float, float]]) -> None:
        if self.is_dog:
            self.part(ribbon(dog, 0.11, 0.05))
        else:
            self.part(ribbon(cat, 0.065, 0.05))

    def head(self, x: float, y: float, radius: float, tilt: float = 10.0) -> None:
        frame = self.canvas.place(x, y, radius, angle=float(self.rng.uniform(-tilt, tilt)))
        draw_head(frame, self.coat, self.rng, is_dog=self.is_dog, profile=self.profile)


def draw_pet(
    canvas: Canvas,
    coat: Coat,
    rng: np.random.Generator,
    *,
    is_dog: bool,
    pose: str,
    profile: bool,
) -> None:
    """Draws one animal standing on the origin of ``canvas``, looking towards positive x."""
    fur = body_texture(canvas, coat, rng)
    _DRAW[pose](_Body(canvas, fur, coat, rng, is_dog, profile))


def _sitting(body: _Body) -> None:
    hip, chest = body.choose(0.25, 0.29), body.choose(0.135, 0.185)
    leg = body.choose(0.075, 0.105)
    curl = float(body.rng.uniform(-0.05, 0.08))
    body.tail(
        cat=[(0.15, -0.08), (0.36, -0.08), (0.46, -0.26 + curl), (0.36, -0.44), (0.44, -0.62)],
        dog=[(0.18, -0.1), (0.34, -0.16), (0.42, -0.3 + curl)],
    )
    body.part(
        symmetric(
            [(0, -0.72), (chest, -0.62), (1.1 * chest, -0.45), (hip, -0.2), (0.95 * hip, -0.03)]
            + [(0, 0.0)]
        )
    )
    for side in (-1.0, 1.0):
        body.part(ellipse(side * 0.8 * hip, -0.13, 0.42 * hip, 0.14, 18 * side))
        body.paw(side * 0.85 * hip, 0.015, 0.75 * leg)
    body.canvas.fill(symmetric([(0, -0.64), (0.62 * chest, -0.52), (0, -0.3)]), body.coat.light)
    for side in (-1.0, 1.0):
        x = side * 0.62 * chest
        body.leg([(x, -0.4), (x, -0.2), (x * 0.95, -0.05)], leg)
    body.head(0.0, -0.8, 0.24)


def _standing(body: _Body) -> None:
    length, depth = 0.82, body.choose(0.24, 0.32)
    leg, stretch = body.choose(0.06, 0.09), body.choose(0.34, 0.33, 0.16)
    top, low = -stretch - depth, -stretch
    swing = body.rng.uniform(-0.06, 0.06, 4)
    back, front = -0.5 * length, 0.5 * length
    body.tail(
        cat=[(back + 0.04, top + 0.08), (back - 0.16, top + 0.04), (back - 0.24, top - 0.16)]
        + [(back - 0.12, top - 0.32), (back - 0.2, top - 0.46)],
        dog=[(back + 0.04, top + 0.09), (back - 0.1, top - 0.02), (back - 0.17, top - 0.17)],
    )
    for x, step in ((back + 0.2, swing[0]), (front - 0.2, swing[1])):
        body.leg([(x, low - 0.06), (x + step, 0.5 * low), (x + step, -0.06)], leg)
    head = (front + 0.1, top - body.choose(0.14, 0.17))
    neck = [(front - 0.14, top + 0.5 * depth), (front, top), head]
    body.part(ribbon(neck, body.choose(0.22, 0.29), body.choose(0.17, 0.21)))
    tuck = body.choose(0.0, 0.05)
    body.part(
        spline(
            [(back, top + 0.4 * depth), (0.7 * back, top + 0.02), (0.0, top + 0.03)]
            + [(0.75 * front, top), (front + 0.03, top + 0.4 * depth), (0.8 * front, low)]
            + [(0.1, low - 0.3 * tuck), (0.4 * back, low - tuck), (0.9 * back, low - 0.03)]
        )
    )
    for x, step in ((back + 0.09, swing[2]), (front - 0.09, swing[3])):
        body.leg([(x, low - 0.08), (x + 0.5 * step, 0.5 * low), (x + step, -0.05)], leg)
    body.canvas.fill(ellipse(front - 0.04, top + 0.55 * depth, 0.06, 0.1), body.coat.light)
    body.head(*head, 0.2)


def _lying(body: _Body) -> None:
    height, leg = body.choose(0.33, 0.39), body.choose(0.075, 0.105)
    curl = float(body.rng.uniform(-0.04, 0.06))
    body.tail(
        cat=[(-0.48, -0.08), (-0.66, -0.06), (-0.72, -0.22 + curl), (-0.6, -0.36), (-0.68, -0.5)],
        dog=[(-0.46, -0.1), (-0.6, -0.1), (-0.68, -0.2 + curl)],
    )
    body.part(ribbon([(0.2, -0.06), (0.45, -0.055), (0.6, -0.05)], leg, leg))
    body.paw(0.63, -0.01, 0.65 * leg)
    body.part(
        spline(
            [(-0.54, -0.12), (-0.44, -0.9 * height), (-0.15, -height), (0.2, -height - 0.03)]
            + [(0.4, -height), (0.46, -0.14), (0.3, -0.01), (-0.4, 0.0)]
        )
    )
    body.part(ellipse(-0.34, -0.15, 0.2, 0.16, -12))
    body.part(ribbon([(-0.36, -0.04), (-0.24, -0.035), (-0.12, -0.035)], leg, leg))
    body.paw(-0.1, 0.005, 0.65 * leg)
    body.part(ribbon([(0.16, -0.12), (0.36, -0.04), (0.52, -0.03)], 1.3 * leg, leg))
    body.paw(0.55, 0.01, 0.7 * leg)
    body.canvas.fill(ellipse(0.38, -0.2, 0.07, 0.1), body.coat.light)
    body.head(0.4, -height - 0.14, 0.22)


def _portrait(body: _Body) -> None:
    neck, shoulder = body.choose(0.2, 0.27), body.choose(0.4, 0.5)
    body.part(
        symmetric([(0, -0.6), (neck, -0.5), (1.1 * neck, -0.3), (shoulder, 0.0), (shoulder, 0.5)])
    )
    body.canvas.fill(symmetric([(0, -0.3), (0.6 * neck, -0.1), (0, 0.2)]), body.coat.light)
    body.head(-0.12 if body.profile else 0.0, -0.55, 0.4, tilt=14.0)


_DRAW: Mapping[str, Callable[[_Body], None]] = {
    "sitting": _sitting,
    "standing": _standing,
    "lying": _lying,
    "portrait": _portrait,
}
