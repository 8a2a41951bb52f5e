"""The run directory: ``config.json`` says all that is needed to rebuild the network."""

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

import jax

from flax_attn.config import Config
from flax_attn.errors import CheckpointError, RunBusyError, UsageError
from flax_attn.system.cpu import max_isa, threads
from flax_attn.system.files import write_json, writing

CONFIG_FILE = "config.json"
LOCK_FILE = ".lock"

_PACKAGES = ("flax_attn", "jax", "jaxlib", "flax", "optax", "numpy", "pillow", "llvmlite")
_INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile")


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide the numbers."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # all but the convolutions do without llvmlite
        return "none"


def describe_device() -> str:
    """What decides the last bits of a number beside the program.

    On CPUs these are the instruction set, what XLA is limited to of it, and the number of threads;
    elsewhere the kind. The number of the devices where there are several.
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
    """What ``config.json`` holds."""

    config: Config
    classes: tuple[str, ...]
    data_fingerprint: str
    weights: Mapping[str, str]
    val_fingerprint: str = ""
    versions: Mapping[str, str] = field(default_factory=package_versions)
    device: str = field(default_factory=describe_device)

    def save(self, workdir: Path) -> None:
        """Writes ``config.json``, all or nothing; raises DiskFullError or UsageError."""
        values = {
            "config": self.config.to_json(),
            "classes": list(self.classes),
            "data_fingerprint": self.data_fingerprint,
            "val_fingerprint": self.val_fingerprint,
            "weights": dict(self.weights),
            "versions": dict(self.versions),
            "device": self.device,
        }
        path = workdir / CONFIG_FILE
        with writing(path):
            write_json(path, values)

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
                val_fingerprint=values["val_fingerprint"],
                versions=values["versions"],
                device=values["device"],
            )
        except FileNotFoundError:
            raise CheckpointError(f"no {CONFIG_FILE} in {workdir}: not a run directory") from None
        except (KeyError, ValueError, TypeError, AttributeError, UsageError) as error:
            raise CheckpointError(f"{path} is damaged: {error!r}") from error


def default_workdir(config: Config) -> Path:
    """``runs/<data set>-<model>-<norm>``, the norm only where there are gates."""
    names = [config.data.dataset, config.model.model]
    if config.model.model == "attn_vgg":
        names.append(config.model.norm)
    return Path("runs") / "-".join(names)


def refuse_if_busy(workdir: Path) -> None:
    """Raises RunBusyError when a process trains in ``workdir``; creates nothing.

    To be told so before images are read and weights fetched; ``locked`` decides.
    """
    try:
        file = os.open(workdir / LOCK_FILE, os.O_RDWR)
    except OSError:
        return
    try:
        _take(file, workdir)
    finally:
        os.close(file)


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the run directory for one trainer; made if missing.

    Raises RunBusyError naming the process that holds it, UsageError if it is not writable or
    holds other things than a run.
    """
    with writing(f"in the run directory {workdir}", remedy="or choose another --workdir"):
        workdir.mkdir(parents=True, exist_ok=True)
        _raise_unless_ours(workdir)
        file = os.open(workdir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(file, workdir)
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(file)


def _raise_unless_ours(workdir: Path) -> None:
    names = {path.name for path in workdir.iterdir()}
    if names and not names & {LOCK_FILE, CONFIG_FILE}:
        raise UsageError(
            f"{workdir} is no run directory but holds {len(names)} other files: choose a new "
            "folder for --workdir"
        )


def _take(file: int, workdir: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise UsageError(f"cannot lock {workdir}: {error.strerror}") from error
        holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
        raise RunBusyError(f"process {holder} trains in {workdir}: wait, or stop it") from None
