"""What tells a published folder from a run directory, and what of a run it leaves behind.

A published folder holds one network in the layout of model hubs: ``config.json``, which is that of
the run without the places of its machine, and ``model.safetensors``. ``load`` reads both kinds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

from flax_attn.config import Config
from flax_attn.errors import CheckpointError
from flax_attn.runs.log import Row
from flax_attn.system.files import DIGEST, fits_digest
from flax_attn.system.json_text import restore_undefined

WEIGHTS_FILE = "model.safetensors"
FORMAT_VERSION = 1

# The fields of ``config.json`` by which a hub, a reader and ``require_known`` tell what it is.
LIBRARY, FORMAT, PUBLISHED = "library_name", "format_version", "published"


@dataclass(frozen=True)
class PublishedWeights:
    """What a published folder says of its weights.

    Args:
      epoch: that of the checkpoint, counted from 1.
      step: that of the checkpoint.
      row: the metrics of its epoch, thresholds among them; None before the first evaluation.
      sha256: of ``model.safetensors``.
    """

    epoch: int
    step: int
    row: Row | None
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> PublishedWeights:
        """Returns what ``to_json`` gave.

        Raises:
          KeyError: a value is missing.
          ValueError, TypeError: a value is of another kind.
        """
        row = None if values["row"] is None else dict(restore_undefined(values["row"]))
        epoch, step, sha256 = int(values["epoch"]), int(values["step"]), str(values["sha256"])
        return PublishedWeights(epoch, step, row, sha256)


def is_published(workdir: Path) -> bool:
    """Returns whether a folder is a published one, so that nothing else should be written to it."""
    try:
        values = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and PUBLISHED in values


def results_folder(workdir: Path, name: str) -> Path:
    """Returns where a command writes what it finds out about a run, unless it is told.

    In the run directory; beside a published folder, which goes to others as it is: results name
    the images that were looked at.
    """
    if not is_published(workdir):
        return workdir / name
    place = Path(os.path.abspath(workdir))
    return place.with_name(f"{place.name}-{name}")


def require_known(values: Any, path: Path) -> None:
    """Checks that the content of a ``config.json`` is that of a run or of a published folder.

    Raises:
      CheckpointError: it is another library's or of a version that is not known, or a published
        one has changed.
    """
    if isinstance(values, dict) and values and not {"config", "classes"} & values.keys():
        names = ", ".join(sorted(values)[:5])
        raise CheckpointError(
            f"{path} is not of flax_attn (it has {names}): expected a run directory, or a folder "
            "that flax-attn publish wrote"
        )
    if isinstance(values, dict) and PUBLISHED in values and values.get(FORMAT) != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has {FORMAT} {values.get(FORMAT)!r}, flax_attn {version('flax_attn')} reads "
            f"{FORMAT_VERSION}: install the version that wrote it, or publish the run again"
        )
    if isinstance(values, dict) and PUBLISHED in values and not fits_digest(values):
        raise CheckpointError(
            f"{path} is not what was published, its {DIGEST} differs: take the folder anew from "
            "where it was published"
        )


def without_places(config: Config) -> Config:
    """Returns the settings of a run without those that say where things lie on its machine."""
    places = {
        f.name: f.default
        for section in fields(config)
        for f in fields(getattr(config, section.name))
        if f.metadata["decides"] == "place"
    }
    return config.updated(**places)


def without_folders(provenance: Mapping[str, str]) -> dict[str, str]:
    """Returns where weights come from, of each path the last name alone."""
    return {
        name: PurePath(value).name if _is_path(value) else value
        for name, value in provenance.items()
    }


def _is_path(value: str) -> bool:
    if os.path.isabs(os.path.expanduser(value)):
        return True
    return os.sep in value and " " not in value and "://" not in value
