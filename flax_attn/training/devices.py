"""The devices that share a batch: a single one, or a mesh with the one axis ``data``.

Every device holds all parameters and an equal part of each batch. Steps are compiled for the
whole batch, so that sums over it (the loss, the gradient, the statistics of batch
normalisations) are over all devices; XLA inserts the communication.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flax_attn.config import TrainConfig
from flax_attn.errors import UsageError
from flax_attn.ops.parts import AXIS

Tree = TypeVar("Tree")


@dataclass(frozen=True)
class Devices:
    """The devices that steps run on; without a mesh JAX's default device alone."""

    mesh: Mesh | None = None

    @property
    def count(self) -> int:
        """The number of devices."""
        return 1 if self.mesh is None else self.mesh.size

    def jit(self, step: Callable[..., Any], **options: Any) -> Any:
        """Compiles a step whose results every device, and so every process, holds whole."""
        if self.mesh is None:
            return jax.jit(step, **options)
        mesh = self.mesh.abstract_mesh

        @wraps(step)
        def on_mesh(*arguments: Any, **named: Any) -> Any:
            with jax.sharding.use_abstract_mesh(mesh):  # operations ask for it (``ops/parts``)
                return step(*arguments, **named)

        return jax.jit(on_mesh, **{"out_shardings": self._on_all(), **options})

    def share(self, batch: Tree) -> Tree:
        """Shards a host's part of a batch over the devices by its first axis.

        The parts of all processes, in their order, make up the batch.
        """
        if self.mesh is None:
            return batch
        sharding, parts = NamedSharding(self.mesh, PartitionSpec(AXIS)), jax.process_count()

        def place(part: Any) -> jax.Array:
            whole = (parts * part.shape[0], *part.shape[1:])
            return jax.make_array_from_process_local_data(sharding, np.asarray(part), whole)

        return jax.tree.map(place, batch)

    def replicate(self, tree: Tree) -> Tree:
        """Copies a tree of arrays, the same in every process, to all devices."""
        if self.mesh is None:
            return tree

        def place(leaf: Any) -> jax.Array:
            # A copy: steps are given these arrays to overwrite.
            copy = np.array(leaf)
            return jax.make_array_from_process_local_data(self._on_all(), copy, copy.shape)

        return jax.tree.map(place, tree)

    def whole(self, part: np.ndarray) -> np.ndarray:
        """Gathers the parts that the processes have of an array, one after the other."""
        if self.mesh is None or jax.process_count() == 1:
            return part
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(part, tiled=True)

    def all(self, here: bool) -> bool:
        """Returns whether ``here`` is true in every process; all must call this."""
        return bool(self.whole(np.array([here])).all())

    @property
    def part(self) -> tuple[int, int]:
        """The part (i, n) of each batch that this process reads: the i-th of n, from 0."""
        return (0, 1) if self.mesh is None else (jax.process_index(), jax.process_count())

    def on_one(self, tree: Tree) -> Tree:
        """Returns arrays that every device holds whole as those of one device of this process."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    def _on_all(self) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec())


ONE = Devices()


def devices_for(config: TrainConfig) -> Devices:
    """Returns the devices that training shares each batch over.

    Raises:
      UsageError: there are too few devices, or they would not get equal parts of a batch.
    """
    devices = choose_devices(config.devices)
    parts = devices.count * config.accumulate
    if config.batch_size % parts:
        cut = f"{devices.count} devices"
        if config.accumulate > 1:
            cut += f", each in {config.accumulate} parts (--accumulate)"
        raise UsageError(
            f"--batch-size {config.batch_size} cannot be split evenly over {cut}: choose a "
            f"multiple of {parts}, or other --devices"
        )
    return devices


def choose_devices(count: int | None) -> Devices:
    """Returns the first ``count`` devices of all processes together, all of them by default.

    Raises:
      UsageError: there are fewer devices, or a process would be left without.
    """
    # Sorted by process: the rows of each follow those of the process before.
    there = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    wanted = len(there) if count is None else count
    if wanted > len(there):
        raise UsageError(
            f"--devices {wanted}: there are {len(there)} ({there[0].device_kind}); choose fewer"
        )
    if len(there) != jax.process_count() * jax.local_device_count():
        raise UsageError(
            f"this process has {jax.local_device_count()} devices, all {jax.process_count()} "
            f"together {len(there)}: give each the same number"
        )
    if jax.process_count() > 1 and wanted < len(there):
        raise UsageError(
            f"--devices {wanted}: with several processes all {len(there)} devices share each "
            "batch; drop the flag"
        )
    return ONE if len(there) == 1 or wanted == 1 else Devices(Mesh(there[:wanted], (AXIS,)))
