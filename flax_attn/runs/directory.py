"""The run directory: its lock, and ``config.json``, from which the network can be rebuilt."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from flax_attn.config import Config, ModelConfig, gated, settings, validate
from flax_attn.data.metadata import MetaScale
from flax_attn.errors import CheckpointError, RunBusyError, UsageError
from flax_attn.runs.published_folder import (
    FORMAT,
    FORMAT_VERSION,
    LIBRARY,
    PUBLISHED,
    PublishedWeights,
    is_published,
    require_known,
)
from flax_attn.runs.remembered_paths import recall_paths, remember_paths
from flax_attn.system.cpu import max_isa, threads
from flax_attn.system.files import read_if_there, reading, with_digest, write_json, writing
from flax_attn.system.folders import PROBE, require_writable
from flax_attn.system.output import MARK, mark_output

CONFIG_FILE = "config.json"
# Pictures of a run: its metrics by epoch, and the attention on some validation images.
CURVES_FILE, ATTENTION_FILE = "curves.png", "attention.png"
# What a user may do about another user's run.
GET_RIGHTS = "ask its owner for the right to read all of the run, or for a copy"
LOCK_FILE = ".lock"

_PACKAGES = ("flax_attn", "jax", "jaxlib", "flax", "optax", "numpy", "pillow", "llvmlite")
_INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile")


def package_versions() -> dict[str, str]:
    """Returns the versions of the packages that decide the numbers."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # only the compiled convolutions need llvmlite
        return "none"


def describe_device() -> str:
    """Describes the devices, which beside the program decide the last bits of a number.

    For CPUs: the instruction set, XLA's limit on it, and the number of threads; for others the
    kind. The number of devices stands before it, for CPUs only where there are several.
    """
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    number = [] if len(devices) == 1 else [f"{len(devices)} x"]
    limit = [f"limited to {max_isa()}"] if max_isa() else []
    sets = [platform.machine(), *_instruction_sets(), *limit]
    return " ".join([*number, *sets, f"{threads()} threads"])


def _instruction_sets() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return [name for name in _INSTRUCTION_SETS if name in flags]


@dataclass(frozen=True)
class Run:
    """The contents of ``config.json``.

    Args:
      config: the settings.
      classes: names of the classes.
      data_fingerprint: digest of the training images.
      weights: the source of the initial weights.
      val_fingerprint: digest of the validation images.
      versions: of the packages that decide the numbers.
      device: ``describe_device`` of the process that trains.
      mask_fingerprint: digest of the masks that maps learn from; empty where none do.
      metadata: how cells of metadata become numbers; None where cases have none.
      published: what a published folder says of its weights; None of a run directory.
    """

    config: Config
    classes: tuple[str, ...]
    data_fingerprint: str
    weights: Mapping[str, str]
    val_fingerprint: str = ""
    versions: Mapping[str, str] = field(default_factory=package_versions)
    device: str = field(default_factory=describe_device)
    mask_fingerprint: str = ""
    metadata: MetaScale | None = None
    published: PublishedWeights | None = None

    def save(self, workdir: Path) -> None:
        """Writes ``config.json``, all of it or nothing; paths in it are absolute.

        In a published folder no path is.

        Raises:
          DiskFullError: there is no space.
          UsageError: it cannot be written.
        """
        path = workdir / CONFIG_FILE
        with writing(path):
            write_json(path, self._to_json(workdir))

    def _to_json(self, workdir: Path) -> dict[str, Any]:
        config = self.config if self.published else remember_paths(self.config, workdir)
        values = {
            "config": config.to_json(),
            "classes": list(self.classes),
            "data_fingerprint": self.data_fingerprint,
            "val_fingerprint": self.val_fingerprint,
            "weights": dict(self.weights),
            "versions": dict(self.versions),
            "device": self.device,
            **({"mask_fingerprint": self.mask_fingerprint} if self.mask_fingerprint else {}),
            **({"metadata": self.metadata.to_json()} if self.metadata else {}),
        }
        if self.published is None:
            return values
        told = {LIBRARY: "flax_attn", FORMAT: FORMAT_VERSION, PUBLISHED: self.published.to_json()}
        return with_digest({**told, **values})

    @staticmethod
    def load(workdir: Path) -> Run:
        """Reads ``config.json``; paths in it hold wherever this process was started.

        Raises:
          CheckpointError: there is none, or it cannot be read, is damaged or is another library's.
        """
        path = workdir / CONFIG_FILE
        try:
            with reading(path, CheckpointError, remedy=GET_RIGHTS):
                text = read_if_there(path)
            if text is None:
                raise CheckpointError(f"no {CONFIG_FILE} in {workdir}: not a run directory")
            values = json.loads(text)
            require_known(values, path)
            return Run._from_json(values, workdir)
        except UsageError as error:
            raise CheckpointError(
                f"{path} cannot be used: {error}; it was written with {values.get('versions')}, "
                f"this is flax_attn {_version('flax_attn')}"
            ) from error
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged: {error!r}") from error

    @staticmethod
    def _from_json(values: Mapping[str, Any], workdir: Path) -> Run:
        config = recall_paths(Config.from_json(values["config"]), workdir)
        published = PublishedWeights.from_json(values[PUBLISHED]) if PUBLISHED in values else None
        if published is not None:  # not written by a training here, which had looked at it
            validate(config, of_photographs=True, idle={f.name for f in settings()})
        return Run(
            config=config,
            classes=tuple(values["classes"]),
            data_fingerprint=values["data_fingerprint"],
            weights=values["weights"],
            val_fingerprint=values["val_fingerprint"],
            versions=values["versions"],
            device=values["device"],
            mask_fingerprint=values.get("mask_fingerprint", ""),
            metadata=MetaScale.from_json(values["metadata"]) if "metadata" in values else None,
            published=published,
        )


def default_workdir(config: Config) -> Path:
    """Returns ``runs/<data set>-<model>-<norm>``, with more or fewer names as ``names_of_network``.

    The data set stands before them, and behind them the fold that validates, if one does.
    """
    fold = [] if config.data.fold is None else [f"fold-{config.data.fold}"]
    return Path("runs") / "-".join([config.data.dataset, *names_of_network(config.model), *fold])


def names_of_network(model: ModelConfig) -> list[str]:
    """Returns the model, the backbone unless it is the default one, and the norm of gates."""
    backbone = [model.backbone] if model.backbone != ModelConfig.backbone else []
    return [model.model, *backbone, *([model.norm] if gated(model) else [])]


def require_usable(workdir: Path, *, flag: str = "--workdir") -> None:
    """Checks that a run can be written in ``workdir``, and that nobody trains there.

    Call it early, before images are read and weights fetched; it creates nothing, and only
    ``locked`` is decisive. ``flag`` names the folder in messages.

    Raises:
      DiskFullError: no space is left.
      RunBusyError: a process trains there.
      UsageError: it cannot be written, or holds other files than a run's.
    """
    remedy = f"or choose another {flag}"
    with writing(f"in the run directory {workdir}", remedy=remedy):
        if os.path.isdir(workdir):
            _raise_unless_ours(workdir, flag)
    require_writable(workdir, remedy=remedy)
    try:
        file = os.open(workdir / LOCK_FILE, os.O_RDWR)
    except OSError:
        return
    try:
        _take(file, workdir)
    finally:
        os.close(file)


@contextmanager
def locked(workdir: Path, *, flag: str = "--workdir") -> Iterator[None]:
    """Locks the run directory for one trainer; makes it if it is missing.

    ``flag`` names the folder in messages.

    Raises:
      RunBusyError: another process holds it, which is named.
      UsageError: it cannot be written, or holds other files than a run's.
    """
    with writing(f"in the run directory {workdir}", remedy=f"or choose another {flag}"):
        workdir.mkdir(parents=True, exist_ok=True)
        _raise_unless_ours(workdir, flag)
        mark_output(workdir)
        file = os.open(workdir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(file, workdir)
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(file)


def _raise_unless_ours(workdir: Path, flag: str) -> None:
    if is_published(workdir):
        raise UsageError(
            f"{workdir} is a published folder, which training would change: choose a new folder "
            f"for {flag}, and start from it with --init-from {workdir}"
        )
    found = (path.name for path in workdir.iterdir())
    names = {name for name in found if name != MARK and not name.startswith(PROBE)}
    if names and not names & {LOCK_FILE, CONFIG_FILE}:
        raise UsageError(
            f"{workdir} is no run directory but holds {len(names)} other files: choose a new "
            f"folder for {flag}"
        )


def _take(file: int, workdir: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise UsageError(f"cannot lock {workdir}: {error.strerror}") from error
        holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
        raise RunBusyError(f"process {holder} trains in {workdir}: wait, or stop it") from None
