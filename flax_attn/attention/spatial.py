"""Alignments that depend on where locations lie: ``apply`` needs the map's height and width.

Windows are given as a share of the map's longer side, so that maps of different resolution are
attended over the same part of the image.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.attention.alignments import Alignment, require_positive, require_shape


def local(*, window: float = 0.25, temperature: float = 1.0) -> Alignment:
    """Returns softmax inside a window around a predicted centre, under a Gaussian.

    ``p = Σ_i softmax(e)_i x_i`` is the centre (the soft arg-max: no parameters), with x_i the
    row and column of location i. The window holds the locations at most D = ``window`` × the
    longer side (at least 1) from p in both row and column. Inside it, with σ = D / 2,
    ``a_i ∝ exp(e_i / T - |x_i - p|² / (2σ²))``, elsewhere 0. Sums to one. Differentiable
    through p but for jumps where a location enters the window. Cost: n.

    Luong et al. predict p from the query alone, and multiply softmax by the Gaussian without
    renormalising; renormalised, weights are a convex combination as softmax's are. The centre
    of scores with two peaks lies between them.

    Raises:
      ValueError: hyper-parameters that are not positive, or a map without its shape.

    Source: Luong, Pham and Manning (2015), section 3.2 (local-p), in two dimensions.
    """
    require_positive("window", window)
    require_positive("temperature", temperature)

    def apply(
        scores: Float[Array, "... n"], *, shape: tuple[int, int] | None = None
    ) -> Float[Array, "... n"]:
        height, width = require_shape("local", scores.shape[-1], shape)
        half = max(1.0, window * max(height, width))
        logits = scores / temperature
        places = _places(height, width, scores.dtype)  # [2, n]
        centre = (jax.nn.softmax(logits, axis=-1)[..., None, :] * places).sum(-1)  # [..., 2]
        offset = places - centre[..., None]  # [..., 2, n]
        inside = (jnp.abs(offset) <= half).all(-2)
        gaussian = -(offset**2).sum(-2) / (2 * (half / 2) ** 2)
        return jax.nn.softmax(jnp.where(inside, logits + gaussian, -jnp.inf), axis=-1)

    return Alignment(apply, sums_to_one=True)


def sigmoid_softmax(*, window: float | None = 0.125, temperature: float = 1.0) -> Alignment:
    """Returns sigmoid, which detects, sharpened by softmax: the article's future work.

    ``a_i ∝ σ(e_i) · exp(e_i / T) / mean_{j ∈ W(i)} exp(e_j / T)``, where W(i) holds the
    locations at most D = ``window`` × the longer side, rounded to at least 1, from i in both
    row and column, cut at the border. The sigmoid of a location, which no other location affects,
    detects objects; the softmax, in which a location competes with its neighbours only,
    puts the weight on the best spot of each object, whether others are higher or not. The mean,
    instead of softmax's sum, keeps constant scores uniform at the border.

    Sums to one: the sharpened mask has no bound of its own (up to the size of W), so it is
    renormalised over the map and objects share the attention by their detection. The total
    detection is lost by that, as in softmax.

    ``window=None`` takes W to be the map: ``softmax(e / T + log σ(e))``, softmax masked by
    sigmoid, under which the highest object wins as in softmax. Cost: n·D (the box is separable).

    Raises:
      ValueError: hyper-parameters that are not positive, or a map without its shape.

    Source: the article, section Future Work, which names the idea; the formula is ours.
    """
    require_positive("temperature", temperature)
    if window is not None:
        require_positive("window", window)

    def apply(
        scores: Float[Array, "... n"], *, shape: tuple[int, int] | None = None
    ) -> Float[Array, "... n"]:
        logits = scores / temperature
        sharpened = jax.nn.log_sigmoid(scores) + logits
        if window is not None:
            height, width = require_shape("sigmoid_softmax", scores.shape[-1], shape)
            half = max(1, round(window * max(height, width)))
            grid = logits.reshape(*logits.shape[:-1], height, width)
            neighbours = _log_mean_exp(_log_mean_exp(grid, half).mT, half).mT
            sharpened = sharpened - neighbours.reshape(scores.shape)
        return jax.nn.softmax(sharpened, axis=-1)

    return Alignment(apply, sums_to_one=True)


def _places(height: int, width: int, dtype: jnp.dtype) -> Float[Array, "2 n"]:
    rows, columns = jnp.meshgrid(
        jnp.arange(height, dtype=dtype), jnp.arange(width, dtype=dtype), indexing="ij"
    )
    return jnp.stack([rows.ravel(), columns.ravel()])


def _log_mean_exp(x: Float[Array, "... w"], half: int) -> Float[Array, "... w"]:
    """Returns ``log mean exp`` over the at most ``2 half + 1`` neighbours along the last axis."""
    width = x.shape[-1]
    half = min(half, width - 1)
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(half, half)], constant_values=-jnp.inf)
    shifted = jnp.stack([padded[..., i : i + width] for i in range(2 * half + 1)])
    place = jnp.arange(width)
    count = jnp.minimum(place, half) + jnp.minimum(width - 1 - place, half) + 1
    # Each window has its own maximum, so that none underflows beside a much higher one.
    return jax.nn.logsumexp(shifted, axis=0) - jnp.log(count.astype(x.dtype))
