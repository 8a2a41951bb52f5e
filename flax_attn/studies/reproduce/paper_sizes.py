"""How much of each paper is measured, and what ``flax-attn reproduce`` says of it in its help."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from flax_attn.config.names import METHOD_NAMES


@dataclass(frozen=True, kw_only=True)
class CommonSizes:
    """How much is measured, whatever the paper.

    ``map_images``: validation images whose maps are measured; ``sanity_images`` and
    ``sanity_draws``: images and randomised networks of the sanity check.
    """

    seeds: tuple[int, ...]
    map_images: int
    sanity_images: int
    sanity_draws: int


@dataclass(frozen=True, kw_only=True)
class Sizes(CommonSizes):
    """How much is measured of the article.

    ``methods``: maps of the sanity check beside attention; ``timing_*``: side, batch and rounds of
    the timed training steps.
    """

    methods: tuple[str, ...]
    timing_size: int
    timing_batch: int
    timing_rounds: int


QUICK = Sizes(
    seeds=(0, 1, 2),
    map_images=300,
    sanity_images=12,
    sanity_draws=10,
    # Score-CAM takes a pass through the network for each of 512 channels.
    methods=tuple(name for name in METHOD_NAMES if name != "score_cam"),
    timing_size=224,
    timing_batch=8,
    timing_rounds=7,
)
FULL = Sizes(
    seeds=(0,),
    map_images=1000,
    sanity_images=32,
    sanity_draws=10,
    methods=tuple(METHOD_NAMES),
    timing_size=224,
    timing_batch=32,
    timing_rounds=21,
)


@dataclass(frozen=True, kw_only=True)
class ParentSizes(CommonSizes):
    """How much is measured of the parent paper.

    ``curve_images`` and ``curve_steps``: images of the deletion and insertion curves, and the
    steps of each, which are passes through the network.
    """

    curve_images: int
    curve_steps: int


PARENT_QUICK = ParentSizes(
    seeds=(0,),
    map_images=300,
    sanity_images=12,
    sanity_draws=10,
    curve_images=32,
    curve_steps=8,
)
PARENT_FULL = ParentSizes(
    seeds=(0,),
    map_images=1000,
    sanity_images=32,
    sanity_draws=10,
    curve_images=128,
    curve_steps=16,
)


class Offer(NamedTuple):
    """A paper as the help has it: a line of text, and the sizes of --quick and of --full."""

    text: str
    quick: CommonSizes
    full: CommonSizes

    @property
    def sizes(self) -> frozenset[str]:
        """The names of its sizes."""
        return frozenset(f.name for f in fields(self.quick))


OFFERS: dict[str, Offer] = {
    "article": Offer("the article this package is named after", QUICK, FULL),
    "parent": Offer(
        "Yan, Kawahara and Hamarneh (2019): maps taught by masks", PARENT_QUICK, PARENT_FULL
    ),
}
