"""The paths that a run remembers: they hold wherever a later command is started.

They are written as absolute ones. A run that was moved together with what it needs, a project's
folder under another name or on another machine, finds it at the same place relative to the run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from flax_attn.config import Config, PathKind, deciding, flag_of, settings

_log = logging.getLogger(__name__)


def remember_paths(config: Config, workdir: Path) -> Config:
    """Returns the settings as a run in ``workdir`` keeps them, every path an absolute one."""
    absolute = {name: _absolute(value) for name, _, value in _paths(config)}
    return config.updated(**{**absolute, "workdir": str(workdir.absolute())})


def recall_paths(config: Config, workdir: Path) -> Config:
    """Returns the settings of ``remember_paths``, read in ``workdir``, which may be another place.

    What is where it was is used. Otherwise an input is looked for at the same place relative to the
    run directory, and kept as it was if it is not there either; a cache is made there.
    """
    here, before = workdir.absolute(), config.run.workdir
    if before is None or Path(before) == here:
        return config
    found = {"workdir": str(here)}
    for name, kind, value in _paths(config):
        # Lexically, as the folders that the run came from may be gone.
        moved = os.path.normpath(here / os.path.relpath(value, before))
        if kind == "output" or os.path.exists(value) or moved == value:
            continue
        if kind == "cache" or os.path.exists(moved):
            found[name] = moved
        if kind == "input" and name in found:
            _log.info(
                f"{flag_of(name)}: nothing is in {value} any more; the run has moved: {moved}"
            )
    return config.updated(**found)


def _paths(config: Config) -> Iterator[tuple[str, PathKind, str]]:
    """Yields name, kind and value of each setting that names a path in a file system.

    A place within the data set is none.
    """
    values = deciding(config, "place")
    for f in settings():
        if f.metadata["path"] in (None, "inner"):
            continue
        value = values[f.name]
        # Data sets of TFDS and compiled programs may lie in a bucket.
        if value is not None and value not in f.metadata["words"] and "://" not in value:
            yield f.name, f.metadata["path"], value


def _absolute(value: str) -> str:
    # What the shell left of "--data-dir=~/photos"; some settings are taken so.
    path = value if os.path.lexists(value) else os.path.expanduser(value)
    return str(Path(path).absolute())
