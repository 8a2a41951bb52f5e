"""Coats of the drawn pets: one distribution of colours and patterns for both species."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from flax_attn.data.drawn.canvas import (
    INK,
    WHITE,
    Canvas,
    Colour,
    ellipse,
    luminance,
    mix,
    ribbon,
    spline,
)

PATTERNS = ("plain", "stripes", "patches", "spots")

FUR: tuple[Colour, ...] = (
    (62, 58, 66),
    (112, 114, 124),
    (168, 168, 176),
    (104, 70, 50),
    (146, 98, 62),
    (214, 138, 66),
    (226, 178, 112),
    (240, 222, 188),
    (240, 236, 230),
)


# Base and marks of coats that are told apart at a glance, by their pattern: a frozen backbone sees
# a colour at every location of an animal, a pattern only where several marks are in its view.
CLEAR_COATS: dict[str, tuple[Colour, Colour]] = {
    "plain": (FUR[0], FUR[0]),
    "stripes": (FUR[5], mix(FUR[5], INK, 0.6)),
    "patches": (FUR[8], FUR[3]),
    "spots": (FUR[1], mix(FUR[1], WHITE, 0.8)),
}


@dataclass(frozen=True)
class Coat:
    """Colours of one animal; ``light`` is the muzzle and chest, ``edge`` the outline."""

    base: Colour
    mark: Colour
    light: Colour
    edge: Colour
    pattern: str
    white_paws: bool


def draw_coat(rng: np.random.Generator) -> Coat:
    """Returns a random coat; nothing here knows the species."""
    tone = FUR[int(rng.integers(len(FUR)))]
    base = _jittered(tone, rng)
    contrast = float(rng.uniform(0.3, 0.6))
    mark = mix(base, INK, contrast) if luminance(base) > 95 else mix(base, WHITE, contrast)
    if rng.random() < 0.3:
        mark = _jittered(FUR[int(rng.integers(len(FUR)))], rng)
    light = mix(base, WHITE, float(rng.uniform(0.35, 0.9)))
    edge = mix(base, INK, 0.62) if luminance(base) > 90 else mix(base, INK, 0.85)
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
    return Coat(base, mark, light, edge, pattern, bool(rng.random() < 0.4))


def draw_clear_coat(rng: np.random.Generator, pattern: str) -> Coat:
    """Returns a random coat of a pattern, in that pattern's own colours (``CLEAR_COATS``)."""
    coat = draw_coat(rng)
    base, mark = (_jittered(colour, rng) for colour in CLEAR_COATS[pattern])
    light = mix(base, WHITE, float(rng.uniform(0.35, 0.9)))
    edge = mix(base, INK, 0.62) if luminance(base) > 90 else mix(base, INK, 0.85)
    return replace(coat, base=base, mark=mark, light=light, edge=edge, pattern=pattern)


def _jittered(colour: Colour, rng: np.random.Generator) -> Colour:
    r, g, b = np.clip(np.array(colour) + rng.integers(-14, 15, 3), 0, 255).tolist()
    return (r, g, b)


def body_texture(canvas: Canvas, coat: Coat, rng: np.random.Generator) -> Canvas:
    """Returns the fur of trunk, legs and tail, in the frame of the body.

    The ground is at y = 0 and the height about 1.
    """
    texture = canvas.texture(coat.base)
    if coat.pattern == "stripes":
        for x in np.arange(-0.9, 0.9, rng.uniform(0.08, 0.12)):
            lean, width = rng.uniform(-0.05, 0.05), rng.uniform(0.02, 0.04)
            path = [(x, -1.2), (x + lean, -0.75), (x - lean, -0.4), (x + lean, 0.1)]
            texture.fill(ribbon(path, width, width * 0.6), coat.mark)
    elif coat.pattern == "patches":
        for _ in range(5):
            texture.fill(_blob(rng, (-0.6, 0.6), (-0.7, 0.0), (0.09, 0.2)), coat.mark)
    elif coat.pattern == "spots":
        for _ in range(34):
            texture.fill(_blob(rng, (-0.7, 0.7), (-0.9, 0.0), (0.016, 0.04)), coat.mark)
    _tufts(texture, coat, rng, (-0.7, 0.7), (-0.9, 0.0), 0.05, 0.012)
    return texture


def head_texture(canvas: Canvas, coat: Coat, rng: np.random.Generator) -> Canvas:
    """Returns the fur of the head, in the frame of the head (centre at 0, radius about 1)."""
    texture = canvas.texture(coat.base)
    if coat.pattern == "stripes":
        for x in (-0.34, 0.0, 0.34):
            path = [(1.2 * x, -1.0), (x, -0.7), (0.7 * x, -0.42)]
            texture.fill(ribbon(path, 0.14, 0.05), coat.mark)
        for side in (-1.0, 1.0):
            for y in (0.05, 0.32):
                path = [(side * 1.2, y - 0.05), (side * 0.95, y + 0.04), (side * 0.7, y + 0.03)]
                texture.fill(ribbon(path, 0.12, 0.03), coat.mark)
    elif coat.pattern == "patches":
        side = 1.0 if rng.random() < 0.5 else -1.0
        texture.fill(ellipse(side * 0.55, -0.4, 0.5, 0.6, 20 * side), coat.mark)
    elif coat.pattern == "spots":
        for _ in range(9):
            texture.fill(_blob(rng, (-0.9, 0.9), (-1.0, 0.1), (0.05, 0.11)), coat.mark)
    _tufts(texture, coat, rng, (-1.0, 1.0), (-1.0, 1.0), 0.16, 0.035)
    return texture


def _blob(
    rng: np.random.Generator,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    radius: tuple[float, float],
) -> np.ndarray:
    x, y, r = rng.uniform(*x_range), rng.uniform(*y_range), rng.uniform(*radius)
    turn = np.arange(7) * (2 * np.pi / 7)
    reach = r * rng.uniform(0.75, 1.25, 7)
    return spline(list(zip(x + reach * np.cos(turn), y + reach * np.sin(turn), strict=True)))


def _tufts(
    texture: Canvas,
    coat: Coat,
    rng: np.random.Generator,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    length: float,
    width: float,
) -> None:
    """Draws short strokes a little lighter or darker than the fur, which looks flat without."""
    tones = (mix(coat.base, WHITE, 0.14), mix(coat.base, INK, 0.12))
    starts = np.stack([rng.uniform(*x_range, 26), rng.uniform(*y_range, 26)], axis=1)
    slants = rng.uniform(-0.5, 0.5, 26) * length
    for i, (start, slant) in enumerate(zip(starts, slants, strict=True)):
        texture.line(np.array([start, start + [slant, length]]), tones[i % 2], width)
