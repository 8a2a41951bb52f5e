"""Score-CAM: channels weighted by what the network says of the image seen through them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flax_attn.explain.cam import weighted_sum
from flax_attn.explain.forward import Forward, Images, activation_of, class_logit, normalized
from flax_attn.explain.scaling import enlarge, scale_to_unit


def score_cam(
    forward: Forward,
    image: Images,
    class_index: Int[Array, "b"],
    stage: str,
    *,
    batch_size: int = 64,
) -> Float[Array, "b h w"]:
    """``ReLU(Σ_k softmax_k(s_k) A_k)``, where s_k is the logit of ``image · M_k``.

    ``M_k`` is channel k enlarged to the image and scaled to [0, 1]; it multiplies the normalised
    image, so that what it hides turns to ImageNet's mean colour. The score of a blank image, which
    the article subtracts from every s_k, cancels in the softmax.

    One forward pass a channel: the channels are taken in turn, about ``batch_size`` masked images
    at a time, by a loop on the host. A CPU runs convolutions many times slower in a compiled
    loop, and memory stays bounded. The other promises are those of ``cam``.

    Source: Wang et al. (2020), section 3 and algorithm 1.
    """
    activation = _activation(forward, image, stage)
    channels = activation.shape[-1]
    together = min(channels, max(1, batch_size // len(image)))
    scores = [
        _scores(forward, image, class_index, activation, start, together=together)
        for start in range(0, channels, together)
    ]
    return _combine(activation, jnp.concatenate(scores, axis=-1)[:, :channels])


_activation = jax.jit(activation_of, static_argnames="stage")


@partial(jax.jit, static_argnames="together")
def _scores(
    forward: Forward,
    image: Images,
    class_index: Int[Array, "b"],
    activation: Float[Array, "b h w c"],
    start: int,
    *,
    together: int,
) -> Float[Array, "b m"]:
    """Logits of the image under ``together`` channels from ``start`` on; the last may overhang."""
    b, h, w, _ = image.shape
    place = start + jnp.arange(together)
    channels = jnp.take(activation, place, axis=-1, mode="clip")
    small = jnp.moveaxis(channels, -1, 1).reshape(b * together, *activation.shape[1:3])
    masks = scale_to_unit(enlarge(small, (h, w))).reshape(b, together, h, w, 1)
    masked = normalized(image)[:, None] * masks
    logits = forward(masked.reshape(b * together, h, w, 3))[0]
    return class_logit(logits, jnp.repeat(class_index, together)).reshape(b, together)


@jax.jit
def _combine(
    activation: Float[Array, "b h w c"], scores: Float[Array, "b c"]
) -> Float[Array, "b h w"]:
    return weighted_sum(activation, jax.nn.softmax(scores, axis=-1))
