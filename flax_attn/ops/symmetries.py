"""The symmetries of a square: flips and quarter turns of images, and back again of maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Shaped


class Symmetry(NamedTuple):
    """A horizontal flip, or none, followed by quarter turns against the clock."""

    flipped: bool
    turns: int


ITSELF = Symmetry(False, 0)


def symmetries(*, flips: bool, turns: bool) -> tuple[Symmetry, ...]:
    """Returns the identity and the horizontal flip, the quarter turns, or all eight symmetries."""
    return tuple(
        Symmetry(flipped, turned)
        for flipped in ((False, True) if flips else (False,))
        for turned in (range(4) if turns else (0,))
    )


def move(image: Shaped[Array, "*b s s c"], symmetry: Symmetry) -> Shaped[Array, "*b s s c"]:
    """Returns images, with channels last, under a symmetry."""
    flipped = jnp.flip(image, axis=-2) if symmetry.flipped else image
    return jnp.rot90(flipped, symmetry.turns, axes=(-3, -2))


def move_back(maps: Shaped[Array, "*b h h"], symmetry: Symmetry) -> Shaped[Array, "*b h h"]:
    """Returns maps of images under a symmetry as they lie on the images themselves."""
    turned = jnp.rot90(maps, -symmetry.turns, axes=(-2, -1))
    return jnp.flip(turned, axis=-1) if symmetry.flipped else turned


def all_moved(
    image: Shaped[Array, "*b s s c"], under: Sequence[Symmetry]
) -> Shaped[Array, "v *b s s c"]:
    """Returns images under several symmetries, one after the other."""
    return jnp.stack([move(jnp.asarray(image), symmetry) for symmetry in under])
