"""A first look at compiled kernels, on a few small images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flax_attn.native.compiled import Compiled
from flax_attn.native.convolution import convolve_affine_relu, kernel_gradient


def differences(code: Compiled) -> dict[str, float]:
    """Largest difference to XLA's own convolution, as a share of the largest value, by kernel."""
    rng = np.random.default_rng(0)
    chunk = code.machine.chunk
    x, kernel, g = (
        rng.standard_normal(shape, np.float32)
        for shape in ((2, 5, 6, chunk), (3, 3, chunk, chunk), (2, 5, 6, chunk))
    )
    scale, bias = kernel[0, 0, :2]

    def wanted(
        x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, g: jax.Array
    ) -> tuple:
        def exact(kernel: jax.Array) -> jax.Array:
            layout = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=layout, precision="highest"
            )

        out, vjp = jax.vjp(exact, kernel)
        return jax.nn.relu(out * scale + bias), vjp(g)[0]

    def got(
        x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, g: jax.Array
    ) -> tuple:
        return convolve_affine_relu(code, x, kernel, scale, bias), kernel_gradient(code, x, g)

    def compare(*arrays: jax.Array) -> list[jax.Array]:
        pairs = zip(got(*arrays), wanted(*arrays), strict=True)
        return [jnp.abs(a - b).max() / jnp.abs(b).max() for a, b in pairs]

    processor = jax.local_devices(backend="cpu")[0]
    with jax.ensure_compile_time_eval(), jax.default_device(processor):
        worst = jax.jit(compare)(x, kernel, scale, bias, g)
    return dict(zip(("convolve", "kernel_gradient"), map(float, worst), strict=True))
