"""Every form of the operations on a batch that two devices share, beside one device's.

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m tests.helpers.shared_batch

Prints one JSON object: whether there are compiled kernels, and by operation the largest difference
of its value and of each gradient, as a share of the largest value, and the communication that its
program has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flax_attn.ops import conv3x3, conv3x3_affine_relu, llvm, norm_relu, norm_relu_conv3x3
from flax_attn.ops.conv_stage import AffineConv, conv_stage
from flax_attn.ops.direct import direct3x3
from flax_attn.ops.parts import AXIS
from flax_attn.ops.winograd import winograd3x3
from flax_attn.training.devices import Devices

BATCH, SIDE = 4, 16
COLLECTIVE = re.compile(r" (all-gather|all-to-all|all-reduce|collective-permute)(?:-start)?\(")


def operations(rng: np.random.Generator) -> dict[str, tuple[Callable[..., Any], list[Any]]]:
    """Returns functions by name, with operands of which the first alone is of images."""
    code = llvm.host_kernels()
    c = code.machine.chunk if code is not None else 8
    x = rng.standard_normal((BATCH, SIDE, SIDE, c), np.float32)
    kernel = rng.standard_normal((3, 3, c, c), np.float32)
    scale, bias = rng.standard_normal((2, c), np.float32)

    def normalised(x: Any, scale: Any, bias: Any) -> Any:
        return norm_relu(x, scale, bias, epsilon=1e-5, impl="fast").out

    def convolved(x: Any, scale: Any, bias: Any, kernel: Any) -> Any:
        return norm_relu_conv3x3(x, scale, bias, kernel, epsilon=1e-5, impl="fast").out

    def evaluated(x: Any, kernel: Any, scale: Any, bias: Any) -> Any:
        layers = [AffineConv(kernel, scale, bias), AffineConv(kernel, bias, scale)]
        few = [AffineConv(kernel[:, :, :3], scale, bias), layers[1]]
        both = (conv_stage(x, layers, pooled=False), conv_stage(x[..., :3], few, pooled=True))
        return jnp.concatenate([a.reshape(BATCH, -1) for a in both], axis=1)

    return {
        "convolution": (lambda x, k: conv3x3(x, k, impl="fast"), [x, kernel]),
        "affine": (
            lambda *operands: conv3x3_affine_relu(*operands, impl="fast"),
            [x, kernel, scale, bias],
        ),
        "normalisation": (normalised, [x, scale, bias]),
        "both": (convolved, [x, scale, bias, kernel]),
        # A gradient takes the operations one by one, so that the value alone is of the stage.
        "evaluation": (evaluated, [x, kernel, scale, bias]),
        "direct": (direct3x3, [x[..., :3], kernel[:, :, :3, :4]]),
        "winograd": (winograd3x3, [x[..., :8], kernel[:, :, :8, :8]]),
    }


def compare(devices: Devices, f: Callable[..., Any], operands: list[Any]) -> dict[str, Any]:
    def both(g: Any, *operands: Any) -> Any:
        value, gradients = jax.vjp(f, *operands)
        return value, gradients(g)

    g = np.random.default_rng(1).standard_normal(jax.eval_shape(f, *operands).shape, np.float32)
    wanted = jax.jit(both)(g, *operands)
    x, *rest = operands
    shared = (*devices.share((g, x)), *devices.replicate(tuple(rest)))
    # Results stay where they are computed: to bring them together is the step's affair.
    step = devices.jit(both, out_shardings=None)
    found = step(*shared)
    differences = jax.tree.map(
        lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(b).max()),
        found,
        wanted,
    )
    text = step.lower(*shared).compile().as_text()
    return {
        "difference": max(jax.tree.leaves(differences)),
        "communication": sorted(set(COLLECTIVE.findall(text))),
    }


if __name__ == "__main__":
    devices = Devices(Mesh(jax.devices(), (AXIS,)))
    assert devices.count == 2
    # As in a training: the kernels are built and checked while a step over the mesh is traced.
    found = []
    devices.jit(lambda x: found.append(llvm.host_kernels()) or x)(jnp.zeros(2))
    forms = operations(np.random.default_rng(0))
    said = {name: compare(devices, *form) for name, form in forms.items()}
    print(json.dumps({"compiled": found != [None], "forms": said}))
