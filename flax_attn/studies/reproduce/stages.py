"""Finished work on disk: a stage that is there is read and not done again."""

from __future__ import annotations

import logging
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flax_attn.runs.conditions import CONDITIONS_FILE, remember
from flax_attn.system.files import replacing, writing

_log = logging.getLogger(__name__)

Stage = dict[str, np.ndarray]

_SECONDS = "seconds_of_stage"


class Stages:
    """Named arrays of each stage, one .npz below ``folder``, all under the same conditions.

    ``total`` is how many stages there will be.

    Raises:
      CheckpointError: the folder was filled under other conditions.
      UsageError: it cannot be made.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, Any], *, total: int):
        self._folder, self._total = folder, total
        self._seconds: dict[str, float] = {}
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        remember(folder / CONDITIONS_FILE, conditions, remedy="choose another --workdir")

    @property
    def seconds(self) -> Mapping[str, float]:
        """The seconds each stage took when it was done, in the order they were asked for."""
        return dict(self._seconds)

    def get(self, name: str, text: str, compute: Callable[[], Stage]) -> Stage:
        """Returns what ``compute`` returns, or returned when this stage was done before."""
        number = f"[{len(self._seconds) + 1}/{self._total}]"
        path = self._folder / f"{name}.npz"
        found = _read(path)
        if found is None:
            _log.info(f"{number} {text}")
            started = time.perf_counter()
            found = compute()
            found[_SECONDS] = np.array(time.perf_counter() - started)
            _write(path, found)
        else:
            _log.info(f"{number} {text}: done before")
        self._seconds[name] = float(found.pop(_SECONDS))
        return found


def _read(path: Path) -> Stage | None:
    """None where there is nothing, or nothing whole: it will be done again."""
    try:
        # Opened here: of a damaged file, numpy would leave it open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return found if _SECONDS in found else None


def _write(path: Path, arrays: Stage) -> None:
    with writing(path), replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
