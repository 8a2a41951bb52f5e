"""A batch that several devices share: each computes its own part of the images.

XLA lays most of a program out over a mesh by itself. It cannot look into a kernel of ours, nor cut
a loop over images, and would bring the whole batch to every device; there ``on_parts`` says what is
of an image and what is a sum over images. The mesh is that of the step which is being traced
(``jax.sharding.use_abstract_mesh``); without one nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import jax
from jax import lax
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array

# The axis of a mesh that the images of a batch lie along.
AXIS = "data"


def on_parts(
    compute: Callable[..., Array], *operands: Array, of_images: Sequence[bool], sums: bool = False
) -> Array:
    """Returns ``compute(*operands)``, each device having computed its own part of the images.

    ``of_images`` says which operands have the images as their first axis; every device holds the
    others whole. So has the result; with ``sums`` it is a sum over the images instead, and what the
    devices found is added up. A batch that the devices cannot share evenly is computed as a whole.
    """
    count = devices()
    given = zip(operands, of_images, strict=True)
    if count == 1 or any(a.shape[0] % count for a, split in given if split):
        return compute(*operands)

    def part(*mine: Array) -> Array:
        found = compute(*mine)
        return lax.psum(found, AXIS) if sums else found

    whole, split = PartitionSpec(), PartitionSpec(AXIS)
    places = tuple(split if of_image else whole for of_image in of_images)
    # Whether results are the same on all devices is not inferred through a kernel of ours.
    mapped = jax.shard_map(
        part, in_specs=places, out_specs=whole if sums else split, check_vma=False
    )
    return mapped(*operands)


def devices() -> int:
    """Returns how many devices share the batch of the step that is being traced."""
    return jax.sharding.get_abstract_mesh().shape.get(AXIS, 1)


def on_one_device() -> AbstractContextManager[None]:
    """Enters a context in which ``on_parts`` computes on one device, whatever is being traced."""
    return jax.sharding.use_abstract_mesh(AbstractMesh((), ()))
