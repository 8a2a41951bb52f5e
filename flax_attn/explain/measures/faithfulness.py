"""Does the network use what a map points at? Pixels removed or shown in the map's order.

Images are bytes, or normalised floats. ``predict`` takes normalised images to class
probabilities, [b, h, w, c] to [b, k]; it is called once for each step with the whole batch, so
pass it compiled, and the same function to every call. Maps of any resolution are resampled
bilinearly to the image; tied pixels count row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from flax_attn.explain.cam import enlarge
from flax_attn.explain.forward import AnyArray, Images, normalized
from flax_attn.explain.measures.imputation import noisy_linear_imputation

# Of the curves that ``measure_faithfulness`` takes: a step is a pass through the network.
STEPS = 16

Predict = Callable[[Float[Array, "b h w c"]], Float[Array, "b k"]]


class Curve(NamedTuple):
    """The class's probability over the share of pixels changed, from 0 to 1, and its area."""

    share: Float[Array, "t"]
    probability: Float[Array, "b t"]
    area: Float[Array, "b"]


class Road(NamedTuple):
    """The class's probability once shares of the pixels are imputed, in both orders.

    ``score`` is the mean difference, least relevant first minus most relevant first, in [-1, 1]:
    positive where the map orders pixels by what the network uses, near 0 for a map at random.
    """

    share: Float[Array, "t"]
    most_relevant_first: Float[Array, "b t"]
    least_relevant_first: Float[Array, "b t"]
    score: Float[Array, "b"]


class Faithfulness(NamedTuple):
    """All curves of the maps of n images, on the host.

    Args:
      shares: the shares of pixels changed [t], by the curve's name.
      probability: the class's probability at each of them [n, t], by the curve's name.
      scores: ``deletion`` and ``insertion``, the areas under these curves, and ``road`` [n].
    """

    shares: Mapping[str, Float[np.ndarray, "t"]]
    probability: Mapping[str, Float[np.ndarray, "n t"]]
    scores: Mapping[str, Float[np.ndarray, "n"]]

    def at(self, places: Sequence[int] | Int[np.ndarray, "m"]) -> Faithfulness:
        """Returns the curves and scores of some of the images."""
        chosen = list(places)
        return Faithfulness(
            self.shares,
            {name: values[chosen] for name, values in self.probability.items()},
            {name: values[chosen] for name, values in self.scores.items()},
        )

    def spread(self, places: Sequence[int], count: int) -> Faithfulness:
        """Returns those of ``count`` images, of which these are at ``places``; NaN elsewhere."""

        def wide(values: Float[np.ndarray, "n *t"]) -> Float[np.ndarray, "m *t"]:
            found = np.full((count, *values.shape[1:]), np.nan)
            found[list(places)] = values
            return found

        return Faithfulness(
            self.shares,
            {name: wide(values) for name, values in self.probability.items()},
            {name: wide(values) for name, values in self.scores.items()},
        )

    @staticmethod
    def join(parts: Sequence[Faithfulness]) -> Faithfulness:
        """Returns the curves and scores of several batches of images as one."""
        first = parts[0]
        return Faithfulness(
            first.shares,
            {k: np.concatenate([p.probability[k] for p in parts]) for k in first.probability},
            {k: np.concatenate([p.scores[k] for p in parts]) for k in first.scores},
        )


def measure_faithfulness(
    predict: Predict,
    image: Images,
    maps: Float[AnyArray, "b hm wm"],
    class_index: Int[AnyArray, "b"],
    *,
    steps: int = STEPS,
    seed: int = 0,
) -> Faithfulness:
    """Takes the curves of ``deletion``, ``insertion`` and ``road``, with their areas and score.

    The noise of ``road`` follows ``seed``: it is the same for every map of the same images.
    """
    removed = deletion(predict, image, maps, class_index, steps=steps)
    shown = insertion(predict, image, maps, class_index, steps=steps)
    imputed = road(predict, image, maps, class_index, key=jax.random.key(seed))
    curves = {
        "deletion": (removed.share, removed.probability),
        "insertion": (shown.share, shown.probability),
        "road, most relevant first": (imputed.share, imputed.most_relevant_first),
        "road, least relevant first": (imputed.share, imputed.least_relevant_first),
    }
    scores = {"deletion": removed.area, "insertion": shown.area, "road": imputed.score}
    return Faithfulness(
        {name: np.asarray(share) for name, (share, _) in curves.items()},
        {name: np.asarray(values, np.float64) for name, (_, values) in curves.items()},
        {name: np.asarray(values, np.float64) for name, values in scores.items()},
    )


def deletion(
    predict: Predict,
    image: Images,
    maps: Float[AnyArray, "b hm wm"],
    class_index: Int[AnyArray, "b"],
    *,
    steps: int = 32,
    baseline: Float[Array, "#b #h #w #c"] | float = 0.0,
) -> Curve:
    """Replaces pixels by ``baseline``, most relevant first: a faithful map has a small area.

    The area is the trapezoidal integral over the share of pixels, from the image itself to the
    baseline. A baseline of 0 is the mean colour of normalised images.

    Source: Petsiuk et al. (2018), RISE, section 4.1.

    Raises:
      ValueError: ``steps`` exceeds the number of pixels.
    """
    image = normalized(image)
    baseline = jnp.broadcast_to(jnp.asarray(baseline, image.dtype), image.shape)
    return _curve(predict, image, baseline, maps, class_index, steps)


def insertion(
    predict: Predict,
    image: Images,
    maps: Float[AnyArray, "b hm wm"],
    class_index: Int[AnyArray, "b"],
    *,
    steps: int = 32,
    baseline: Float[Array, "#b #h #w #c"] | float | None = None,
) -> Curve:
    """Shows pixels on ``baseline``, most relevant first: a faithful map has a large area.

    The baseline is the image under ``gaussian_blur`` unless another is given. Area, errors and
    source as for ``deletion``.
    """
    image = normalized(image)
    if baseline is None:
        baseline = gaussian_blur(image)
    baseline = jnp.broadcast_to(jnp.asarray(baseline, image.dtype), image.shape)
    return _curve(predict, baseline, image, maps, class_index, steps)


def road(
    predict: Predict,
    image: Images,
    maps: Float[AnyArray, "b hm wm"],
    class_index: Int[AnyArray, "b"],
    *,
    key: Key[Array, ""],
    shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    noise: float = 0.01,
) -> Road:
    """Removes and debiases: imputes shares of the pixels from the rest, in both orders.

    Imputed pixels (``noisy_linear_imputation``) keep the image's statistics, where a constant
    baseline leaves a silhouette that the network can read. The same ``key`` gives the same noise
    to every map compared.

    Source: Rong et al. (2022), A consistent and efficient evaluation strategy for attribution
    methods; the score combines its two orders as the ``grad-cam`` package does, without halving.

    Raises:
      ValueError: a share lies outside (0, 1), or there is none.
    """
    if not shares or not all(0 < share < 1 for share in shares):
        raise ValueError(f"shares must lie in (0, 1), got {tuple(shares)}")
    image = normalized(image)
    rank = _rank(maps, image.shape[1:3])
    pixels = image.shape[1] * image.shape[2]
    most: list[Array] = []
    least: list[Array] = []
    for step, share in enumerate(shares):
        count = round(share * pixels)
        keys = jax.random.split(jax.random.fold_in(key, step))
        orders = ((most, rank < count, keys[0]), (least, rank >= pixels - count, keys[1]))
        for curve, removed, noise_key in orders:
            filled = noisy_linear_imputation(noise_key, image, removed, noise=noise)
            curve.append(_of_class(predict(filled), class_index))
    first, last = jnp.stack(most, -1), jnp.stack(least, -1)
    return Road(jnp.asarray(shares), first, last, (last - first).mean(-1))


@partial(jax.jit, static_argnames=("radius",))
def gaussian_blur(
    image: Float[Array, "b h w c"], *, radius: int = 5, sigma: float = 5.0
) -> Float[Array, "b h w c"]:
    """Convolves with a Gaussian of ``sigma`` pixels, cut at ``radius``; borders are repeated.

    The defaults are the 11×11 window and the width of Petsiuk et al. (2018).
    """
    weights = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(image.dtype)
    for axis in (1, 2):
        margin = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(image, margin, mode="edge")
        extent = image.shape[axis]
        shifted = (
            weight * jax.lax.slice_in_dim(padded, i, i + extent, axis=axis)
            for i, weight in enumerate(weights)
        )
        image = sum(shifted, start=jnp.zeros_like(image))
    return image


def _curve(
    predict: Predict,
    before: Float[Array, "b h w c"],
    after: Float[Array, "b h w c"],
    maps: Float[AnyArray, "b hm wm"],
    class_index: Int[AnyArray, "b"],
    steps: int,
) -> Curve:
    """Goes from one image to the other in the map's order."""
    pixels = before.shape[1] * before.shape[2]
    if not 1 <= steps <= pixels:
        raise ValueError(f"steps must lie between 1 and the {pixels} pixels, got {steps}")
    rank = _rank(maps, before.shape[1:3])
    counts = np.linspace(0, pixels, steps + 1).round().astype(np.int32)
    probability = jnp.stack(
        [_of_class(predict(_mix(before, after, rank < n)), class_index) for n in counts], -1
    )
    share = jnp.asarray(counts / pixels, jnp.float32)
    return Curve(share, probability, jnp.trapezoid(probability, share, axis=-1))


@jax.jit
def _mix(
    before: Float[Array, "b h w c"], after: Float[Array, "b h w c"], changed: Bool[Array, "b h w"]
) -> Float[Array, "b h w c"]:
    return jnp.where(changed[..., None], after, before)


def _of_class(probability: Float[Array, "b k"], index: Int[AnyArray, "b"]) -> Float[Array, "b"]:
    return jnp.take_along_axis(probability, index[:, None], axis=-1)[:, 0]


@partial(jax.jit, static_argnames="size")
def _rank(maps: Float[Array, "b h w"], size: tuple[int, int]) -> Int[Array, "b H W"]:
    """How many pixels come before each one, most relevant first."""
    fine = enlarge(maps, size)
    order = jnp.argsort(-fine.reshape(fine.shape[0], -1), axis=-1)
    return jnp.argsort(order, axis=-1).reshape(fine.shape)
