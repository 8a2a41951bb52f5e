"""torchvision's ImageNet weights of VGG16_bn, from PyTorch's cache or its host."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from flax_attn.errors import UsageError, WeightsError
from flax_attn.porting.files import sha256_of
from weights.torch_files import import_torch

NAME = "torchvision VGG16_BN_Weights.IMAGENET1K_V1"

# A server that sends nothing for this long has stalled.
STALL_SECONDS = 30


def fetch_torchvision(*, say: Callable[[str], None] = print) -> Path:
    """The file in PyTorch's cache, downloaded if it is not there.

    Its name holds the first digits of its SHA-256; they are verified on every call, not only
    after the download.

    Raises WeightsError if it cannot be had or differs, UsageError without torchvision.
    """
    torch = import_torch()
    if find_spec("torchvision") is None:
        raise UsageError("--source torchvision needs it: pip install 'flax_attn[torch]'")
    from torchvision.models import VGG16_BN_Weights

    url = VGG16_BN_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    prefix = digest_prefix(path.name)
    if not path.exists():
        say(f"downloading {url}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _socket_timeout(STALL_SECONDS):
                # Writes to a temporary file and renames it once the digest is right.
                torch.hub.download_url_to_file(url, os.fspath(path), prefix, progress=True)
        # OSError covers refused, cut and stalled connections, RuntimeError a wrong digest.
        except (OSError, RuntimeError) as error:
            raise WeightsError(f"cannot download {url} ({error}): try again") from error
    found = sha256_of(path)
    if not found.startswith(prefix):
        raise WeightsError(
            f"{path} has SHA-256 {found}, expected {prefix}…: delete it and try again"
        )
    return path


def digest_prefix(name: str) -> str:
    """The digits of the SHA-256 in a file name such as ``vgg16_bn-6c64b313.pth``."""
    found = re.search(r"-([0-9a-f]{8,})\.pth$", name)
    if found is None:
        raise WeightsError(f"torchvision's file name {name!r} holds no digest: update torchvision")
    return found[1]


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
