"""Backgrounds of the drawn pets: rooms, meadows, skies, stripes, textures, noise and shapes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from flax_attn.data.drawn.canvas import (
    INK,
    WHITE,
    Canvas,
    Colour,
    ellipse,
    mix,
    random_colour,
    rectangle,
    ribbon,
    spline,
)


def draw_background(canvas: Canvas, rng: np.random.Generator) -> None:
    """Covers the whole canvas with one of the seven kinds of background."""
    _KINDS[int(rng.integers(len(_KINDS)))](canvas, rng)


def _gradient(canvas: Canvas, top: Colour, bottom: Colour, y0: float, y1: float) -> None:
    """Draws a vertical fade between two heights of the picture."""
    low, high = round(y0 * canvas.pixels), round(y1 * canvas.pixels)
    fade = Image.linear_gradient("L").resize((canvas.pixels, max(1, high - low)))
    canvas.image.paste(top, (0, low, canvas.pixels, low + fade.height))
    canvas.image.paste(bottom, (0, low), fade)


def _room(canvas: Canvas, rng: np.random.Generator) -> None:
    wall, floor = random_colour(rng, 90, 240), random_colour(rng, 60, 200)
    horizon = rng.uniform(0.5, 0.8)
    _gradient(canvas, wall, mix(wall, INK, 0.2), 0.0, 1.0)
    if rng.random() < 0.5:
        paper, step = mix(wall, WHITE, rng.uniform(0.15, 0.4)), rng.uniform(0.06, 0.16)
        for x in np.arange(0, 1, step):
            canvas.fill(rectangle(x, 0, x + 0.4 * step, horizon), paper)
    for _ in range(int(rng.integers(1, 3))):
        _frame(canvas, rng, horizon)
    canvas.fill(rectangle(0, horizon, 1, 1), floor)
    for x in np.linspace(-1.0, 2.0, int(rng.integers(8, 18))):
        board = np.array([(0.5 + 0.5 * (x - 0.5), horizon), (x, 1.0)])
        canvas.line(board, mix(floor, INK, 0.25), 0.006)
    canvas.fill(rectangle(0, horizon - 0.03, 1, horizon), mix(wall, WHITE, 0.55))
    if rng.random() < 0.5:
        y = rng.uniform(horizon + 0.08, 0.95)
        rug, rx = random_colour(rng), rng.uniform(0.25, 0.5)
        for shrink, tone in ((1.0, rug), (0.8, mix(rug, WHITE, 0.35)), (0.6, rug)):
            canvas.fill(ellipse(0.5, y, rx * shrink, 0.1 * shrink), tone)


def _frame(canvas: Canvas, rng: np.random.Generator, horizon: float) -> None:
    """Draws a picture or window on the wall."""
    x, y, w = rng.uniform(0.0, 0.8), rng.uniform(0.03, 0.2), rng.uniform(0.14, 0.34)
    h = min(rng.uniform(0.15, 0.4), horizon - y - 0.06)
    pane = random_colour(rng, 80, 245)
    canvas.fill(rectangle(x - 0.02, y - 0.02, x + w + 0.02, y + h + 0.02), random_colour(rng))
    canvas.fill(rectangle(x, y, x + w, y + h), pane)
    canvas.fill(ellipse(x + 0.6 * w, y + 0.6 * h, 0.3 * w, 0.3 * h), random_colour(rng))
    if rng.random() < 0.5:
        canvas.line(np.array([(x + w / 2, y), (x + w / 2, y + h)]), WHITE, 0.015)
        canvas.line(np.array([(x, y + h / 2), (x + w, y + h / 2)]), WHITE, 0.015)


def _sky_colour(rng: np.random.Generator) -> Colour:
    skies = ((120, 180, 236), (170, 206, 240), (246, 186, 140), (150, 150, 190), (70, 84, 130))
    return mix(skies[int(rng.integers(len(skies)))], random_colour(rng), 0.15)


def _hills(canvas: Canvas, rng: np.random.Generator, colour: Colour, y: float) -> None:
    ridge = [(x, y + rng.uniform(-0.07, 0.07)) for x in (-0.1, 0.2, 0.5, 0.8, 1.1)]
    canvas.fill(np.concatenate([spline(ridge, closed=False), [(1.1, 1.1), (-0.1, 1.1)]]), colour)


def _meadow(canvas: Canvas, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.3, 0.6)
    sky = _sky_colour(rng)
    grass = mix((104, 164, 72), random_colour(rng, 40, 200), rng.uniform(0.1, 0.4))
    _gradient(canvas, sky, mix(sky, WHITE, 0.6), 0.0, horizon + 0.1)
    for _ in range(int(rng.integers(1, 5))):
        x, r = rng.uniform(0, 1), rng.uniform(0.07, 0.18)
        trunk = rectangle(x - 0.018, horizon - r, x + 0.018, horizon + 0.05)
        canvas.fill(trunk, (104, 76, 56))
        for dx, dy in ((0, -0.9), (-0.55, -0.4), (0.55, -0.4)):
            leaf = mix(grass, INK, rng.uniform(0.1, 0.4))
            canvas.fill(ellipse(x + dx * r, horizon - r + dy * r, r * 0.8, r * 0.75), leaf)
    _hills(canvas, rng, mix(grass, WHITE, 0.2), horizon)
    _gradient(canvas, grass, mix(grass, INK, 0.3), horizon + 0.08, 1.0)
    for x, y, lean in rng.uniform((0, horizon + 0.1, -0.02), (1, 1.05, 0.02), (90, 3)).tolist():
        tone = mix(grass, INK if lean > 0 else WHITE, 0.3)
        canvas.line(np.array([(x, y), (x + lean, y - 0.045)]), tone, 0.005)
    for x, y in rng.uniform((0, horizon + 0.12), (1, 1), (int(rng.integers(0, 14)), 2)).tolist():
        canvas.fill(ellipse(x, y, 0.012, 0.012), random_colour(rng, 150, 255))


def _sky(canvas: Canvas, rng: np.random.Generator) -> None:
    sky = _sky_colour(rng)
    _gradient(canvas, sky, mix(sky, WHITE, 0.5), 0.0, 1.0)
    canvas.fill(ellipse(rng.uniform(0, 1), rng.uniform(0, 0.4), 0.07, 0.07), (252, 230, 150))
    for _ in range(int(rng.integers(2, 7))):
        x, y, r = rng.uniform(0, 1), rng.uniform(0, 0.65), rng.uniform(0.04, 0.1)
        for dx, k in ((-1.1, 0.7), (0, 1.0), (1.1, 0.75)):
            canvas.fill(ellipse(x + dx * r, y, r * k * 1.2, r * k), mix(sky, WHITE, 0.75))
    for depth in range(int(rng.integers(1, 4))):
        _hills(canvas, rng, random_colour(rng, 60, 200), 0.65 + 0.13 * depth)


def _stripes(canvas: Canvas, rng: np.random.Generator) -> None:
    colours = [random_colour(rng) for _ in range(int(rng.integers(2, 5)))]
    canvas.image.paste(colours[0], (0, 0, canvas.pixels, canvas.pixels))
    frame = canvas.place(0.5, 0.5, 1.0, angle=float(rng.uniform(0, 180)))
    step = float(rng.uniform(0.05, 0.2))
    for i, x in enumerate(np.arange(-0.75, 0.75, step)):
        frame.fill(rectangle(x, -0.75, x + step, 0.75), colours[i % len(colours)])
    if rng.random() < 0.4:
        for y in np.arange(-0.75, 0.75, 2 * step):
            frame.veil(rectangle(-0.75, y, 0.75, y + step), colours[-1], 0.45)


def _cloudy(canvas: Canvas, rng: np.random.Generator, cells: int, contrast: float) -> None:
    """Draws smooth random colour: ``cells`` independent values a side, interpolated."""
    base = np.array(random_colour(rng, 60, 200))
    values = base + contrast * rng.normal(size=(cells, cells, 3))
    values += contrast * rng.normal(size=(cells, cells, 1))
    small = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    size = (canvas.pixels, canvas.pixels)
    canvas.image.paste(small.resize(size, Image.Resampling.BICUBIC))


def _texture(canvas: Canvas, rng: np.random.Generator) -> None:
    _cloudy(canvas, rng, int(rng.integers(4, 9)), 40.0)
    tone, bend = random_colour(rng), rng.uniform(-0.08, 0.08, 2)
    step = float(rng.uniform(0.06, 0.13))
    for y in np.arange(-0.1, 1.1, step):
        wave = [(-0.1, y), (0.25, y + bend[0]), (0.6, y + bend[1]), (1.1, y)]
        canvas.line(spline(wave, closed=False), tone, float(rng.uniform(0.004, 0.014)))


def _noise(canvas: Canvas, rng: np.random.Generator) -> None:
    _cloudy(canvas, rng, int(rng.integers(16, 56)), float(rng.uniform(15, 40)))


def _shapes(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.image.paste(random_colour(rng), (0, 0, canvas.pixels, canvas.pixels))
    for _ in range(int(rng.integers(12, 28))):
        x, y, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.04, 0.2)
        colour, turn = random_colour(rng), float(rng.uniform(0, 180))
        kind = int(rng.integers(4))
        if kind == 0:
            canvas.fill(ellipse(x, y, r, r * rng.uniform(0.4, 1.0), turn), colour)
        elif kind == 1:
            canvas.place(x, y, r, angle=turn).fill(rectangle(-1, -0.6, 1, 0.6), colour)
        elif kind == 2:
            corners = np.array([(-1.0, 0.8), (0.0, -1.0), (1.0, 0.8)])
            canvas.place(x, y, 0.8 * r, angle=turn).fill(corners, colour)
        else:
            arc = [(-1.0, 0.0), (-0.3, -0.5), (0.3, 0.5), (1.0, 0.0)]
            canvas.place(x, y, r, angle=turn).fill(ribbon(arc, 0.3, 0.2), colour)


_KINDS: tuple[Callable[[Canvas, np.random.Generator], None], ...] = (
    _room,
    _meadow,
    _sky,
    _stripes,
    _texture,
    _noise,
    _shapes,
)
