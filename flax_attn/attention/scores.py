"""Score functions: how well each key matches a query.

A score maps ``query[..., #n, dq]`` and ``keys[..., n, dk]`` to ``scores[..., n]``. The query's
location axis is 1 for a single query, or n for a query of its own at each location. A single
query is projected once, before it meets the keys.

Costs count multiply-adds: n keys, m queries (1 or n), h the hidden size. The names and most
formulas are those of the survey of Brauwers and Frasincar (2023), which the article follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flax_attn.ops.initial_values import scaled_normal

Params = dict[str, Array]

he_normal_init = scaled_normal(2.0, "fan_in")
lecun_normal_init = nnx.initializers.lecun_normal()


class Score(NamedTuple):
    """A function of query and keys that says how well each key matches the query.

    ``init(key, *, dq, dk) -> params`` draws its parameters and raises ValueError where query and
    keys must have one size and do not; the gate projects both to one size, so every score fits it.
    ``apply(params, query, keys) -> scores`` computes the scores. ``needs_query`` says that those of
    a query of zero are the same for all keys.
    """

    init: Callable[..., Params]
    apply: Callable[[Params, Array, Array], Array]
    needs_query: bool = False


def gate() -> Score:
    """Returns the article's gate: ``phi · relu(k + q) + b``.

    Expects query and keys already projected to one size without bias, so that with
    ``k = W_l l`` and ``q = up(W_g g)`` this is Yan, Kawahara and Hamarneh (2019), equation 1.
    ``phi`` is drawn from the untruncated He normal distribution (fan-in); ``b`` starts at 0.
    Cost: n·d.
    """

    def init(key: Array, *, dq: int, dk: int) -> Params:
        require_equal_sizes("gate", dq, dk)
        return {"phi": he_normal_init(key, (dk, 1))[:, 0], "bias": jnp.zeros(())}

    def apply(
        params: Params, query: Float[Array, "... #n d"], keys: Float[Array, "... n d"]
    ) -> Float[Array, "... n"]:
        return jax.nn.relu(keys + query) @ params["phi"] + params["bias"]

    return Score(init, apply)


def additive(*, hidden: int | None = None) -> Score:
    """Returns a network of one hidden layer: ``w · tanh(W1 q + W2 k + b)``; sizes may differ.

    ``hidden`` is the size of w, dk by default. Parameters: ``query_kernel`` [dq, h],
    ``key_kernel`` [dk, h], ``bias`` [h] (0 at first) and ``out`` [h]; weights are LeCun normal.
    Unlike ``gate`` it projects by itself, and its bias stands inside the activation.
    Cost: m·dq·h + n·dk·h, memory n·h.

    Source: Bahdanau, Cho and Bengio (2015), A.1.2 (there without b).
    """

    def init(key: Array, *, dq: int, dk: int) -> Params:
        query_key, key_key, out_key = jax.random.split(key, 3)
        h = hidden or dk
        return {
            "query_kernel": lecun_normal_init(query_key, (dq, h)),
            "key_kernel": lecun_normal_init(key_key, (dk, h)),
            "bias": jnp.zeros(h),
            "out": lecun_normal_init(out_key, (h, 1))[:, 0],
        }

    def apply(
        params: Params, query: Float[Array, "... #n dq"], keys: Float[Array, "... n dk"]
    ) -> Float[Array, "... n"]:
        projected = query @ params["query_kernel"] + params["bias"]  # [..., #n, h]
        return jnp.tanh(keys @ params["key_kernel"] + projected) @ params["out"]

    return Score(init, apply)


def concat(*, hidden: int | None = None) -> Score:
    """Returns one kernel over query and key: ``w · tanh(W [q; k] + b)``; sizes may differ.

    ``W [q; k] = W_q q + W_k k``, so nothing is concatenated: the first dq rows of ``kernel``
    [dq + dk, h] are multiplied with the query, the others with the keys. The functions it can
    express are those of ``additive``; only the initial scale differs (LeCun normal over dq + dk
    inputs instead of each on its own). ``bias`` [h], ``out`` [h]; ``hidden`` is dk by default.
    Cost: m·dq·h + n·dk·h, memory n·h.

    Source: Luong, Pham and Manning (2015), section 3.1 (there without b).
    """

    def init(key: Array, *, dq: int, dk: int) -> Params:
        kernel_key, out_key = jax.random.split(key)
        h = hidden or dk
        return {
            "kernel": lecun_normal_init(kernel_key, (dq + dk, h)),
            "bias": jnp.zeros(h),
            "out": lecun_normal_init(out_key, (h, 1))[:, 0],
        }

    def apply(
        params: Params, query: Float[Array, "... #n dq"], keys: Float[Array, "... n dk"]
    ) -> Float[Array, "... n"]:
        query_kernel, key_kernel = jnp.split(params["kernel"], [query.shape[-1]])
        projected = query @ query_kernel + params["bias"]  # [..., #n, h]
        return jnp.tanh(keys @ key_kernel + projected) @ params["out"]

    return Score(init, apply)


def require_equal_sizes(name: str, dq: int, dk: int) -> None:
    """Checks that query and keys have one size.

    Raises:
      ValueError: they differ in size.
    """
    if dq != dk:
        raise ValueError(
            f"score {name!r} needs query and keys of one size, got {dq} and {dk}: "
            "project them first, or choose a score with a kernel, such as 'general'"
        )


def inner_product(
    a: Float[Array, "... #n d"], b: Float[Array, "... #n d"]
) -> Float[Array, "... n"]:
    """Returns ``a · b`` at each location, one side broadcast where it has a single one.

    It is a product and a sum, which XLA fuses, in full precision on every device; a batched
    ``dot_general`` of vectors is slower and rounds to bfloat16 or TF32 on accelerators.
    """
    return (a * b).sum(-1)


# Vectors shorter than this have no direction.
MIN_NORM = 1e-6


def dot() -> Score:
    """Returns the score ``k · q``, without parameters; sizes must agree.

    It grows as √d for independent entries, so softmax over it saturates early. Cost: n·d.

    Source: Luong, Pham and Manning (2015), section 3.1.
    """
    return _without_parameters("dot", inner_product)._replace(needs_query=True)


def scaled_dot() -> Score:
    """Returns the score ``k · q / √dk``, without parameters; sizes must agree.

    It has unit variance for independent entries of unit variance. Cost: n·d.

    Source: Vaswani et al. (2017), equation 1.
    """

    def scaled(query: Array, keys: Array) -> Array:
        return inner_product(query, keys) / jnp.sqrt(jnp.asarray(keys.shape[-1], keys.dtype))

    return _without_parameters("scaled_dot", scaled)._replace(needs_query=True)


def general() -> Score:
    """Returns the score ``k · W q``, a bilinear form; sizes may differ.

    ``kernel`` [dq, dk] is the transpose of W, drawn with deviation 1 / √(dq·dk), at which
    inputs of unit variance give scores of unit variance. Cost: m·dq·dk + n·dk.

    Source: Luong, Pham and Manning (2015), section 3.1.
    """

    def apply(
        params: Params, query: Float[Array, "... #n dq"], keys: Float[Array, "... n dk"]
    ) -> Float[Array, "... n"]:
        return inner_product(query @ params["kernel"], keys)

    return Score(_init_kernel, apply, needs_query=True)


def biased_general() -> Score:
    """Returns the score ``k · (W q + b)``; sizes may differ.

    The article prints ``k^T W q + b`` with b of size dk, a vector added to a scalar. The
    reading chosen keeps that size: b is added to W q, and ``k · b`` scores a key whatever the
    query. A scalar b would be lost in softmax. ``kernel`` [dq, dk] as in ``general``; ``bias``
    [dk] starts at 0. Cost: m·dq·dk + n·dk.

    Source: Sordoni, Bachman, Trischler and Bengio (2016), where b is added at the same point.
    """
    return Score(_init_kernel_and_bias, _biased)


def activated_general(*, activation: Callable[[Array], Array] = jnp.tanh) -> Score:
    """Returns the score ``act(k · (W q + b))``; sizes may differ.

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
    """Returns the score ``k · q / (|k| |q|)``, in [-1, 1], without parameters; sizes must agree.

    A vector shorter than 1e-6 has no direction: its score is 0 and passes no gradient. Softmax
    over [-1, 1] stays within a factor e²: sharpen it with a temperature below 1. Cost: 2·n·d + m·d.

    Source: Graves, Wayne and Danihelka (2014), section 3.3.1.
    """

    def apply(query: Array, keys: Array) -> Array:
        return inner_product(query, keys) * _inverse_norm(query) * _inverse_norm(keys)

    return _without_parameters("cosine", apply)._replace(needs_query=True)


def neg_euclidean() -> Score:
    """Returns the score ``-|k - q|``, at most 0, without parameters; sizes must agree.

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
