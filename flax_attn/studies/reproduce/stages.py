"""Finished work on disk: a stage that is there is read and not done again."""

from __future__ import annotations

import json
import logging
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flax_attn.errors import CheckpointError
from flax_attn.system.files import replacing, write_json

_log = logging.getLogger(__name__)

Stage = dict[str, np.ndarray]

CONDITIONS_FILE = "conditions.json"
_SECONDS = "seconds_of_stage"
_SHOWN = 4


class Stages:
    """Named arrays of each stage, one .npz below ``folder``, all under the same conditions.

    ``total`` is how many stages there will be. Raises CheckpointError when the folder was filled
    under other conditions.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, Any], *, total: int):
        self._folder, self._total = folder, total
        self._seconds: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)
        _check_conditions(folder / CONDITIONS_FILE, conditions)

    @property
    def seconds(self) -> Mapping[str, float]:
        """How long each stage took when it was done, in the order they were asked for."""
        return dict(self._seconds)

    def get(self, name: str, text: str, compute: Callable[[], Stage]) -> Stage:
        """What ``compute`` returns, or returned when this stage was done before."""
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
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _check_conditions(path: Path, conditions: Mapping[str, Any]) -> None:
    now = json.loads(json.dumps(conditions))
    if not path.exists():
        write_json(path, now)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: choose another --workdir") from error
    changes = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in before.keys() | now.keys()
        if before.get(name) != now.get(name)
    ]
    if changes:
        more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        raise CheckpointError(
            f"{path.parent} was filled under other conditions ("
            f"{'; '.join(sorted(changes)[:_SHOWN])}{more}): choose another --workdir, or repeat "
            "its settings"
        )
