"""A page that runs the ONNX file in a browser, on photographs that stay there (docs/export.md)."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from flax_attn.figures import colour_table, read_shared
from flax_attn.porting.export.web_runtime import PACKAGE, Runtime
from flax_attn.system.files import sync, write_bytes, write_json, write_text

MODEL_FILE = "model.onnx"
NETWORK_FILE = "network.json"
RUNTIME_FOLDER = "runtime"

TEMPLATE = files("flax_attn.porting.export") / "template"
OWN = ("index.html", "app.css", "app.js", "cards.js", "resample.js", "worker.js")
SHARED = ("theme.css", "scales.js")
NOTICE = "LICENSE.txt"


def write_browser_page(
    folder: Path, *, model: Path, info: Mapping[str, Any], runtime: Runtime
) -> dict[str, Any]:
    """Writes the page to a new folder; returns what ``export.json`` says of it.

    ``model`` is the ONNX file, which the folder shares or copies, and ``info`` what ``export.json``
    says of it.

    Raises:
      OSError: something cannot be written.
    """
    folder.mkdir()
    for name in OWN:
        write_bytes(folder / name, (TEMPLATE / name).read_bytes())
    for name in SHARED:
        write_text(folder / name, read_shared(name))
    (folder / RUNTIME_FOLDER).mkdir()
    for name, content in runtime.files.items():
        write_bytes(folder / RUNTIME_FOLDER / name, content)
    write_bytes(folder / RUNTIME_FOLDER / NOTICE, (TEMPLATE / NOTICE).read_bytes())
    write_json(folder / NETWORK_FILE, describe_network(info))
    _share(model, folder / MODEL_FILE)
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "folder": folder.name,
        "bytes": sum(path.stat().st_size for path in found),
        "runtime": f"{PACKAGE} {runtime.version}",
    }


def describe_network(info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the page must know: parts of ``export.json``, and the colours of maps."""
    colours = base64.b64encode(colour_table().tobytes()).decode("ascii")
    network = {name: info[name] for name in ("classes", "task", "outputs", "thresholds")}
    return {**network, "images": info["inputs"]["images"], "colours": colours}


def _share(source: Path, target: Path) -> None:
    """Gives a file a second name where the file system can, else copies it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        sync(target)
