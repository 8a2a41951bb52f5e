"""Vector drawing in unit coordinates for ``drawn_pets``, with an exact map of who owns a pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = Float[np.ndarray, "n 2"]

INK: Colour = (38, 30, 34)
WHITE: Colour = (250, 248, 244)

_TURN = np.arange(36) * (2 * math.pi / 36)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_CAP = np.array([(math.cos(a), math.sin(a)) for a in np.arange(3, -4, -1) * (math.pi / 8)])
# Weights of four neighbouring corners at the eight samples of a segment.
_T = np.arange(8)[:, None] / 8
_CATMULL_ROM = (
    0.5
    * _T ** np.arange(4)
    @ np.array([(0, 2, 0, 0), (-1, 0, 1, 0), (2, -5, 4, -1), (-1, 3, -3, 1)], np.float64)
)


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    """Returns colour ``a`` moved towards ``b``: ``a + amount * (b - a)``, amount in [0, 1]."""
    return (
        round(a[0] + amount * (b[0] - a[0])),
        round(a[1] + amount * (b[1] - a[1])),
        round(a[2] + amount * (b[2] - a[2])),
    )


def luminance(colour: Colour) -> float:
    """Returns the perceived brightness in [0, 255] (Rec. 601 luma)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def random_colour(rng: np.random.Generator, low: int = 30, high: int = 235) -> Colour:
    r, g, b = rng.integers(low, high, 3).tolist()
    return (r, g, b)


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Points:
    """Returns an ellipse as a polygon; ``angle`` in degrees, clockwise on the screen."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return _CIRCLE @ np.array([(rx * c, rx * s), (-ry * s, ry * c)]) + (x, y)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Points:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def spline(points: Sequence[tuple[float, float]], *, closed: bool = True) -> Points:
    """Returns a Catmull-Rom curve through ``points``, sampled eight times a segment."""
    p = np.array(points, np.float64)
    if closed:
        padded = np.concatenate([p[-1:], p, p[:2]])
    else:
        padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    corners = np.stack([padded[:-3], padded[1:-2], padded[2:-1], padded[3:]], axis=1)
    flat = (_CATMULL_ROM @ corners).reshape(-1, 2)
    return flat if closed else np.concatenate([flat, p[-1:]])


def symmetric(half: Sequence[tuple[float, float]]) -> Points:
    """Returns the closed curve through a right half outline (top to bottom) and its mirror."""
    left = [(-x, y) for x, y in reversed(half) if abs(x) > 1e-9]
    return spline([*half, *left])


def ribbon(points: Sequence[tuple[float, float]], start: float, end: float) -> Points:
    """Returns a limb along ``points``, from width ``start`` to ``end``, where the tip is round."""
    centre = spline(points, closed=False)
    step = np.empty_like(centre)
    step[1:-1] = centre[2:] - centre[:-2]
    step[0], step[-1] = centre[1] - centre[0], centre[-1] - centre[-2]
    step /= np.sqrt((step**2).sum(axis=1, keepdims=True)) + 1e-9
    normal = step[:, ::-1] * (-1.0, 1.0)
    half = (start + (end - start) * np.arange(len(centre)) / (len(centre) - 1))[:, None] / 2
    cap = centre[-1] + end / 2 * (_CAP @ np.stack([step[-1], normal[-1]]))
    return np.concatenate([centre + half * normal, cap, (centre - half * normal)[::-1]])


@dataclass(frozen=True)
class Canvas:
    """Draws shapes given in local coordinates onto a shared picture and owner map.

    ``matrix`` and ``offset`` take local coordinates to unit picture coordinates (y downwards);
    ``pixels`` is the side of the (supersampled) picture. Every shape writes ``tag`` into
    ``owner``: 0 for scenery, ``k + 1`` for animal ``k``; without an owner map nothing is written.
    """

    image: Image.Image
    owner: Image.Image | None
    matrix: Float[np.ndarray, "2 2"]
    offset: Float[np.ndarray, "2"]
    tag: int = 0
    pens: tuple[ImageDraw.ImageDraw, ImageDraw.ImageDraw | None] = field(init=False)

    def __post_init__(self) -> None:
        # Shapes are many and small: making the pens anew for each one would cost a tenth of all.
        owner = None if self.owner is None else ImageDraw.Draw(self.owner)
        object.__setattr__(self, "pens", (ImageDraw.Draw(self.image), owner))

    @classmethod
    def blank(cls, pixels: int, colour: Colour = (0, 0, 0), *, owned: bool = True) -> Canvas:
        image = Image.new("RGB", (pixels, pixels), colour)
        owner = Image.new("L", (pixels, pixels), 0) if owned else None
        return cls(image, owner, np.eye(2), np.zeros(2))

    @property
    def pixels(self) -> int:
        return self.image.width

    def tagged(self, tag: int) -> Canvas:
        return replace(self, tag=tag)

    def place(
        self, x: float, y: float, scale: float, *, angle: float = 0.0, mirror: bool = False
    ) -> Canvas:
        """Returns the picture in a frame at (x, y), scaled, mirrored and turned by degrees."""
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        flip = -1.0 if mirror else 1.0
        local = scale * np.array([[c * flip, -s], [s * flip, c]])
        return replace(
            self,
            matrix=self.matrix @ local,
            offset=self.offset + self.matrix @ np.array([x, y]),
        )

    def texture(self, colour: Colour) -> Canvas:
        """Returns an empty picture in the same frame, to be cut out by ``cut``."""
        image = Image.new("RGB", self.image.size, colour)
        return Canvas(image, None, self.matrix, self.offset)

    def to_pixels(self, points: Points) -> Points:
        return (points @ self.matrix.T + self.offset) * self.pixels

    def width(self, local: float) -> int:
        """Returns a line width in local units as whole pixels, at least one."""
        (a, b), _ = self.matrix.tolist()
        return max(1, round(local * math.hypot(a, b) * self.pixels))

    def fill(self, points: Points, colour: Colour) -> None:
        flat = self.to_pixels(points).ravel().tolist()
        pen, owner_pen = self.pens
        pen.polygon(flat, fill=colour)
        if owner_pen is not None:
            owner_pen.polygon(flat, fill=self.tag)

    def line(self, points: Points, colour: Colour, width: float, *, closed: bool = False) -> None:
        path = np.concatenate([points, points[:2]]) if closed else points
        flat, pixels = self.to_pixels(path).ravel().tolist(), self.width(width)
        joint = "curve" if pixels > 2 else None
        pen, owner_pen = self.pens
        pen.line(flat, fill=colour, width=pixels, joint=joint)
        if owner_pen is not None:
            owner_pen.line(flat, fill=self.tag, width=pixels, joint=joint)

    def veil(self, points: Points, colour: Colour, opacity: float) -> None:
        """Blends a colour over a shape, as light does: nobody's pixels change owner."""
        box, local = self._boxed(self.to_pixels(points))
        if box is None:
            return
        mask = Image.new("L", (box[2] - box[0], box[3] - box[1]), 0)
        ImageDraw.Draw(mask).polygon(local.ravel().tolist(), fill=round(255 * opacity))
        self.image.paste(colour, box, mask)

    def cut(self, points: Points, texture: Canvas, *, edge: Colour, edge_width: float) -> None:
        """Fills a shape from ``texture``, with a crescent of shade at lower left and an outline."""
        box, local = self._boxed(self.to_pixels(points))
        if box is None:
            return
        size = (box[2] - box[0], box[3] - box[1])
        flat = local.ravel().tolist()
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).polygon(flat, fill=255)
        self.image.paste(texture.image.crop(box), box, mask)
        shade = Image.new("L", size, 0)
        draw = ImageDraw.Draw(shade)
        draw.polygon(flat, fill=70)
        extent = float(np.min(np.ptp(local, axis=0)))
        draw.polygon((local + [0.06 * extent, -0.12 * extent]).ravel().tolist(), fill=0)
        self.image.paste(mix(edge, INK, 0.5), box, shade)
        if self.owner is not None:
            self.owner.paste(self.tag, box, mask)
        self.line(points, edge, edge_width, closed=True)

    def _boxed(self, points: Points) -> tuple[tuple[int, int, int, int] | None, Points]:
        low = np.maximum(np.floor(points.min(axis=0)), 0).astype(int)
        high = np.minimum(np.ceil(points.max(axis=0)) + 1, self.pixels).astype(int)
        if np.any(high <= low):
            return None, points
        box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
        return box, points - low
