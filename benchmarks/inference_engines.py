"""onnxruntime, OpenVINO and ncnn: engines that evaluate, on the CPU, and do not train.

    pip install -e '.[engines]'

Each runs the whole network of its backbone, gates included, in float32, with as many threads as
XLA takes, as its makers ship it: every optimisation that is on by default, and none besides.
onnxruntime and OpenVINO read our own export for this batch and size; normalisation is inside, as
in ours. ncnn reads PyTorch's twin through pnnx. It has no batches: a step takes the pictures of one
in turn, normalised already as PyTorch's are.

In its first step an engine loads and checks its network: the logits of the batch must be those of
its source (``engine_sources``) within ``ERROR_BOUND``, or the comparison ends there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import jax
import numpy as np

from flax_attn.errors import FlaxAttnError
from flax_attn.system.cpu import threads

# Of what the pictures' content changes in the logits. Float32 was off by 1e-7 to 5e-6, ncnn in half
# precision by 1.5e-4 and more, in bfloat16 by 1e-3 and more, and would be found out.
ERROR_BOUND = 5e-5

# What ``engine_sources`` leaves in a folder; pnnx makes its names of that of the traced module.
ONNX_FILE, NCNN_FILES = "net.onnx", ("net.ncnn.param", "net.ncnn.bin")
ARRAYS = ("images.npy", "logits.npy", "blank.npy")

Run = Callable[[], np.ndarray]


def _load_onnxruntime(folder: Path, images: np.ndarray) -> Run:
    # From 1.29 on it reports to its makers unless told otherwise before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 3  # errors
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(folder / ONNX_FILE, options, providers=providers)
    given = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, given)[0]


def _load_openvino(folder: Path, images: np.ndarray) -> Run:
    import openvino

    properties = {
        # For one request at a time, as here: all threads work on it.
        "PERFORMANCE_HINT": "LATENCY",
        # Else bfloat16, where the processor has it.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads(),
        # Else one thread of each physical core, however many are asked for.
        "ENABLE_HYPER_THREADING": True,
    }
    network = openvino.Core().compile_model(folder / ONNX_FILE, "CPU", properties)
    request = network.create_infer_request()
    return lambda: request.infer([images], share_inputs=True, share_outputs=True)[0]


def _load_ncnn(folder: Path, images: np.ndarray) -> Run:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads()
    # On by default where the processor has them. Packing, Winograd, sgemm and the light mode, which
    # frees what is not needed any more, are on by default, too.
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
    param, weights = (str(folder / file) for file in NCNN_FILES)
    net.load_param(param)
    net.load_model(weights)
    # A matrix of ncnn points into the array, which has to stay.
    pictures = [(picture, ncnn.Mat(picture)) for picture in images]

    def logits(picture: ncnn.Mat) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", picture)
        code, out = extractor.extract("out0")
        if code:
            raise FlaxAttnError(f"ncnn ended with {code}")
        return np.array(out)

    return lambda: np.stack([logits(matrix) for _, matrix in pictures])


class Engine(NamedTuple):
    """``load(folder, images)`` makes what runs the network of a ``source`` on these images."""

    source: str
    needs: tuple[str, ...]
    load: Callable[[Path, np.ndarray], Run]


ENGINES = {
    "onnxruntime": Engine("onnx", ("onnx", "onnxruntime"), _load_onnxruntime),
    "openvino": Engine("onnx", ("onnx", "openvino"), _load_openvino),
    "ncnn": Engine("ncnn", ("torch", "torchvision", "pnnx", "ncnn"), _load_ncnn),
}


def why_not(name: str, precision: str) -> str | None:
    """Why a contender cannot take part, and what to do; None where it can."""
    if name not in ENGINES:
        return None
    missing = [package for package in ENGINES[name].needs if find_spec(package) is None]
    if missing:
        return f"{name} needs {', '.join(missing)}: pip install -e '.[engines]'"
    if precision != "f32":
        return f"{name} is compared in float32: leave out --precision {precision}"
    if jax.default_backend() != "cpu":
        return f"{name} runs on the CPU and the others on an accelerator: set JAX_PLATFORMS=cpu"
    return None


def engine_step(name: str, size: int, batch: int, backbone: str) -> Callable[[], None]:
    """A step of evaluation; the first one loads the network and checks its logits.

    Raises:
      FlaxAttnError: the network could not be written for this engine.
    """
    engine = ENGINES[name]
    folder = TemporaryDirectory()
    words = [engine.source, folder.name, "--size", size, "--batch", batch, "--backbone", backbone]
    command = [sys.executable, "-m", "benchmarks.engine_sources", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing was said"]
        raise FlaxAttnError(f"{name} got no network, code {done.returncode}: {said[-1]}")
    loaded: list[Run] = []

    def step() -> None:
        if loaded:
            loaded[0]()
            return
        loaded.append(load(name, Path(folder.name)))
        folder.cleanup()

    return step


def load(name: str, folder: Path) -> Run:
    """Loads the network of a folder and checks it.

    Raises:
      FlaxAttnError: it computes something else.
    """
    images, expected, blank = (np.load(folder / file) for file in ARRAYS)
    run = ENGINES[name].load(folder, images)
    error = relative_error(run(), expected, blank)
    if not error <= ERROR_BOUND:  # NaN neither
        raise FlaxAttnError(
            f"{name} does not compute its network: logits are off by {error:.1e} of what pictures "
            f"change in them, expected at most {ERROR_BOUND:.0e}; try another version of {name}"
        )
    return run


def relative_error(found: np.ndarray, expected: np.ndarray, blank: np.ndarray) -> float:
    """The norm of the difference over that of what pictures change; infinite for other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    found, expected, blank = (np.asarray(x, np.float64) for x in (found, expected, blank))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - blank))
