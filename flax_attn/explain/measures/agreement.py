"""Do two maps agree, and does a map depend on what the network has learned?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.models.functional import Arrays


class Randomized(NamedTuple):
    """A network's arrays with those of ``level``, and of the levels above it, drawn anew."""

    level: str
    params: Arrays
    stats: Arrays


@jax.jit
def spearman(first: Float[Array, "b h w"], second: Float[Array, "b h w"]) -> Float[Array, "b"]:
    """Returns Spearman's rank correlation of each pair of maps; ties share their mean rank.

    In [-1, 1], NaN where a map is constant.

    Raises:
      ValueError: the maps differ in resolution.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"maps must have one shape to be ranked cell by cell, got {first.shape} and "
            f"{second.shape}: resample one of them"
        )
    ranks = [_centred_ranks(maps.reshape(maps.shape[0], -1)) for maps in (first, second)]
    a, b = ranks
    spread = jnp.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return jnp.clip((a * b).sum(-1) / spread, -1, 1)


def randomize(
    params: Arrays, stats: Arrays, fresh_params: Arrays, fresh_stats: Arrays
) -> Iterator[Randomized]:
    """Yields the network's arrays, randomised level after level from the classifier to the image.

    A level is a dense layer, a top-level part such as ``gates``, a convolution with its
    normalisation, or a block of them; running statistics go with it. ``fresh`` arrays come from
    the same network built with another seed. Maps that survive do not show what was learned;
    attention cannot change with the classifier, which only sees what it has pooled.

    Source: Adebayo et al. (2018), Sanity checks for saliency maps, section 3.

    Raises:
      ValueError: the arrays' names differ.
    """
    for trained, fresh in ((params, fresh_params), (stats, fresh_stats)):
        if trained.keys() != fresh.keys():
            odd = sorted(trained.keys() ^ fresh.keys())
            raise ValueError(
                f"{len(odd)} arrays are in one network only, {odd[0]} say: "
                f"build the fresh one from the same configuration"
            )
    replaced: set[str] = set()
    for level in levels(params):
        replaced.add(level)
        yield Randomized(
            level,
            *(
                {name: (fresh if _level(name) in replaced else trained)[name] for name in trained}
                for trained, fresh in ((params, fresh_params), (stats, fresh_stats))
            ),
        )


def levels(params: Arrays) -> list[str]:
    """Returns what ``randomize`` goes through: prefixes of the arrays' names, output first."""
    return sorted({_level(name) for name in params}, key=_depth)


def _level(name: str) -> str:
    parts = name.split("/")
    if parts[0] == "backbone":
        # backbone/stages/4/layers/2 or …/blocks/2, and backbone/stem before them.
        return "/".join(parts[: 5 if parts[1] == "stages" else 2])
    return "/".join(parts[:2]) if parts[1:] and parts[1].isdigit() else parts[0]


def _depth(level: str) -> tuple[int, list[int], str]:
    parts = level.split("/")
    family = {"classifier": 0, "dense": 0, "backbone": 2}.get(parts[0], 1)
    family += parts[:2] == ["backbone", "stem"]
    return family, [-int(part) for part in parts if part.isdigit()], level


def _centred_ranks(values: Float[Array, "b n"]) -> Float[Array, "b n"]:
    """Mean ranks less their mean, over n: within ±1/2, so that sums of squares stay small."""
    n = values.shape[-1]

    def one(row: Float[Array, "n"]) -> Float[Array, "n"]:
        ordered = jnp.sort(row)
        below = jnp.searchsorted(ordered, row, side="left")
        up_to = jnp.searchsorted(ordered, row, side="right")
        return (below + up_to - n) / (2 * n)

    return jax.vmap(one)(values)
