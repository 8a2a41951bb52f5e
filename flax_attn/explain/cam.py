"""Class activation maps: sums of an activation's channels under weights from its gradient.

Every map is [b, h, w] at the activation's resolution and non-negative; of cases of several pictures
[b, v, h, w], each from the gradient of the case's logit in that picture's activation. ``stage``
names the activation (``Family.activations``) and ``class_index`` each image's class, whose logit is
differentiated; there is no softmax, so that networks with several labels are served alike. A
class the network does not have makes a map of NaN. Images are bytes, or normalised floats.

In the formulas A_k is channel k of the activation, ReLU applied and not yet pooled, and g_k the
gradient of the logit in it.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_attn.explain.forward import (
    AnyArray,
    Forward,
    Images,
    activation_of,
    by_case,
    class_logit,
    linearize,
    normalized,
    of_places,
    positive_part,
)
from flax_attn.ops.images import resize_bilinear


def enlarge(maps: Float[Array, "b h w"], size: tuple[int, int]) -> Float[Array, "b H W"]:
    """Enlarges bilinearly with half-pixel centres, as PyTorch's ``align_corners=False``."""
    return resize_bilinear(maps[..., None], size)[..., 0]


def scale_to_unit(maps: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Scales each map from its smallest value, 0, to its largest, 1; a constant map to 0."""
    low = maps.min((-2, -1), keepdims=True)
    extent = maps.max((-2, -1), keepdims=True) - low
    return (maps - low) / jnp.where(extent == 0, 1, extent)


@partial(jax.jit, static_argnames="stage")
def grad_cam(
    forward: Forward, image: Images, class_index: Int[AnyArray, "b"], stage: str
) -> Float[Array, "b *u p q"]:
    """Returns Grad-CAM: ``ReLU(Σ_k mean_ij(g_kij) A_k)``.

    Source: Selvaraju et al. (2017), equations 1 and 2.
    """
    image = normalized(image, forward)
    activation, gradient = linearize(forward, image, class_index, stage)
    return by_case(weighted_sum(activation, gradient.mean((1, 2))), image)


@partial(jax.jit, static_argnames="stage")
def grad_cam_pp(
    forward: Forward,
    image: Images,
    class_index: Int[AnyArray, "b"],
    stage: str,
    *,
    epsilon: float = 0.0,
) -> Float[Array, "b *u p q"]:
    """Returns Grad-CAM++: ``ReLU(Σ_k w_k A_k)`` with ``w_k = Σ_ij α_kij ReLU(g_kij)``.

    ``α_kij = g² / (2 g² + g³ Σ_ab A_kab + epsilon)`` with g = g_kij. The score of the article is
    the exponential of the logit; that common factor of the weights is left out.

    Where g is positive and A is not negative, the formula needs no ``epsilon``. The PyTorch
    package grad-cam adds 1e-6, which outweighs g² where gradients are below 1e-3: its weights
    then go with g³.

    Source: Chattopadhyay et al. (2018), equation 19 for α.
    """
    image = normalized(image, forward)
    activation, gradient = linearize(forward, image, class_index, stage)
    total = activation.sum((1, 2), keepdims=True)
    positive = positive_part(gradient)
    square = jnp.maximum(jnp.square(positive), jnp.finfo(positive.dtype).tiny)
    # α divided by g² above and below: nothing underflows, and no 0 / 0 where g is zero.
    alpha = 1 / (2 + positive * total + epsilon / square)
    return by_case(weighted_sum(activation, (alpha * positive).sum((1, 2))), image)


@partial(jax.jit, static_argnames="stage")
def hires_cam(
    forward: Forward, image: Images, class_index: Int[AnyArray, "b"], stage: str
) -> Float[Array, "b *u p q"]:
    """Returns HiRes-CAM, ``ReLU(Σ_k g_k A_k)``: a product at each location, before any mean.

    The article's map is signed; this is its positive part, as for the other maps.

    Source: Draelos and Carin (2020), Use HiResCAM instead of Grad-CAM.
    """
    image = normalized(image, forward)
    activation, gradient = linearize(forward, image, class_index, stage)
    return by_case(positive_part((activation * gradient).sum(-1)), image)


def weighted_sum(
    activation: Float[Array, "b h w c"], weights: Float[Array, "b c"]
) -> Float[Array, "b h w"]:
    """Returns ``ReLU(Σ_k w_k A_k)``."""
    return positive_part(jnp.einsum("bhwc,bc->bhw", activation, weights, precision="highest"))


def score_cam(
    forward: Forward,
    image: Images,
    class_index: Int[AnyArray, "b"],
    stage: str,
    *,
    batch_size: int = 64,
) -> Float[Array, "b *u p q"]:
    """Returns Score-CAM, ``ReLU(Σ_k softmax_k(s_k) A_k)``; s_k is the logit of ``image · M_k``.

    ``M_k`` is channel k enlarged to the image and scaled to [0, 1]; it multiplies the normalised
    image, so that what it hides turns to ImageNet's mean colour. The score of a blank image, which
    the article subtracts from every s_k, cancels in the softmax.

    One forward pass a channel: the channels are taken in turn, about ``batch_size`` masked images
    at a time, by a loop on the host. A CPU runs convolutions many times slower in a compiled
    loop, and memory stays bounded. Of a case one picture is masked at a time, beside the others as
    they are.

    Source: Wang et al. (2020), section 3 and algorithm 1.
    """
    image = normalized(image, forward)
    cases = by_case(_activation(forward, image, stage), image)
    channels = cases.shape[-1]
    views = math.prod(image.shape[1:-3])
    together = min(channels, max(1, batch_size // math.prod(image.shape[:-3])))
    maps = []
    for view in range(views):
        activation = cases if image.ndim == 4 else cases[:, view]
        scores = [
            _scores(forward, image, class_index, activation, start, view, together=together)
            for start in range(0, channels, together)
        ]
        maps.append(_combine(activation, jnp.concatenate(scores, axis=-1)[:, :channels]))
    return maps[0] if image.ndim == 4 else jnp.stack(maps, axis=1)


_activation = jax.jit(activation_of, static_argnames="stage")


@partial(jax.jit, static_argnames="together")
def _scores(
    forward: Forward,
    image: Images,
    class_index: Int[AnyArray, "b"],
    activation: Float[Array, "b p q c"],
    start: int,
    view: int,
    *,
    together: int,
) -> Float[Array, "b m"]:
    """Logits of the image under ``together`` channels from ``start`` on; the last may overhang.

    The activation, and what it masks, are those of one ``view`` of a case.
    """
    b, *several, h, w, _ = image.shape
    place = start + jnp.arange(together)
    channels = jnp.take(activation, place, axis=-1, mode="clip")
    small = jnp.moveaxis(channels, -1, 1).reshape(b * together, *activation.shape[1:3])
    masks = scale_to_unit(enlarge(small, (h, w))).reshape(b, together, h, w, 1)
    if several:
        masks = jnp.ones((b, together, *several, h, w, 1), masks.dtype).at[:, :, view].set(masks)
    masked = jnp.asarray(image)[:, None] * masks
    repeated = of_places(forward, jnp.repeat(jnp.arange(b), together))
    logits = repeated(masked.reshape(b * together, *several, h, w, 3))[0]
    return class_logit(logits, jnp.repeat(class_index, together)).reshape(b, together)


@jax.jit
def _combine(
    activation: Float[Array, "b h w c"], scores: Float[Array, "b c"]
) -> Float[Array, "b h w"]:
    return weighted_sum(activation, jax.nn.softmax(scores, axis=-1))
