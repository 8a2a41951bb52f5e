"""Things around the drawn pets: distractors behind or beside them, occluders in front."""

from __future__ import annotations

import numpy as np

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
    symmetric,
)


def draw_distractors(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draws up to four balls, bowls, boxes, cushions and potted plants, low in the picture."""
    things = (_ball, _bowl, _box, _cushion, _plant)
    for _ in range(int(rng.integers(0, 5))):
        x, y = float(rng.uniform(0.02, 0.98)), float(rng.uniform(0.5, 1.0))
        size = float(rng.uniform(0.05, 0.12))
        frame = canvas.place(x, y, size, angle=float(rng.uniform(-12, 12)))
        things[int(rng.integers(len(things)))](frame, rng)


def _outlined(canvas: Canvas, points: np.ndarray, colour: Colour) -> None:
    canvas.fill(points, colour)
    canvas.line(points, mix(colour, INK, 0.6), 0.08, closed=True)


def _ball(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = random_colour(rng, 60, 250)
    _outlined(canvas, ellipse(0, -0.8, 0.8, 0.8), colour)
    band = ribbon([(-0.72, -0.7), (0.0, -0.35), (0.72, -0.7)], 0.28, 0.28)
    canvas.fill(band, random_colour(rng, 60, 250))
    canvas.fill(ellipse(-0.25, -1.2, 0.18, 0.12), mix(colour, WHITE, 0.7))


def _bowl(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = random_colour(rng)
    _outlined(canvas, np.array([(-1.1, -0.8), (1.1, -0.8), (0.8, 0.0), (-0.8, 0.0)]), colour)
    _outlined(canvas, ellipse(0, -0.8, 1.1, 0.28), mix(colour, INK, 0.35))
    canvas.fill(ellipse(0, -0.78, 0.8, 0.17), random_colour(rng, 80, 220))


def _box(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = mix((196, 154, 104), random_colour(rng), 0.4)
    h = float(rng.uniform(0.9, 1.8))
    _outlined(canvas, rectangle(-1, -h, 1, 0), colour)
    lid = np.array([(-1, -h), (-0.6, -h - 0.45), (1.35, -h - 0.45), (1, -h)])
    _outlined(canvas, lid, mix(colour, WHITE, 0.25))
    side = np.array([(1, -h), (1.35, -h - 0.45), (1.35, -0.4), (1, 0)])
    _outlined(canvas, side, mix(colour, INK, 0.25))


def _cushion(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = random_colour(rng, 60, 240)
    half = [(0, -1.0), (0.9, -1.2), (1.1, -1.1), (1.0, -0.5), (1.1, 0.1), (0.9, 0.15), (0, 0.0)]
    _outlined(canvas, symmetric(half), colour)
    canvas.fill(ellipse(0, -0.5, 0.35, 0.25), mix(colour, WHITE, 0.4))


def _plant(canvas: Canvas, rng: np.random.Generator) -> None:
    _leaves(canvas, rng, 0.0, -0.7, 1.8, 7)
    pot = np.array([(-0.6, -0.8), (0.6, -0.8), (0.42, 0.1), (-0.42, 0.1)])
    _outlined(canvas, pot, mix((190, 100, 70), random_colour(rng), 0.4))


def _leaves(
    canvas: Canvas, rng: np.random.Generator, x: float, y: float, reach: float, count: int
) -> None:
    green = mix((74, 140, 70), random_colour(rng, 30, 180), float(rng.uniform(0.0, 0.5)))
    for turn in np.linspace(-65, 65, count) + rng.uniform(-8, 8, count):
        frame = canvas.place(x, y, reach * float(rng.uniform(0.7, 1.0)), angle=float(turn))
        leaf = spline([(0.0, 0.0), (0.13, -0.5), (0.0, -1.0), (-0.13, -0.5)])
        tone = mix(green, WHITE if turn > 0 else INK, float(rng.uniform(0.0, 0.25)))
        frame.fill(leaf, tone)
        frame.line(np.array([(0.0, 0.0), (0.0, -0.9)]), mix(tone, INK, 0.3), 0.02)


def draw_occluder(
    canvas: Canvas,
    rng: np.random.Generator,
    *,
    left: float,
    right: float,
    face_low: float,
    ground: float,
) -> None:
    """Draws one thing before an animal: plant, fence, furniture, box, cushion or tall grass.

    ``left``, ``right`` and ``ground`` bound the animal and ``face_low`` its chin, in unit picture
    coordinates; the thing rises at most half-way from the ground to the chin, leaves excepted.
    """
    things = (_front_plant, _fence, _furniture, _front_box, _grass)
    top = ground - float(rng.uniform(0.15, 0.5)) * max(ground - face_low, 0.1)
    x = float(rng.uniform(left, right))
    things[int(rng.integers(len(things)))](canvas, rng, x, top)


def _front_plant(canvas: Canvas, rng: np.random.Generator, x: float, top: float) -> None:
    _leaves(canvas, rng, x, 1.05, min(1.05 - top, 0.4), int(rng.integers(5, 10)))


def _fence(canvas: Canvas, rng: np.random.Generator, x: float, top: float) -> None:
    wood = mix((206, 186, 156), random_colour(rng), 0.4)
    step, width = float(rng.uniform(0.1, 0.16)), float(rng.uniform(0.03, 0.05))
    edge = mix(wood, INK, 0.55)
    rail = rectangle(0, top + 0.05, 1, top + 0.08)
    canvas.fill(rail, mix(wood, INK, 0.2))
    for p in np.arange(x % step - step, 1.1, step):
        picket = np.array(
            [(p - width, 1.1), (p - width, top), (p, top - 0.035), (p + width, top)]
            + [(p + width, 1.1)]
        )
        canvas.fill(picket, wood)
        canvas.line(picket, edge, 0.006)


def _furniture(canvas: Canvas, rng: np.random.Generator, x: float, top: float) -> None:
    """Draws a table top across one side of the picture, with a leg and an apron."""
    wood = mix((150, 106, 70), random_colour(rng), 0.5)
    end = 0.0 if x < 0.5 else 1.0
    inner = x + 0.1 if end == 0.0 else x - 0.1
    x0, x1 = sorted((end, inner))
    canvas.fill(rectangle(x0, top + 0.03, x1, 1.1), mix(wood, INK, 0.25))
    canvas.fill(rectangle(x0 - 0.03, top, x1 + 0.03, top + 0.045), wood)
    middle = 0.5 * (x0 + x1)
    drawer = rectangle(x0 + 0.03, top + 0.08, x1 - 0.03, 1.2)
    canvas.line(drawer, mix(wood, INK, 0.6), 0.008, closed=True)
    canvas.fill(ellipse(middle, top + 0.13, 0.014, 0.014), (226, 200, 120))


def _front_box(canvas: Canvas, rng: np.random.Generator, x: float, top: float) -> None:
    size = max(0.06, 0.5 * (1.02 - top))
    thing = _cushion if rng.random() < 0.5 else _box
    thing(canvas.place(x, 1.04, size), rng)


def _grass(canvas: Canvas, rng: np.random.Generator, x: float, top: float) -> None:
    green = mix((96, 156, 66), random_colour(rng, 30, 180), float(rng.uniform(0.0, 0.4)))
    roots = np.linspace(-0.05, 1.05, 44) + rng.uniform(-0.02, 0.02, 44)
    for i, root in enumerate(roots.tolist()):
        tip = (root + float(rng.uniform(-0.06, 0.06)), top + float(rng.uniform(-0.03, 0.12)))
        blade = np.array([(root - 0.014, 1.05), tip, (root + 0.014, 1.05)])
        canvas.fill(blade, mix(green, INK if i % 2 else WHITE, 0.18))
