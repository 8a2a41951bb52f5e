"""Light snapshots of a run: the arrays that training changes, one file an epoch.

They hold no optimizer state, and no arrays of a frozen backbone: a snapshot replaces arrays of any
checkpoint of the same run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save

from flax_attn.errors import CheckpointError
from flax_attn.models.functional import Arrays, digest_arrays, find_mismatches, trainable
from flax_attn.system.files import write_bytes, writing
from flax_attn.system.tensor_files import open_safetensors

FOLDER = "snapshots"
_PREFIX, _ENDING = "epoch-", ".safetensors"
_PARAMS, _STATS = "params/", "stats/"
_DIGEST = "content_sha256"


def snapshot_path(workdir: Path, epoch: int) -> Path:
    """Returns the path of the snapshot after an epoch."""
    return workdir / FOLDER / f"{_PREFIX}{epoch}{_ENDING}"


def snapshot_epochs(workdir: Path) -> list[int]:
    """Returns the epochs of a run that have a snapshot, in order."""
    names = [path.name for path in (workdir / FOLDER).glob(f"{_PREFIX}*{_ENDING}")]
    numbers = [name[len(_PREFIX) : -len(_ENDING)] for name in names]
    return sorted(int(number) for number in numbers if number.isdecimal())


def save_snapshot(
    workdir: Path, epoch: int, params: Arrays, stats: Arrays, *, freeze_backbone: bool
) -> None:
    """Writes the snapshot after ``epoch`` (counted from 1), all of it or nothing.

    Raises:
      CheckpointError: it cannot be written.
      DiskFullError: there is no space.
    """
    arrays: dict[str, Any] = {
        name: np.asarray(jax.device_get(array), order="C")
        for name, array in _changing(params, stats, freeze_backbone=freeze_backbone).items()
    }
    metadata = {"epoch": str(epoch), _DIGEST: digest_arrays(arrays)}
    path = snapshot_path(workdir, epoch)
    with writing(f"the snapshot of epoch {epoch} in {workdir}", CheckpointError):
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, save(arrays, metadata=metadata))


def load_snapshot(
    workdir: Path, epoch: int, params: Arrays, stats: Arrays, *, freeze_backbone: bool
) -> tuple[Arrays, Arrays]:
    """Returns a checkpoint's arrays, those in the snapshot after ``epoch`` replaced by its own.

    Raises:
      CheckpointError: there is no such snapshot, it is damaged, or it is of another network.
    """
    path = snapshot_path(workdir, epoch)
    if not path.is_file():
        kept = ", ".join(map(str, snapshot_epochs(workdir))) or "none"
        raise CheckpointError(
            f"no snapshot of epoch {epoch} in {workdir} (there are: {kept}): "
            f"train again with --snapshot-epochs {epoch}"
        )
    with open_safetensors(path, CheckpointError) as file:
        metadata = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get(_DIGEST) != digest_arrays(arrays):
        raise CheckpointError(f"{path} is damaged: its digest differs; delete it and train again")
    expected = _changing(params, stats, freeze_backbone=freeze_backbone)
    if problems := find_mismatches(arrays, expected):
        raise CheckpointError(
            f"{path} is of another network: {len(problems)} arrays differ, {problems[0]}"
        )
    return (
        {**params, **_below(arrays, _PARAMS)},
        {**stats, **_below(arrays, _STATS)},
    )


def _changing(params: Arrays, stats: Arrays, *, freeze_backbone: bool) -> Arrays:
    """Returns the arrays that training changes; with a frozen backbone no statistics."""
    changed = trainable(params, freeze_backbone=freeze_backbone)
    moving = {} if freeze_backbone else stats
    return {
        **{_PARAMS + name: array for name, array in changed.items()},
        **{_STATS + name: array for name, array in moving.items()},
    }


def _below(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
