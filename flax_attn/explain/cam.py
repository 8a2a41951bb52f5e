"""Class activation maps: sums of an activation's channels under weights from its gradient.

Every map is [b, h, w] at the activation's resolution and non-negative. ``stage`` names the
activation (``vgg.LAST_CONVS``) and ``class_index`` each image's class, whose logit is
differentiated; there is no softmax, so that networks with several labels are served alike. A
class the network does not have makes a map of NaN. Images are bytes, or normalised floats.

In the formulas A_k is channel k of the activation, ReLU applied and not yet pooled, and g_k the
gradient of the logit in it.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_attn.explain.forward import Forward, Images, linearize, positive_part


@partial(jax.jit, static_argnames="stage")
def grad_cam(
    forward: Forward, image: Images, class_index: Int[Array, "b"], stage: str
) -> Float[Array, "b h w"]:
    """``ReLU(Σ_k mean_ij(g_kij) A_k)``.

    Source: Selvaraju et al. (2017), equations 1 and 2.
    """
    activation, gradient = linearize(forward, image, class_index, stage)
    return weighted_sum(activation, gradient.mean((1, 2)))


@partial(jax.jit, static_argnames="stage")
def grad_cam_pp(
    forward: Forward,
    image: Images,
    class_index: Int[Array, "b"],
    stage: str,
    *,
    epsilon: float = 0.0,
) -> Float[Array, "b h w"]:
    """Grad-CAM++: ``ReLU(Σ_k w_k A_k)`` with ``w_k = Σ_ij α_kij ReLU(g_kij)``.

    ``α_kij = g² / (2 g² + g³ Σ_ab A_kab + epsilon)`` with g = g_kij. The score of the article is
    the exponential of the logit; that common factor of the weights is left out.

    Where g is positive and A is not negative, the formula needs no ``epsilon``. The PyTorch
    package grad-cam adds 1e-6, which outweighs g² where gradients are below 1e-3: its weights
    then go with g³.

    Source: Chattopadhyay et al. (2018), equation 19 for α.
    """
    activation, gradient = linearize(forward, image, class_index, stage)
    total = activation.sum((1, 2), keepdims=True)
    positive = positive_part(gradient)
    square = jnp.maximum(jnp.square(positive), jnp.finfo(positive.dtype).tiny)
    # α divided by g² above and below: nothing underflows, and no 0 / 0 where g is zero.
    alpha = 1 / (2 + positive * total + epsilon / square)
    return weighted_sum(activation, (alpha * positive).sum((1, 2)))


@partial(jax.jit, static_argnames="stage")
def hires_cam(
    forward: Forward, image: Images, class_index: Int[Array, "b"], stage: str
) -> Float[Array, "b h w"]:
    """``ReLU(Σ_k g_k A_k)``: the product is taken at each location, before any mean.

    The article's map is signed; this is its positive part, as for the other maps.

    Source: Draelos and Carin (2020), Use HiResCAM instead of Grad-CAM.
    """
    activation, gradient = linearize(forward, image, class_index, stage)
    return positive_part((activation * gradient).sum(-1))


def weighted_sum(
    activation: Float[Array, "b h w c"], weights: Float[Array, "b c"]
) -> Float[Array, "b h w"]:
    """``ReLU(Σ_k w_k A_k)``."""
    return positive_part(jnp.einsum("bhwc,bc->bhw", activation, weights, precision="highest"))
