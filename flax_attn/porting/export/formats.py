"""The files of an export: each format writes one, and reads it back to be compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import export
from jaxtyping import Array, Bool, Float32, UInt8

from flax_attn.errors import UsageError
from flax_attn.models import abstract_model, functional
from flax_attn.models.functional import Arrays
from flax_attn.models.network import VIEWS, Network
from flax_attn.models.tasks import TASKS
from flax_attn.runs.directory import Run
from flax_attn.system.files import write_bytes

# The inputs of a file. Images stand first; the others are named when it is called.
IMAGES, META, PRESENT = "images", "meta", "present"
INFO_FILE = "export.json"

LOGITS, PROBABILITIES, ATTENTION = "logits", "probabilities", "attention_"

PLATFORMS = ("cpu", "cuda", "tpu")
# A protobuf message, which an ONNX file is, cannot be larger.
ONNX_LIMIT = 2**31

Outputs = dict[str, Array]
# ``program(images, meta=…, present=…)``, each where the network has it.
Program = Callable[..., Outputs]
Shapes = Mapping[str, jax.ShapeDtypeStruct]
Loaded = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def network_outputs(
    run: Run, *, conv: Literal["auto", "exact"], temperature: float | None = None
) -> Callable[..., Outputs]:
    """Returns ``outputs(params, stats, images, meta, present)``, whatever the run computed in.

    In float32: ``logits`` and ``probabilities`` [b, k], and ``attention_<map>`` for each gate, with
    axes for classes and heads before the map's where there are several; of several pictures that
    a gate joins also their weights, ``views`` [b, v], with an axis for classes before v. The
    probabilities are those of the logits divided by ``temperature``, where there is one.
    """
    model = replace(run.config.model, conv=conv, precision="f32")
    structure, _, _ = abstract_model(model, num_classes=len(run.classes))
    task = TASKS[run.config.train.task]

    def outputs(
        params: Arrays,
        stats: Arrays,
        images: UInt8[Array, "b *v s s 3"],
        meta: Float32[Array, "b m"] | None = None,
        present: Bool[Array, "b v"] | None = None,
    ) -> Outputs:
        network: Network = functional.merge(structure, params, stats)
        out = network(network.normalize(images), train=False, meta=meta, present=present)
        maps = {ATTENTION + name: m for name, m in out.attention.items() if name != VIEWS}
        if VIEWS in out.attention:
            maps[VIEWS] = out.attention[VIEWS][..., 0, :]  # a map of one row
        scaled = out.logits if temperature is None else out.logits / temperature
        return {LOGITS: out.logits, PROBABILITIES: task.probabilities(scaled), **maps}

    return outputs


def input_shapes(run: Run) -> Shapes:
    """Returns the shapes of a network's inputs by name, for any number of images or cases."""
    (batch,) = export.symbolic_shape("batch")
    model, side = run.config.model, run.config.data.image_size
    views = (len(model.view_names),) if model.view_names else ()
    shapes = {IMAGES: jax.ShapeDtypeStruct((batch, *views, side, side, 3), "uint8")}
    if model.meta_features:
        shapes[META] = jax.ShapeDtypeStruct((batch, model.meta_features), "float32")
    if views:
        shapes[PRESENT] = jax.ShapeDtypeStruct((batch, *views), "bool")
    return shapes


def write_stablehlo(program: Program, shapes: Shapes, path: Path, about: Mapping[str, str]) -> None:
    """Writes StableHLO with its calling convention, as ``jax.export`` reads it.

    Raises:
      OSError: it cannot be written.
    """
    del about
    images, beside = split_inputs(shapes)
    exported = export.export(jax.jit(program), platforms=PLATFORMS)(images, **beside)
    write_bytes(path, bytes(exported.serialize()))


def load_stablehlo(path: Path) -> Loaded:
    """Returns the function of a file, run where JAX runs now."""
    exported = export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(exported.call)

    def run(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        images, beside = split_inputs(given)
        return {name: np.asarray(value) for name, value in call(images, **beside).items()}

    return run


def split_inputs(named: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Returns the images of named inputs, and all others by name: as programs are called."""
    return named[IMAGES], {name: value for name, value in named.items() if name != IMAGES}


def write_onnx(program: Program, shapes: Shapes, path: Path, about: Mapping[str, str]) -> None:
    """Writes one ONNX file.

    Raises:
      UsageError: the network has no ONNX form here, or is larger than ONNX files are.
      OSError: it cannot be written.
    """
    from flax_attn.porting.export.onnx import to_onnx

    model = to_onnx(program, shapes, about=about)
    if model.ByteSize() >= ONNX_LIMIT:
        raise UsageError(
            f"export: the network takes {model.ByteSize()} bytes, an ONNX file at most "
            f"{ONNX_LIMIT}; leave onnx out: --export-formats stablehlo"
        )
    write_bytes(path, model.SerializeToString())


def load_onnx(path: Path) -> Loaded:
    """Returns the function of a file, run by onnxruntime on the CPU."""
    # From 1.29 on it reports to its makers unless told otherwise before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(names, dict(given)), strict=True))


class Format(NamedTuple):
    """``write(program, shapes, path, about)``, and ``load(path)`` as a function on the host."""

    file: str
    write: Callable[[Program, Shapes, Path, Mapping[str, str]], None]
    load: Callable[[Path], Loaded]
    needs: tuple[str, ...]


FORMATS: dict[str, Format] = {
    "stablehlo": Format("model.stablehlo", write_stablehlo, load_stablehlo, ("flatbuffers",)),
    "onnx": Format("model.onnx", write_onnx, load_onnx, ("onnx", "onnxruntime")),
}


def require_packages(formats: list[str]) -> None:
    """Checks for the packages that formats need, before anything is computed.

    Raises:
      UsageError: some are missing; they are named.
    """
    missing = [n for name in formats for n in FORMATS[name].needs if find_spec(n) is None]
    if missing:
        raise UsageError(
            f"export needs {', '.join(missing)}: pip install 'flax_attn[export]'"
            + (", or --export-formats stablehlo" if "flatbuffers" not in missing else "")
        )
