"""Maps of the image's own pixels, from the gradient of a class's logit in the normalised image.

The signature is that of ``cam``, so that the methods share a table, but ``stage`` is not read:
the maps are [b, h, w] at the image's resolution, of cases of several pictures [b, v, h, w]. They
are non-negative; a class the network does not have makes a map of NaN. Images are bytes, or
normalised floats.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flax_attn.explain.forward import (
    AnyArray,
    Forward,
    Images,
    class_logit,
    normalized,
    of_places,
    positive_part,
)


def input_gradients(
    forward: Forward, image: Images, class_index: Int[AnyArray, "b"], stage: str = "image"
) -> Float[Array, "b *u h w"]:
    """Returns the largest ``|∂ logit / ∂ x|`` of a pixel's three colours.

    Source: Simonyan, Vedaldi and Zisserman (2014), section 3.1.
    """
    del stage
    return _largest_change(forward, image, class_index)


def integrated_gradients(
    forward: Forward,
    image: Images,
    class_index: Int[AnyArray, "b"],
    stage: str = "image",
    *,
    baseline: Float[Array, "*b h w 3"] | Float[Array, ""] | float = 0.0,
    steps: int = 32,
    batch_size: int = 32,
) -> Float[Array, "b *u h w"]:
    """Returns what speaks for the class: the positive part of ``attributions`` over the colours.

    Parameters and source are those of ``attributions``.
    """
    del stage
    signed = attributions(
        forward, image, class_index, baseline=baseline, steps=steps, batch_size=batch_size
    )
    return positive_part(signed.sum(-1))


def attributions(
    forward: Forward,
    image: Images,
    class_index: Int[AnyArray, "b"],
    *,
    baseline: Float[Array, "*b h w 3"] | Float[Array, ""] | float = 0.0,
    steps: int = 32,
    batch_size: int = 32,
) -> Float[Array, "b *u h w 3"]:
    """Returns integrated gradients ``(x - x') ∫₀¹ ∂ logit(x' + t (x - x')) / ∂ x dt``, signed.

    x is the normalised image and x' the ``baseline``, by default zero: ImageNet's mean colour.
    Their sum over an image is the logit of x less that of x', up to the error of the quadrature
    (Gauss and Legendre's, with ``steps`` nodes); the pictures of a case leave the baseline
    together, and the sum is over all of them. About ``batch_size`` images are differentiated at
    a time, by a loop on the host, as in ``score_cam``.

    Source: Sundararajan, Taly and Yan (2017), equation 1.
    """
    image = normalized(image, forward)
    together = min(steps, max(1, batch_size // math.prod(image.shape[:-3])))
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    # From [-1, 1] to [0, 1]; nodes of weight zero fill the last round up.
    overhang = (0, -steps % together)
    nodes, weights = np.pad((nodes + 1) / 2, overhang), np.pad(weights / 2, overhang)
    total = jnp.zeros(image.shape)
    for i in range(0, len(nodes), together):
        part = slice(i, i + together)
        total += _integrate(forward, image, class_index, baseline, nodes[part], weights[part])
    return total


def _gradient(
    forward: Forward, image: Float[Array, "b *v h w 3"], class_index: Int[AnyArray, "b"]
) -> Float[Array, "b *v h w 3"]:
    return jax.grad(lambda x: class_logit(forward(x)[0], class_index).sum())(image)


@jax.jit
def _largest_change(
    forward: Forward, image: Images, class_index: Int[AnyArray, "b"]
) -> Float[Array, "b *u h w"]:
    red, green, blue = jnp.unstack(
        jnp.abs(_gradient(forward, normalized(image, forward), class_index)), axis=-1
    )
    # Not maximum or max, which may lose NaN: see ``positive_part``.
    larger = jnp.where(red > green, red, green)
    return jnp.where(larger > blue, larger, blue)


@jax.jit
def _integrate(
    forward: Forward,
    image: Images,
    class_index: Int[AnyArray, "b"],
    baseline: Float[Array, "*b h w 3"] | Float[Array, ""] | float,
    nodes: Float[Array, "m"],
    weights: Float[Array, "m"],
) -> Float[Array, "b *v h w 3"]:
    """The part of the attributions from these nodes."""
    end = normalized(image, forward)
    along = end - baseline
    t = nodes.astype(end.dtype).reshape(-1, *(1 for _ in end.shape))
    path = (baseline + t * along).reshape(-1, *end.shape[1:])  # [m * b, *v, h, w, 3]
    repeated = of_places(forward, jnp.tile(jnp.arange(len(end)), len(nodes)))
    gradients = _gradient(repeated, path, jnp.tile(class_index, len(nodes)))
    mean = jnp.tensordot(
        weights.astype(end.dtype),
        gradients.reshape(len(nodes), *end.shape),
        axes=1,
        precision="highest",
    )
    return along * mean
