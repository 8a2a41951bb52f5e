"""Heads of the drawn pets, from the front and in profile, in a frame of radius about one.

Shape tells the species: a cat has pointed ears, almond eyes with slit pupils, a short round
muzzle, a small pink nose and long whiskers; a dog has hanging, folded or blunt ears, round eyes,
a long muzzle and a big dark nose, and may show its tongue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flax_attn.data.drawn.canvas import (
    INK,
    WHITE,
    Canvas,
    Colour,
    Points,
    ellipse,
    mix,
    ribbon,
    spline,
    symmetric,
)
from flax_attn.data.drawn.coat import Coat, head_texture

PINK: Colour = (236, 150, 152)
TONGUE: Colour = (232, 104, 122)
CAT_IRIS: tuple[Colour, ...] = ((150, 196, 84), (226, 190, 70), (214, 146, 54), (120, 184, 214))
DOG_IRIS: tuple[Colour, ...] = ((112, 70, 40), (84, 54, 38), (150, 98, 52))
EDGE = 0.055


@dataclass(frozen=True)
class _Brush:
    """What every part of one head needs: where to draw, with which fur and which outline."""

    canvas: Canvas
    fur: Canvas
    coat: Coat

    def part(self, points: Points) -> None:
        self.canvas.cut(points, self.fur, edge=self.coat.edge, edge_width=EDGE)

    def plain(self, points: Points, colour: Colour) -> None:
        flat = self.canvas.texture(colour)
        self.canvas.cut(points, flat, edge=self.coat.edge, edge_width=EDGE)

    @property
    def ear(self) -> Colour:
        return mix(self.coat.base, self.coat.mark, 0.55)


def draw_head(
    canvas: Canvas, coat: Coat, rng: np.random.Generator, *, is_dog: bool, profile: bool
) -> None:
    """Draws one head about the origin; in profile it looks towards positive x."""
    brush = _Brush(canvas, head_texture(canvas, coat, rng), coat)
    if is_dog:
        (_dog_profile if profile else _dog_front)(brush, rng)
    else:
        (_cat_profile if profile else _cat_front)(brush, rng)


def _cat_front(brush: _Brush, rng: np.random.Generator) -> None:
    height, spread = rng.uniform(0.6, 0.85), rng.uniform(-0.08, 0.12)
    cheek = rng.uniform(1.0, 1.14)
    for side in (-1.0, 1.0):
        _cat_ear(brush, [(0.98, -0.15), (0.84 + spread, -0.82 - height), (0.1, -0.8)], side)
    brush.part(
        symmetric(
            [(0, -0.84), (0.5, -0.76), (0.92, -0.3), (cheek, 0.22), (0.8, 0.64), (0.35, 0.88)]
            + [(0, 0.92)]
        )
    )
    iris = CAT_IRIS[int(rng.integers(len(CAT_IRIS)))]
    slit = rng.uniform(0.045, 0.09)
    for side in (-1.0, 1.0):
        _cat_eye(brush.canvas, 0.44 * side, -0.06, 0.27, iris, slit, side)
    for x in (-0.19, 0.19):
        brush.canvas.fill(ellipse(x, 0.47, 0.27, 0.2), brush.coat.light)
    brush.canvas.fill(ellipse(0, 0.66, 0.2, 0.14), brush.coat.light)
    _cat_nose(brush.canvas, 0.0, 0.3, 0.15)
    for side in (-1.0, 1.0):
        smile = [(0, 0.42), (0.02 * side, 0.52), (0.14 * side, 0.6), (0.28 * side, 0.53)]
        brush.canvas.line(spline(smile, closed=False), INK, 0.045)
    droop = rng.uniform(-0.1, 0.15)
    for side in (-1.0, 1.0):
        for lift in (-0.2, 0.02, 0.24):
            root, tip = (0.3 * side, 0.46 + 0.3 * lift), (1.5 * side, 0.36 + lift * 1.5 + droop)
            _whisker(brush, root, tip)


def _cat_ear(brush: _Brush, corners: list[tuple[float, float]], side: float) -> None:
    outer = np.array([(side * x, y) for x, y in corners])
    middle = outer.mean(axis=0) + [0.0, 0.06]
    brush.part(outer)
    brush.canvas.fill(middle + 0.58 * (outer - middle), mix(PINK, brush.coat.base, 0.25))


def _cat_eye(
    canvas: Canvas, x: float, y: float, width: float, iris: Colour, slit: float, side: float
) -> None:
    tilt, tall = 0.07 * side, 0.74 * width
    almond = spline(
        [(x - width, y + tilt), (x, y - tall), (x + width, y - tilt), (x + 0.05 * side, y + tall)]
    )
    canvas.fill(almond, iris)
    canvas.line(almond, INK, 0.06, closed=True)
    canvas.fill(ellipse(x, y, slit, 0.72 * tall), INK)
    canvas.fill(ellipse(x + 0.07, y - 0.07, 0.05, 0.05), WHITE)


def _cat_nose(canvas: Canvas, x: float, y: float, width: float) -> None:
    triangle = [(x - width, y - 0.04), (x, y - 0.06), (x + width, y - 0.04), (x, y + 0.13)]
    canvas.fill(spline(triangle), PINK)
    canvas.line(spline(triangle), mix(PINK, INK, 0.6), 0.025, closed=True)


def _whisker(brush: _Brush, root: tuple[float, float], tip: tuple[float, float]) -> None:
    middle = (0.5 * (root[0] + tip[0]), 0.5 * (root[1] + tip[1]) - 0.07)
    path = spline([root, middle, tip], closed=False)
    brush.canvas.line(path, mix(WHITE, INK, 0.08), 0.036)


def _dog_front(brush: _Brush, rng: np.random.Generator) -> None:
    style = _ear_style(rng)
    length = rng.uniform(0.35, 1.0)
    if style == "blunt":
        for side in (-1.0, 1.0):
            _blunt_ear(brush, side)
    brush.part(
        symmetric(
            [(0, -0.86), (0.48, -0.8), (0.82, -0.38), (0.82, 0.08), (0.64, 0.5), (0.55, 0.9)]
            + [(0.3, 1.16), (0, 1.22)]
        )
    )
    if rng.random() < 0.45:
        _tongue(brush.canvas, 0.06, 0.98, rng.uniform(0.3, 0.5), 0.3)
    brush.canvas.fill(
        symmetric([(0, -0.6), (0.11, -0.4), (0.15, 0.0), (0.46, 0.42), (0.5, 0.8), (0, 1.08)]),
        brush.coat.light,
    )
    iris = DOG_IRIS[int(rng.integers(len(DOG_IRIS)))]
    for side in (-1.0, 1.0):
        _dog_eye(brush.canvas, 0.4 * side, -0.16, iris)
        brow = [(0.24 * side, -0.44), (0.4 * side, -0.5), (0.56 * side, -0.42)]
        brush.canvas.line(spline(brow, closed=False), brush.coat.edge, 0.06)
    _dog_nose(brush.canvas, 0.0, 0.4, 0.27)
    for side in (-1.0, 1.0):
        smile = [(0, 0.56), (0.01 * side, 0.8), (0.2 * side, 0.94), (0.44 * side, 0.82)]
        brush.canvas.line(spline(smile, closed=False), INK, 0.055)
    for side in (-1.0, 1.0):
        if style == "floppy":
            _floppy_ear(brush, side, length)
        elif style == "folded":
            _folded_ear(brush, side)


def _ear_style(rng: np.random.Generator) -> str:
    return str(rng.choice(["floppy", "folded", "blunt"], p=[0.62, 0.24, 0.14]))


def _floppy_ear(brush: _Brush, side: float, length: float) -> None:
    tip = 0.25 + length
    shape = [(0.42, -0.84), (0.85, -0.78), (1.14, -0.3), (1.24, 0.5 * tip), (1.08, tip)]
    shape += [(0.84, 0.8 * tip), (0.74, 0.0), (0.6, -0.5)]
    brush.plain(spline([(side * x, y) for x, y in shape]), brush.ear)


def _folded_ear(brush: _Brush, side: float) -> None:
    back = [(0.3, -0.8), (0.68, -1.28), (1.02, -0.95), (0.86, -0.35)]
    brush.part(spline([(side * x, y) for x, y in back]))
    flap = [(0.34, -0.98), (0.66, -1.3), (1.06, -1.02), (1.24, -0.5), (1.08, -0.16), (0.8, -0.55)]
    brush.plain(spline([(side * x, y) for x, y in flap]), brush.ear)


def _blunt_ear(brush: _Brush, side: float) -> None:
    shape = [(0.2, -0.7), (0.36, -1.2), (0.62, -1.46), (0.88, -1.36), (0.98, -0.95), (0.86, -0.3)]
    brush.part(spline([(side * x, y) for x, y in shape]))
    inner = spline([(side * x, y) for x, y in shape])
    middle = inner.mean(axis=0)
    brush.canvas.fill(middle + 0.55 * (inner - middle), mix(PINK, brush.coat.edge, 0.45))


def _dog_eye(canvas: Canvas, x: float, y: float, iris: Colour) -> None:
    canvas.fill(ellipse(x, y, 0.2, 0.2), INK)
    canvas.fill(ellipse(x, y, 0.165, 0.165), WHITE)
    canvas.fill(ellipse(x, y + 0.01, 0.15, 0.15), iris)
    canvas.fill(ellipse(x, y + 0.01, 0.09, 0.09), INK)
    canvas.fill(ellipse(x + 0.05, y - 0.06, 0.05, 0.05), WHITE)


def _dog_nose(canvas: Canvas, x: float, y: float, width: float) -> None:
    shape = [(x - width, y - 0.08), (x, y - 0.17), (x + width, y - 0.08), (x, y + 0.19)]
    canvas.fill(spline(shape), INK)
    canvas.fill(ellipse(x - 0.06, y - 0.08, 0.09, 0.035), mix(INK, WHITE, 0.55))


def _tongue(canvas: Canvas, x: float, y: float, length: float, width: float) -> None:
    shape = ribbon([(x, y - 0.12), (x, y + 0.5 * length), (x + 0.03, y + length)], width, width)
    canvas.fill(shape, TONGUE)
    canvas.line(shape, mix(TONGUE, INK, 0.55), 0.035, closed=True)
    canvas.line(np.array([(x, y), (x, y + 0.8 * length)]), mix(TONGUE, INK, 0.3), 0.03)


def _cat_profile(brush: _Brush, rng: np.random.Generator) -> None:
    height = rng.uniform(0.6, 0.85)
    brush.part(np.array([(0.12, -0.7), (0.5, -0.78 - height), (0.72, -0.45)]))
    skull = [(-0.9, -0.05), (-0.62, -0.68), (0.0, -0.9), (0.55, -0.66), (0.82, -0.1)]
    skull += [(1.14, 0.14), (1.1, 0.52), (0.72, 0.74), (0.0, 0.86), (-0.66, 0.6)]
    brush.part(spline(skull))
    _cat_ear(brush, [(-0.62, -0.5), (-0.3, -0.9 - height), (0.24, -0.72)], 1.0)
    brush.canvas.fill(ellipse(0.84, 0.42, 0.28, 0.2), brush.coat.light)
    iris = CAT_IRIS[int(rng.integers(len(CAT_IRIS)))]
    _cat_eye(brush.canvas, 0.42, -0.12, 0.23, iris, rng.uniform(0.045, 0.08), 1.0)
    _cat_nose(brush.canvas, 1.06, 0.16, 0.12)
    smile = [(1.06, 0.36), (0.92, 0.5), (0.7, 0.48)]
    brush.canvas.line(spline(smile, closed=False), INK, 0.045)
    for lift in (-0.2, 0.06, 0.32):
        _whisker(brush, (0.8, 0.4 + 0.2 * lift), (1.85, 0.4 + 1.5 * lift))
        _whisker(brush, (0.74, 0.4 + 0.2 * lift), (-0.1, 0.62 + lift))


def _dog_profile(brush: _Brush, rng: np.random.Generator) -> None:
    style = _ear_style(rng)
    snout = rng.uniform(1.55, 1.95)
    if style == "blunt":
        brush.part(spline([(0.0, -0.6), (0.14, -1.3), (0.36, -1.36), (0.52, -0.5)]))
    if rng.random() < 0.45:
        _tongue(brush.canvas, 0.62 * snout, 0.62, rng.uniform(0.35, 0.55), 0.26)
    skull = [(-0.86, 0.0), (-0.6, -0.62), (0.0, -0.86), (0.5, -0.64), (0.74, -0.26)]
    skull += [(snout - 0.2, -0.1), (snout, 0.14), (snout - 0.1, 0.5), (0.9, 0.68)]
    skull += [(0.4, 0.8), (-0.2, 0.84), (-0.7, 0.56)]
    brush.part(spline(skull))
    jaw = [(0.75, 0.24), (snout - 0.3, 0.08), (snout - 0.12, 0.3), (snout - 0.22, 0.44), (0.9, 0.6)]
    brush.canvas.fill(spline(jaw), brush.coat.light)
    smile = [(snout - 0.06, 0.34), (snout - 0.4, 0.46), (0.8, 0.48), (0.62, 0.36)]
    brush.canvas.line(spline(smile, closed=False), INK, 0.055)
    brush.canvas.fill(ellipse(snout - 0.04, 0.02, 0.22, 0.18, 20), INK)
    brush.canvas.fill(ellipse(snout - 0.08, -0.06, 0.07, 0.03, 20), mix(INK, WHITE, 0.55))
    _dog_eye(brush.canvas, 0.4, -0.22, DOG_IRIS[int(rng.integers(len(DOG_IRIS)))])
    if style == "blunt":
        brush.part(
            spline([(-0.58, -0.5), (-0.5, -1.3), (-0.26, -1.44), (-0.02, -1.3), (0.08, -0.6)])
        )
        return
    drop = 0.1 if style == "folded" else rng.uniform(0.5, 1.1)
    ear = [(-0.5, -0.72), (-0.1, -0.86), (0.12, -0.4), (0.08, 0.6 * drop), (-0.16, drop)]
    ear += [(-0.48, 0.7 * drop), (-0.56, -0.2)]
    brush.plain(spline(ear), brush.ear)
