"""The region term: a loss that is small where the gates' maps lie on masks of objects.

Source: Yan, Kawahara and Hamarneh (2019), section 2.3; docs/regions.md has the formula and what is
decided beyond it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from flax_attn.config import TrainConfig
from flax_attn.ops.losses import batch_dice, image_dice
from flax_attn.ops.metrics import LabelSums, Sums
from flax_attn.ops.pooling import average_pool

# How the names of the term's means begin, before that of the gate.
REGION = "region_"


class Regions(NamedTuple):
    """Where the objects of a batch's images are, on the host or the device.

    ``mask`` is 1 on an object and 0 beside it. An image whose mask is not ``known`` is left out of
    the term; one whose mask is known and empty counts.
    """

    mask: UInt8[Any, "b s s"]
    known: Bool[Any, "b"]


class RegionSums(NamedTuple):
    """The sums of a task, and those of the region term over the images whose mask is known.

    ``dice`` has the term of each gate, without its weight, times the images that it is of.
    """

    task: Sums | LabelSums
    dice: dict[str, Float[Array, ""]]
    images: Int[Array, ""]

    @property
    def loss(self) -> Float[Array, ""]:
        """The total of the task's loss."""
        return self.task.loss

    @staticmethod
    def zero(task: Sums | LabelSums, gates: Iterable[str]) -> RegionSums:
        """Returns the sums over no examples; ``task`` are those of the task."""
        return RegionSums(task, {gate: jnp.zeros(()) for gate in gates}, jnp.zeros((), jnp.int32))

    def merge(self, other: RegionSums) -> RegionSums:
        """Returns the sums over both sets of examples."""
        dice = {gate: total + other.dice[gate] for gate, total in self.dice.items()}
        task: Any = self.task
        return RegionSums(task.merge(other.task), dice, self.images + other.images)

    def compute(self) -> dict[str, float]:
        """Computes the task's metrics, and the mean term of each gate; NaN without a mask."""
        images = int(self.images) or float("nan")
        means = {f"{REGION}{gate}": float(total) / images for gate, total in self.dice.items()}
        return {**self.task.compute(), **means}


def zero_sums(task: Sums | LabelSums, config: TrainConfig) -> Sums | LabelSums | RegionSums:
    """Returns the sums before an epoch's first step; ``task`` are those of the task."""
    weights = config.region_weights
    return RegionSums.zero(task, weights) if weights else task


def counted_images(regions: Regions, kept: Bool[Any, "b"]) -> Bool[Array, "b"]:
    """Returns which images the term is of: those that count, and whose mask is known."""
    return jnp.asarray(regions.known) & kept


def region_dice(
    maps: Mapping[str, Float[Array, "b k g _ _"]],
    regions: Regions,
    labels: Int[Array, "b *k"],
    counted: Bool[Array, "b"],
    config: TrainConfig,
) -> dict[str, Float[Array, ""]]:
    """Returns the term of each gate, between 0 where maps and masks agree and 1 where they part.

    Maps have axes for classes and heads. Where classes have maps of their own, those of the
    image's class or labels learn. Each head is a map of its own; the term is the mean of theirs.
    Masks are averaged over the cells of the map.
    """
    dice = batch_dice if config.roi_over == "batch" else image_dice

    def of_gate(maps: Float[Array, "b k g h w"]) -> Float[Array, ""]:
        _, classes, _, h, w = maps.shape
        masks = average_pool(regions.mask, (h, w)).astype(maps.dtype)
        if config.roi_masks == "background":
            masks = 1 - masks
        pairs = counted[:, None] & _own_classes(labels, classes)
        return jax.vmap(lambda head: dice(head, masks, pairs), in_axes=2)(maps).mean()

    return {gate: of_gate(maps[gate]) for gate in config.region_weights}


def _own_classes(labels: Int[Array, "b *k"], classes: int) -> Bool[Array, "b k"]:
    """Returns which of the classes that have maps of their own are an image's."""
    if classes == 1:
        return jnp.ones((labels.shape[0], 1), bool)
    return labels == 1 if labels.ndim == 2 else labels[:, None] == jnp.arange(classes)
