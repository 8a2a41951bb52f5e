"""The run directory: ``config.json`` says all that is needed to rebuild the network."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flax_attn.config import Config, RunConfig, save_json
from flax_attn.errors import CheckpointError, RunBusyError, UsageError

CONFIG_FILE = "config.json"
LOCK_FILE = ".lock"

# Fields a resumed run may change: none of them alters what the next epoch computes.
FREE_FIELDS = {"epochs", "workers", *(f.name for f in fields(RunConfig))}


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers."""
    return {name: version(name) for name in ("flax_attn", "jax", "jaxlib", "flax", "optax")}


@dataclass(frozen=True)
class Run:
    """What ``config.json`` holds."""

    config: Config
    classes: tuple[str, ...]
    data_fingerprint: str
    weights: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=package_versions)

    def save(self, workdir: Path) -> None:
        """Writes ``config.json``."""
        values = {
            "config": self.config.to_json(),
            "classes": list(self.classes),
            "data_fingerprint": self.data_fingerprint,
            "weights": dict(self.weights),
            "versions": dict(self.versions),
        }
        save_json(str(workdir / CONFIG_FILE), values)

    @staticmethod
    def load(workdir: Path) -> Run:
        """Reads ``config.json``; raises CheckpointError when there is none or it is damaged."""
        path = workdir / CONFIG_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return Run(
                config=Config.from_json(values["config"]),
                classes=tuple(values["classes"]),
                data_fingerprint=values["data_fingerprint"],
                weights=values["weights"],
                versions=values["versions"],
            )
        except FileNotFoundError:
            raise CheckpointError(f"no {CONFIG_FILE} in {workdir}: not a run directory") from None
        except (KeyError, ValueError, TypeError, AttributeError, UsageError) as error:
            raise CheckpointError(f"{path} is damaged: {error!r}") from error


def check_resumable(old: Run, new: Run, workdir: Path) -> None:
    """Raises CheckpointError naming each setting, with both values, that a resume would change."""
    before, after = _conditions(old), _conditions(new)
    changes = [f"{k} was {before[k]!r}, now {after[k]!r}" for k in before if before[k] != after[k]]
    if changes:
        raise CheckpointError(
            f"{workdir} holds a run under other conditions ({'; '.join(changes)}): "
            "choose another --workdir, or repeat its settings"
        )


def _conditions(run: Run) -> dict[str, Any]:
    flat = {
        name: value
        for section in asdict(run.config).values()
        for name, value in section.items()
        if name not in FREE_FIELDS
    }
    if run.config.train.schedule == "cosine":  # its course depends on the run's length
        flat["epochs"] = run.config.train.epochs
    return {**flat, "classes": run.classes, "images": run.data_fingerprint[:16]}


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the run directory for one trainer; made if missing.

    Raises RunBusyError naming the process that holds it, UsageError if it is not writable.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = os.open(workdir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot write in the run directory {workdir}: {reason}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(file)
        raise RunBusyError(f"process {holder} trains in {workdir}: wait, or stop it") from None
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(file)
