"""The format of a checkpoint: its files, its manifest, and how its arrays fit a state.

A checkpoint is a folder named by its step:

- ``model`` (Orbax): parameters and running statistics, all that evaluation needs; their moving
  averages where the run keeps them;
- ``training`` (Orbax): step, optimizer state and the running sums of the epoch; the arrays of which
  ``model`` has the averages;
- ``manifest.json``: sealed; how far the run had come, its metrics so far, and the SHA-256 of
  every array;
- ``judged.json``: sealed; the metrics of its own epoch, added once it has been evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from flax_attn.errors import CheckpointError, name_some
from flax_attn.models.functional import Arrays, find_mismatches, placed_like
from flax_attn.runs.log import Row
from flax_attn.runs.orbax_arrays import Record
from flax_attn.runs.state import Progress, TrainState
from flax_attn.system.files import read_sealed
from flax_attn.system.json_text import restore_undefined

MANIFEST = "manifest.json"
JUDGED = "judged.json"
MODEL = "model"
TRAINING = "training"

# The errors by which damage shows: a file missing or unreadable, a wrong digest, a value missing.
DAMAGE = (OSError, ValueError, TypeError, KeyError)


class Info(NamedTuple):
    """The contents of a manifest.

    Args:
      step: training steps so far.
      place: the fields of ``Progress``, without the sums.
      classes: names of the classes.
      rows: metrics of the epochs before.
      row: metrics of the checkpoint's own epoch; None until it has been evaluated.
      files: digests of each file's arrays.
    """

    step: int
    place: Mapping[str, Any]
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    row: Row | None
    files: Mapping[str, Record]

    @property
    def epoch(self) -> int:
        """The epoch that the checkpoint was saved in, counted from 1."""
        return self.place["epoch"]


class LoadedCheckpoint(NamedTuple):
    """A verified checkpoint, its arrays still on the host; ``where`` names it in messages."""

    info: Info
    arrays: Mapping[str, Mapping[str, np.ndarray]]
    where: str

    def model(self, params: Arrays, stats: Arrays) -> tuple[Arrays, Arrays]:
        """Returns parameters and statistics, for templates of these shapes and dtypes.

        Nothing is cast.

        Raises:
          CheckpointError: leaves are missing, unexpected or of another shape or dtype; it names the
            first five.
        """
        item = self._fit(MODEL, {**params, **stats})
        return {name: item[name] for name in params}, {name: item[name] for name in stats}

    def training(self, template: TrainState, sums: Any) -> tuple[TrainState, Progress]:
        """Returns the whole state and its progress in the run.

        Raises:
          CheckpointError: a leaf does not fit, as in ``model``.
        """
        params, stats = self.model(template.params, template.stats)
        rest = self._fit(TRAINING, _training(template, sums))
        state = template._replace(params=params, stats=stats, **rest["state"])
        if template.average is not None:
            raw, found = rest["unaveraged"], {**params, **stats}
            state = state._replace(
                params={path: raw.get(path, array) for path, array in params.items()},
                stats={path: raw.get(path, array) for path, array in stats.items()},
                average={path: found[path] for path in template.average},
            )
        return state, Progress(**self.info.place, sums=rest["sums"])

    def _fit(self, file: str, template: Any) -> Any:
        found, wanted = self.arrays[file], _by_name(template)
        if problems := find_mismatches(found, wanted):
            shown = name_some(problems, separator="; ")
            raise CheckpointError(f"{self.where} does not fit: {shown}")
        leaves = [placed_like(found[name], leaf) for name, leaf in wanted.items()]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)


def describe(
    state: TrainState, progress: Progress, classes: Sequence[str], rows: Sequence[Row]
) -> dict[str, Any]:
    """Returns the values of a manifest, except ``files``; ``read_info`` is the inverse."""
    place = {name: value for name, value in progress._asdict().items() if name != "sums"}
    return {"step": int(state.step), **place, "classes": list(classes), "rows": list(rows)}


def to_files(state: TrainState, sums: Any) -> dict[str, dict[str, Any]]:
    """Returns the arrays of each file by name; ``LoadedCheckpoint.training`` is the inverse."""
    params, stats = state.judged
    return {
        MODEL: _by_name({**params, **stats}),
        TRAINING: _by_name(_training(state, sums)),
    }


def read_info(folder: Path) -> Info:
    """Reads the manifest in a checkpoint's folder.

    Metrics that cannot be read count as absent: they can be computed again.

    Raises:
      OSError, ValueError, TypeError, KeyError: it is missing or damaged (``DAMAGE``).
    """
    values = read_sealed(folder / MANIFEST)
    if str(values["step"]) != folder.name:
        raise ValueError(f"it is checkpoint {values['step']}, renamed")
    try:
        row = restore_undefined(read_sealed(folder / JUDGED))
    except (OSError, ValueError):
        row = None
    return Info(
        step=values["step"],
        place={name: values[name] for name in Progress._fields if name != "sums"},
        classes=tuple(values["classes"]),
        rows=tuple(restore_undefined(values["rows"])),
        row=row,
        files={name: Record.from_json(record) for name, record in values["files"].items()},
    )


def _training(state: TrainState, sums: Any) -> dict[str, Any]:
    rest = {k: v for k, v in state._asdict().items() if k not in ("params", "stats", "average")}
    raw = state.unaveraged
    return {"state": rest, "sums": sums, **({} if raw is None else {"unaveraged": raw})}


def _by_name(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
