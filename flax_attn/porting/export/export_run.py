"""Writes the best checkpoint of a run as files that need no flax_attn (``flax-attn export``)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_attn.config import parse_views, require_pictures_alone
from flax_attn.config.names import PAGE
from flax_attn.data import Split, read_image
from flax_attn.data.dataset import evenly
from flax_attn.errors import UsageError, WeightsError
from flax_attn.models.tasks import TASKS
from flax_attn.porting.export.browser_page import write_browser_page
from flax_attn.porting.export.formats import (
    ATTENTION,
    FORMATS,
    IMAGES,
    INFO_FILE,
    META,
    PLATFORMS,
    PRESENT,
    input_shapes,
    network_outputs,
    require_packages,
    split_inputs,
)
from flax_attn.porting.export.web_runtime import find_runtime
from flax_attn.runs.directory import Run
from flax_attn.runs.load import Restored, restore_best
from flax_attn.runs.run_cases import case_inputs
from flax_attn.runs.thresholds import stored_thresholds
from flax_attn.system.files import digest_file, with_digest, write_json
from flax_attn.system.folders import new_folder, require_free
from flax_attn.system.json_text import encode_json

_log = logging.getLogger(__name__)

CHECKED_IMAGES = 8
# Of the largest value of an output: a hundred times what rounding makes of it in float32, with
# Winograd's convolutions on one side, and far below what a wrong operator makes of it.
TOLERANCE = 1e-4


def export_run(
    run: Run,
    split: Split,
    *,
    workdir: Path,
    out: Path,
    formats: Sequence[str],
    flag: str = "--out",
    runtime: Path | None = None,
) -> dict[str, Any]:
    """Writes the best checkpoint of a run to a new folder; returns what ``export.json`` says.

    Every file is read back and compared with the network on images or cases of ``split``, all
    together and one alone. The folder appears when all have passed. ``flag`` names it in messages.
    The format "page" is a page in the browser for the ONNX file, which comes with it; its
    ``runtime`` is a folder of onnxruntime-web, by default downloaded.

    Raises:
      UsageError: ``out`` holds something or cannot be written, or the network or installation
        does not allow a format, or ``runtime`` is not as it should be.
      WeightsError: a file differs from the network, or the runtime cannot be downloaded.
      DataError: the cases are not such as the run was trained on (``case_inputs``).
      CheckpointError: there is no checkpoint, or it does not fit.
      DiskFullError: no space is left for ``out``.
    """
    has_page = PAGE in formats
    formats = [name for name in FORMATS if name in formats or (has_page and name == "onnx")]
    require_packages(formats)
    require_free(out, flag=flag)
    if has_page:
        require_pictures_alone(run.config.model, "the page")
        if run.config.model.views:
            raise UsageError(
                "the page shows maps over the photograph, and this network has maps of its --views "
                f"{run.config.model.views}: leave page out of --export-formats"
            )
    web_runtime = find_runtime(runtime) if has_page else None
    given = _compared(run, split)
    images, beside = split_inputs(given)
    best = restore_best(run, workdir)
    # On accelerators the default precision is less than float32's.
    with jax.default_matmul_precision("highest"), new_folder(out) as folder:
        outputs = partial(network_outputs, run, temperature=best.temperature)
        network = jax.jit(outputs(conv=run.config.model.conv))
        expected = {
            name: np.asarray(value)
            for name, value in network(best.params, best.stats, images, **beside).items()
        }
        program = partial(outputs(conv="exact"), best.params, best.stats)
        info = {
            **_describe(run, expected),
            "thresholds": _thresholds(run, best),
            "temperature": best.temperature,
            "epoch": best.epoch,
            "step": best.step,
            "row": best.row,
        }
        about = {name: encode_json(value) for name, value in info.items()}
        info["files"] = {}
        for name in formats:
            path = folder / FORMATS[name].file
            FORMATS[name].write(program, input_shapes(run), path, about)
            differences = _compare(name, path, given, expected)
            info["files"][path.name] = {
                "format": name,
                "bytes": path.stat().st_size,
                "sha256": digest_file(path),
                "relative_difference": differences,
            }
            _log.info(
                f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, differs from the network "
                f"by at most {max(differences.values()):.1e} of the largest value"
            )
        if web_runtime is not None:
            model = folder / FORMATS["onnx"].file
            page = write_browser_page(folder / PAGE, model=model, info=info, runtime=web_runtime)
            info["page"] = page
        write_json(folder / INFO_FILE, with_digest(info))
    _log.info(f"wrote {', '.join(info['files'])} and {INFO_FILE} to {out}")
    if web_runtime is not None:
        _log.info(
            f"wrote {out / PAGE} ({page['bytes'] / 1e6:.1f} MB); see it at http://localhost:8000 "
            f"with: python -m http.server --directory {out / PAGE}"
        )
    return info


def _thresholds(run: Run, best: Restored) -> dict[str, float]:
    """Returns the thresholds that there are, as they are laid to the probabilities of the files."""
    found = stored_thresholds(TASKS[run.config.train.task], run.classes, best)
    return {} if found is None else found.calibrated(best.temperature).known


def _compared(run: Run, split: Split) -> dict[str, np.ndarray]:
    """Returns inputs of the network: a few, evenly spread over the split, and so over its classes.

    Of cases of several pictures the later half has the first alone: missing ones count, too.

    Raises:
      DataError: the cases are not such as the run was trained on.
    """
    places = evenly(len(split.labels), CHECKED_IMAGES)
    cases = case_inputs(split, run.config, run.metadata, where="export")
    images, found = zip(*(read_image(split, place) for place in places), strict=True)
    meta, present = cases.take(np.array(found))
    given = {IMAGES: np.stack(images)}
    if meta is not None:
        given[META] = meta
    if present is not None:
        later = np.arange(len(present))[:, None] >= -(-len(present) // 2)
        given[PRESENT] = present & ~(later & (np.arange(present.shape[1]) > 0))
    return given


def _describe(run: Run, expected: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns what a user of the files must know."""
    model = run.config.model
    said = _describe_inputs(run)
    return {
        "inputs": {
            name: {
                "dtype": str(shape.dtype),
                "shape": ["batch", *shape.shape[1:]],
                **said[name],
            }
            for name, shape in input_shapes(run).items()
        },
        "outputs": {
            name: {
                "dtype": str(value.dtype),
                "shape": ["batch", *value.shape[1:]],
                **({"axes": _axes_of_maps(run)} if name.startswith(ATTENTION) else {}),
            }
            for name, value in expected.items()
        },
        "classes": list(run.classes),
        "task": run.config.train.task,
        "network": {"model": model.model, "norm": model.norm, "score": model.score},
        "maps": {
            "heads": model.heads,
            "per_class": model.per_class,
            **({"views": model.views} if model.views else {}),
        },
        "platforms": list(PLATFORMS),
        "versions": {name: version(name) for name in ("flax_attn", "jax", "jaxlib", "flax")},
    }


def _axes_of_maps(run: Run) -> list[str]:
    """Returns what the axes of maps stand for."""
    model = run.config.model
    of_class = ["class"] if model.per_class and len(run.classes) > 1 else []
    of_head = ["head"] if model.heads > 1 else []
    return ["batch", *of_class, *of_head, "row", "column"]


def _describe_inputs(run: Run) -> dict[str, dict[str, Any]]:
    """Returns what a user must know of each input beside its shape."""
    data, metadata, views = run.config.data, run.metadata, list(run.config.model.view_names)
    derived = list(parse_views(run.config.model.views).names)
    framing = {"centre_crop": data.centre_crop, "crop_margin": data.crop_margin}
    images = {
        "channels": "RGB",
        "resize": data.resize,
        **{k: v for k, v in framing.items() if v},
        "normalised": "inside the model",
        **({"views": views} if views else {}),
        **({"derived_views": derived} if derived else {}),
    }
    if metadata is None:
        return {IMAGES: images, PRESENT: {"views": views}}
    meta = {"features": list(metadata.features), "columns": metadata.to_json()}
    return {IMAGES: images, META: meta, PRESENT: {"views": views}}


def _compare(
    name: str, path: Path, given: dict[str, np.ndarray], expected: dict[str, np.ndarray]
) -> dict[str, float]:
    """Returns the largest difference of each output, relative to its largest value.

    Raises:
      WeightsError: one is over the tolerance, not finite or of another shape.
    """
    run = FORMATS[name].load(path)
    differences = dict.fromkeys(expected, 0.0)
    for part in (slice(None), slice(0, 1)):
        got = run({name: value[part] for name, value in given.items()})
        for output, value in expected.items():
            if got[output].shape != value[part].shape:
                shapes = f"{got[output].shape}, expected {value[part].shape}"
                raise WeightsError(f"export: {path.name} gives {output} {shapes}; nothing kept")
            # Maps of a picture that all cases lack are zero.
            largest = np.abs(value).max() or 1.0
            difference = np.abs(got[output] - value[part]).max() / largest
            differences[output] = max(differences[output], float(difference))
            if not difference <= TOLERANCE:
                raise WeightsError(
                    f"export: {path.name} differs from the network by {difference:.1e} of the "
                    f"largest value of {output}, at most {TOLERANCE:.0e} is allowed; nothing kept"
                )
    return differences
