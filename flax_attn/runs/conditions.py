"""The conditions of a run, compared when it resumes, in studies and between processes.

What decides the numbers must not change unnoticed: settings by their tags (``config.setting``),
the images, the classes, versions and the processor.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from flax_attn.config import Config, deciding, settings
from flax_attn.errors import CheckpointError, UsageError
from flax_attn.runs.directory import Run
from flax_attn.runs.fit import misfits
from flax_attn.system.files import reading, write_json, writing
from flax_attn.system.json_text import encode_json

Changes = dict[str, tuple[Any, Any]]

# Where a study keeps those it was begun under.
CONDITIONS_FILE = "conditions.json"

# Digits of a fingerprint: enough to tell two sets of images apart in a message.
_DIGITS = 16
_SHOWN = 4


def deciding_numbers(config: Config) -> dict[str, Any]:
    """Returns the settings under which another value makes another run, by name."""
    values = deciding(config, "numbers", "order", "data")
    if config.train.schedule == "cosine":  # its course depends on the run's length
        values["epochs"] = config.train.epochs
    return values


def order_conditions() -> frozenset[str]:
    """Returns the names of the conditions that decide which images a batch holds."""
    named = {f.name for f in settings() if f.metadata["decides"] == "order"}
    return frozenset(named | {"classes", "images"})


def run_conditions(run: Run) -> dict[str, Any]:
    """Returns, by name, all that a resumed run must have in common with the run before."""
    return {
        **deciding_numbers(run.config),
        "classes": run.classes,
        "images": run.data_fingerprint[:_DIGITS],
        "validation_images": run.val_fingerprint[:_DIGITS],
        **({"masks": run.mask_fingerprint[:_DIGITS]} if run.mask_fingerprint else {}),
        **run.versions,
        "device": run.device,
    }


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """Returns the conditions that differ, each with its old and new value, in their order."""
    before, after = _plain(before), _plain(after)
    names = sorted(before.keys() | after.keys())
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def require_resumable(
    old: Run, new: Run, workdir: Path, *, anyway: Collection[str] = ()
) -> Changes:
    """Returns the conditions that a resume changes, each with its old and new value.

    Raises:
      CheckpointError: a condition changes that is not to be changed ``anyway``.
      UsageError: a name in ``anyway`` is no condition.
    """
    before, after = run_conditions(old), run_conditions(new)
    if unknown := set(anyway) - before.keys() - after.keys():
        raise UsageError(
            f"--resume-anyway does not know {', '.join(sorted(unknown))}: name conditions that "
            "the message of a refused resume names"
        )
    changes = compare(before, after)
    refused = {name: pair for name, pair in changes.items() if name not in anyway}
    if refused:
        said = f"{workdir} holds a run under other conditions ({describe(refused)})"
        if unfit := misfits(old, new, refused):
            raise CheckpointError(
                f"{said}: repeat its settings, or choose another --workdir; its checkpoints do not "
                f"fit other values of {', '.join(unfit)}"
            )
        raise CheckpointError(
            f"{said}: repeat its settings, choose another --workdir, or add --resume-anyway "
            f"{' '.join(refused)}"
        )
    return changes


def remember(file: Path, now: Mapping[str, Any], *, remedy: str) -> None:
    """Writes a study's conditions, or compares them with those it was begun under.

    ``remedy`` tells the user what else to do, such as "choose another --out".

    Raises:
      CheckpointError: the conditions are others, or ``file`` cannot be read or is damaged.
      DiskFullError: there is no space for ``file``.
      UsageError: ``file`` cannot be written.
    """
    with reading(file, CheckpointError, remedy=remedy):
        text = file.read_bytes() if file.exists() else None
    if text is None:
        with writing(file, remedy=remedy):
            write_json(file, dict(now))
        return
    try:
        before = json.loads(text)
        if not isinstance(before, dict):
            raise ValueError(f"{type(before).__name__} instead of an object")
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: {remedy}") from error
    # A setting that there was not yet had its default.
    missing = {f.name: f.default for f in settings() if f.name in now.keys() - before.keys()}
    changes = compare({**missing, **before}, now)
    if changes:
        raise CheckpointError(
            f"{file.parent} was filled under other conditions "
            f"({describe(changes, limit=_SHOWN)}): {remedy}, or repeat its settings"
        )


def describe(changes: Changes, *, limit: int | None = None) -> str:
    """Returns changes in words, the first ``limit`` of them."""
    shown = [f"{name} was {old!r}, now {new!r}" for name, (old, new) in changes.items()]
    more = len(shown) - (limit or len(shown))
    return "; ".join(shown[:limit]) + (f" and {more} more" if more > 0 else "")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values as JSON keeps them: tuples as lists."""
    return json.loads(encode_json(dict(values)))
