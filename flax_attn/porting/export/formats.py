"""The files of an export: each format writes one, and reads it back to be compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from jax import export
from jaxtyping import Array, UInt8

from flax_attn.errors import UsageError
from flax_attn.models import build_model, functional
from flax_attn.models.functional import Arrays
from flax_attn.models.network import Network
from flax_attn.models.tasks import TASKS
from flax_attn.runs.directory import Run
from flax_attn.system.files import write_bytes

INPUT = "images"
LOGITS, PROBABILITIES, ATTENTION = "logits", "probabilities", "attention_"

PLATFORMS = ("cpu", "cuda", "tpu")
# A protobuf message, which an ONNX file is, cannot be larger.
ONNX_LIMIT = 2**31

Outputs = dict[str, Array]
Program = Callable[[UInt8[Array, "b s s 3"]], Outputs]
Loaded = Callable[[UInt8[np.ndarray, "b s s 3"]], dict[str, np.ndarray]]


def network_outputs(
    run: Run, *, conv: Literal["auto", "exact"]
) -> Callable[[Arrays, Arrays, UInt8[Array, "b s s 3"]], Outputs]:
    """Returns ``outputs(params, stats, images)`` in float32, whatever the run computed in.

    ``logits`` and ``probabilities`` [b, k], and ``attention_<map>`` for each gate, with axes for
    classes and heads before the map's where there are several.
    """
    model = replace(run.config.model, conv=conv, precision="f32")
    structure, _, _ = functional.abstract(lambda: build_model(model, num_classes=len(run.classes)))
    task = TASKS[run.config.train.task]

    def outputs(params: Arrays, stats: Arrays, images: UInt8[Array, "b s s 3"]) -> Outputs:
        network: Network = functional.merge(structure, params, stats)
        out = network(network.normalize(images), train=False)
        maps = {ATTENTION + name: value for name, value in out.attention.items()}
        return {LOGITS: out.logits, PROBABILITIES: task.probabilities(out.logits), **maps}

    return outputs


def any_batch(size: int) -> jax.ShapeDtypeStruct:
    """Returns the shape of images of a side, any number of them."""
    (batch,) = export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, size, size, 3), "uint8")


def write_stablehlo(program: Program, size: int, path: Path, about: Mapping[str, str]) -> None:
    """Writes StableHLO with its calling convention, as ``jax.export`` reads it.

    Raises:
      OSError: it cannot be written.
    """
    del about
    exported = export.export(jax.jit(program), platforms=PLATFORMS)(any_batch(size))
    write_bytes(path, bytes(exported.serialize()))


def load_stablehlo(path: Path) -> Loaded:
    """Returns the function of a file, run where JAX runs now."""
    exported = export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(exported.call)
    return lambda images: {name: np.asarray(value) for name, value in call(images).items()}


def write_onnx(program: Program, size: int, path: Path, about: Mapping[str, str]) -> None:
    """Writes one ONNX file.

    Raises:
      UsageError: the network has no ONNX form here, or is larger than ONNX files are.
      OSError: it cannot be written.
    """
    from flax_attn.porting.export.onnx import to_onnx

    model = to_onnx(program, any_batch(size), input_name=INPUT, about=about)
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
    return lambda images: dict(zip(names, session.run(names, {INPUT: images}), strict=True))


class Format(NamedTuple):
    """``write(program, size, path, about)``, and ``load(path)`` as a function on the host."""

    file: str
    write: Callable[[Program, int, Path, Mapping[str, str]], None]
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
