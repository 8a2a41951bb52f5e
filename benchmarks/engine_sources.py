"""Networks for engines of inference: files they read, and what they must compute.

    python -m benchmarks.engine_sources onnx FOLDER --size 224 --batch 8 --backbone vgg16_bn

``onnx`` is our network through our own export, ``ncnn`` its twin in PyTorch through pnnx, for ncnn
has a format and layouts of its own. Both are drawn at random, statistics of the normalisation
included, for fresh ones are all 0 and 1, which hides mistakes. Beside the files lie ``images.npy``,
the batch as the engine takes it, ``logits.npy``, what the source network makes of it, and
``blank.npy``, its logits of pictures without content.

A process of its own writes them, so that an engine's memory is the engine's.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders import model_config, random_batch, torch_network
from benchmarks.inference_engines import ARRAYS, NCNN_FILES, ONNX_FILE
from flax_attn.config import BACKBONES, ModelConfig
from flax_attn.errors import FlaxAttnError
from flax_attn.models import abstract_model, build_model, functional
from flax_attn.porting.export.formats import IMAGES, LOGITS, write_onnx

GREY = 115  # close to the mean of ImageNet


def write_onnx_source(folder: Path, config: ModelConfig, image: np.ndarray) -> None:
    """Writes our network for bytes [b, s, s, 3], of this batch and size alone.

    What it must compute is what "ours" computes, not the form that is exported.
    """

    def logits(conv: str) -> Callable[..., jax.Array]:
        settings = config.replaced(conv=conv)
        structure = abstract_model(settings, num_classes=2)[0]

        def evaluate(
            arrays: tuple[functional.Arrays, functional.Arrays], x: jax.Array
        ) -> jax.Array:
            model = functional.merge(structure, *arrays)
            return model(model.normalize(x), train=False).logits

        return evaluate

    _, params, stats = functional.split(build_model(config, num_classes=2))
    arrays = (drawn(params, seed=1), drawn(stats, seed=2))
    # Images alone are an argument of the file: weights are constants, which engines may pack.
    shapes = {IMAGES: jax.ShapeDtypeStruct(image.shape, image.dtype)}
    exported = logits("exact")
    write_onnx(lambda images: {LOGITS: exported(arrays, images)}, shapes, folder / ONNX_FILE, {})
    ours = jax.jit(logits("auto"))
    _write_arrays(folder, image, ours(arrays, image), ours(arrays, np.full_like(image, GREY)))


def drawn(arrays: functional.Arrays, *, seed: int) -> functional.Arrays:
    """Kernels as they are; biases, scales and running statistics at the scale of trained ones."""
    rng = np.random.default_rng(seed)

    def draw(path: str, array: jax.Array) -> jax.Array:
        last = path.rsplit("/", 1)[-1]
        if last in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, array.shape), array.dtype)
        if last in ("bias", "mean"):
            return jnp.asarray(rng.normal(0, 0.3, array.shape), array.dtype)
        return array

    return {path: draw(path, array) for path, array in arrays.items()}


def write_ncnn_source(folder: Path, backbone: str, image: np.ndarray) -> None:
    """Writes the twin for pictures [3, s, s], normalised already; ncnn takes one at a time.

    Raises:
      FlaxAttnError: pnnx did not convert it.
    """
    import pnnx
    import torch

    from tests.helpers.parity import randomize, torch_images

    class Logits(torch.nn.Module):
        """A traced module returns a tensor, not a tuple of dictionaries."""

        def __init__(self, network: torch.nn.Module):
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x).logits

    network = Logits(randomize(torch_network(backbone), seed=1)).eval()
    x = torch_images(image)
    with torch.no_grad():
        torch.jit.trace(network, x[:1]).save(str(folder / "net.pt"))
        _write_arrays(folder, x.numpy(), network(x).numpy(), network(torch.zeros_like(x)).numpy())
    shape = ",".join(map(str, x[:1].shape))
    command = [pnnx.EXEC_PATH, "net.pt", f"inputshape=[{shape}]f32", "fp16=0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode or not all((folder / file).exists() for file in NCNN_FILES):
        raise FlaxAttnError(f"pnnx ended with {done.returncode}: {done.stderr.strip()[-300:]}")


def _write_arrays(folder: Path, *arrays: object) -> None:
    for file, array in zip(ARRAYS, arrays, strict=True):
        np.save(folder / file, np.ascontiguousarray(array))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("onnx", "ncnn"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--backbone", choices=BACKBONES, default="vgg16_bn")
    args = parser.parse_args()
    image, _ = random_batch(args.size, args.batch)
    if args.kind == "ncnn":
        write_ncnn_source(args.folder, args.backbone, image)
    else:
        write_onnx_source(args.folder, model_config(args.size, backbone=args.backbone), image)


if __name__ == "__main__":
    main()
