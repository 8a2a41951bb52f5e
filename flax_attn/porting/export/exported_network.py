"""Opens what ``flax-attn export`` wrote: the description, and one file of the network."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flax_attn.errors import UsageError, WeightsError
from flax_attn.porting.export.formats import FORMATS, INFO_FILE, Loaded
from flax_attn.system.files import DIGEST, digest_file, fits_digest, reading

_SUFFIXES = {Path(row.file).suffix for row in FORMATS.values()}


class OpenExport(NamedTuple):
    """The content of ``export.json``, and the network as a function on the host."""

    info: Mapping[str, Any]
    call: Loaded
    path: Path


def is_export(path: Path) -> bool:
    """Returns whether a path is a folder of an export, or a file of one by its ending."""
    # Not Path.is_file, which raises where a path cannot be looked at.
    isfile = os.path.isfile
    return isfile(path / INFO_FILE) or (path.suffix in _SUFFIXES and isfile(path))


def open_export(path: Path) -> OpenExport:
    """Opens a folder of an export, or one of its files; of several the first of ``FORMATS``.

    Raises:
      WeightsError: the description or the file is missing or damaged, or cannot be run here.
      UsageError: a package that the file needs is not installed.
    """
    folder = path if path.is_dir() else path.parent
    info = _read_info(folder / INFO_FILE)
    try:
        files = {name: (row["format"], row["sha256"]) for name, row in info["files"].items()}
        found = [row.file for row in FORMATS.values() if row.file in files]
        name = found[0] if path.is_dir() else path.name
        kind, sha256 = files[name]
        load = FORMATS[kind].load
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{folder / INFO_FILE} does not tell of {path.name} ({error!r}): keep the files of an "
            "export together, or export again"
        ) from error
    file = folder / name
    with reading(file, WeightsError, remedy="export again"):
        digest = digest_file(file)
    if digest != sha256:
        raise WeightsError(
            f"{file} is not what was exported: its SHA-256 is {digest[:12]}…, expected "
            f"{str(sha256)[:12]}…; export again"
        )
    try:
        return OpenExport(info, load(file), file)
    except ImportError as error:
        raise UsageError(
            f"{file} needs {error.name}: pip install 'flax_attn[export]', or name another file"
        ) from error
    # The file is whole: what readers raise, each of its own kind, is about versions.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{file} cannot be run here ({reason}): export again with the versions that are "
            "installed"
        ) from error


def _read_info(path: Path) -> Mapping[str, Any]:
    with reading(path, WeightsError, remedy="keep the files of an export together"):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        info = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{path} is damaged ({error}): export again") from error
    if not isinstance(info, dict) or not fits_digest(info):
        raise WeightsError(f"{path} is not what was exported, its {DIGEST} differs: export again")
    return info
