"""Multiplicative scores and similarities: products of query and keys, with or without a kernel.

Shapes, broadcasting and cost are those of ``scores``.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.attention.scores import Params, Score, inner_product, require_equal_sizes

# Vectors shorter than this have no direction.
MIN_NORM = 1e-6


def dot() -> Score:
    """``k · q``, without parameters; sizes must agree.

    Grows as √d for independent entries, so softmax over it saturates early. Cost: n·d.

    Source: Luong, Pham and Manning (2015), section 3.1.
    """
    return _without_parameters("dot", inner_product)


def scaled_dot() -> Score:
    """``k · q / √dk``, without parameters; sizes must agree.

    Unit variance for independent entries of unit variance. Cost: n·d.

    Source: Vaswani et al. (2017), equation 1.
    """

    def scaled(query: Array, keys: Array) -> Array:
        return inner_product(query, keys) / jnp.sqrt(jnp.asarray(keys.shape[-1], keys.dtype))

    return _without_parameters("scaled_dot", scaled)


def general() -> Score:
    """``k · W q``, a bilinear form; sizes may differ.

    ``kernel`` [dq, dk] is the transpose of W, drawn with deviation 1 / √(dq·dk), at which
    inputs of unit variance give scores of unit variance. Cost: m·dq·dk + n·dk.

    Source: Luong, Pham and Manning (2015), section 3.1.
    """

    def apply(
        params: Params, query: Float[Array, "... #n dq"], keys: Float[Array, "... n dk"]
    ) -> Float[Array, "... n"]:
        return inner_product(query @ params["kernel"], keys)

    return Score(_init_kernel, apply)


def biased_general() -> Score:
    """``k · (W q + b)``; sizes may differ.

    The article prints ``k^T W q + b`` with b of size dk, a vector added to a scalar. The
    reading chosen keeps that size: b is added to W q, and ``k · b`` scores a key whatever the
    query. A scalar b would be lost in softmax. ``kernel`` [dq, dk] as in ``general``; ``bias``
    [dk] starts at 0. Cost: m·dq·dk + n·dk.

    Source: Sordoni, Bachman, Trischler and Bengio (2016), where b has this place.
    """
    return Score(_init_kernel_and_bias, _biased)


def activated_general(*, activation: Callable[[Array], Array] = jnp.tanh) -> Score:
    """``act(k · (W q + b))``; sizes may differ.

    b is read as in ``biased_general``. ``activation`` is tanh, as in the source: relu gives
    every key that matches less than zero the score 0 and no gradient, and under sigmoid no
    weight below a half. tanh bounds scores to [-1, 1] instead: softmax over them gives weights
    within a factor e², so sharpen it with a temperature below 1. Cost: m·dq·dk + n·dk.

    Source: Ma, Li, Zhang and Wang (2017), interactive attention networks (there b is a scalar).
    """

    def apply(
        params: Params, query: Float[Array, "... #n dq"], keys: Float[Array, "... n dk"]
    ) -> Float[Array, "... n"]:
        return activation(_biased(params, query, keys))

    return Score(_init_kernel_and_bias, apply)


def cosine() -> Score:
    """``k · q / (|k| |q|)``, in [-1, 1], without parameters; sizes must agree.

    A vector shorter than 1e-6 has no direction: its score is 0 and passes no gradient. Softmax
    over [-1, 1] stays within a factor e²: sharpen it with a temperature below 1. Cost: 2·n·d + m·d.

    Source: Graves, Wayne and Danihelka (2014), section 3.3.1.
    """

    def apply(query: Array, keys: Array) -> Array:
        return inner_product(query, keys) * _inverse_norm(query) * _inverse_norm(keys)

    return _without_parameters("cosine", apply)


def neg_euclidean() -> Score:
    """``-|k - q|``, at most 0, without parameters; sizes must agree.

    Where key and query coincide the gradient is 0, which is a subgradient. Under sigmoid no
    weight exceeds a half. Cost: n·d.

    Source: Brauwers and Frasincar (2023), similarity scores; the article names the L2 norm.
    """

    def apply(query: Array, keys: Array) -> Array:
        difference = keys - query
        square = inner_product(difference, difference)
        apart = square > jnp.finfo(square.dtype).tiny
        # The inner where keeps the gradient of sqrt finite on the branch not taken.
        return -jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)

    return _without_parameters("neg_euclidean", apply)


def _without_parameters(name: str, of_pair: Callable[[Array, Array], Array]) -> Score:
    def init(key: Array, *, dq: int, dk: int) -> Params:
        del key
        require_equal_sizes(name, dq, dk)
        return {}

    def apply(
        params: Params, query: Float[Array, "... #n d"], keys: Float[Array, "... n d"]
    ) -> Float[Array, "... n"]:
        del params
        return of_pair(query, keys)

    return Score(init, apply)


def _init_kernel(key: Array, *, dq: int, dk: int) -> Params:
    return {"kernel": jax.random.normal(key, (dq, dk)) / jnp.sqrt(dq * dk)}


def _init_kernel_and_bias(key: Array, *, dq: int, dk: int) -> Params:
    return {**_init_kernel(key, dq=dq, dk=dk), "bias": jnp.zeros(dk)}


def _biased(
    params: Params, query: Float[Array, "... #n dq"], keys: Float[Array, "... n dk"]
) -> Float[Array, "... n"]:
    return inner_product(query @ params["kernel"] + params["bias"], keys)


def _inverse_norm(x: Float[Array, "... n d"]) -> Float[Array, "... n"]:
    square = inner_product(x, x)
    long_enough = square > MIN_NORM**2
    return jnp.where(long_enough, jax.lax.rsqrt(jnp.where(long_enough, square, 1)), 0)
