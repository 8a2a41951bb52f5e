"""torchvision's ImageNet weights of VGG16_bn, from PyTorch's cache or its host; needs neither."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from flax_attn.errors import WeightsError
from flax_attn.porting.download import download
from flax_attn.porting.ported_files import remove_stale_partials, sha256_of

NAME = "torchvision VGG16_BN_Weights.IMAGENET1K_V1"
URL = "https://download.pytorch.org/models/vgg16_bn-6c64b313.pth"

# All that torchvision publishes of its SHA-256.
DIGEST = "6c64b313"


def fetch_torchvision(*, say: Callable[[str], None] = print) -> Path:
    """The file in PyTorch's cache, downloaded if it is not there.

    Its whole SHA-256 is verified on every call: it must begin with the digits that torchvision
    publishes, and be the one that the first call wrote beside the file.

    Raises WeightsError if it cannot be had or differs.
    """
    path = cache_folder() / URL.rpartition("/")[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_partials(path.parent)
    except OSError as error:
        raise WeightsError(f"cannot write to {path.parent}: {error.strerror}") from error
    if not path.exists():
        say(f"downloading {URL}")
        download(URL, path, digest=DIGEST)
    found = sha256_of(path)
    expected = _recorded(path) or DIGEST
    if not found.startswith(expected):
        raise WeightsError(
            f"{path} has SHA-256 {found}, expected {expected}: delete it and try again"
        )
    if expected == DIGEST:
        _record(path, found)
    return path


def cache_folder() -> Path:
    """Where PyTorch keeps what it downloads."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> str | None:
    """The digest in the file beside it; anything else in there can be no file's digest."""
    try:
        content = _digest_file(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return (content.split() or ["none"])[0]


def _record(path: Path, digest: str) -> None:
    try:
        _digest_file(path).write_text(f"{digest}  {path.name}\n", encoding="ascii")
    except OSError as error:
        raise WeightsError(f"cannot write {_digest_file(path)}: {error.strerror}") from error
