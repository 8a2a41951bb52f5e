"""What the methods need of a network: logits, and activations that can be perturbed.

``forward_of(model)`` gives it of any network of ``models``; ``network_forward`` of a run's arrays,
under its configuration and in the exact form that pictures are drawn from. Of a network of your
own, pass ``jax.tree_util.Partial(function, arrays)`` with the signature of ``Forward``.

An image is a picture [b, h, w, 3], or a case of several [b, v, h, w, 3]. Activations are those of
all pictures one after the other; what is known of a case beside its pictures is the network's to
carry (``NetworkForward.of_cases``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from flax_attn.config import ModelConfig
from flax_attn.models import Network, abstract_model, functional
from flax_attn.models.functional import Arrays, Structure
from flax_attn.ops.images import normalize

AnyArray = Array | np.ndarray
Images = UInt8[AnyArray, "b *v h w 3"] | Float[AnyArray, "b *v h w 3"]
Activations = Mapping[str, Float[Array, "_ _ _ _"]]


@runtime_checkable
class Forward(Protocol):
    """``forward(image, perturb) -> (logits, activations)`` of normalised images, or cases of them.

    ``perturb`` holds arrays by the name of an activation, added to it within the network. It must
    be a pytree, so that its arrays are arguments of what is compiled and not constants in it:
    ``NetworkForward``, or ``jax.tree_util.Partial(function, arrays)`` for any other network.
    """

    def __call__(
        self, image: Float[Array, "b *v h w 3"], perturb: Activations | None = None
    ) -> tuple[Float[Array, "b k"], Activations]: ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NetworkForward:
    """A network of ours in evaluation mode, from what ``functional.split`` gives.

    Made by ``forward_of`` and ``network_forward``. Other arrays under the same ``structure`` (not
    one built anew) use what was compiled for it.

    ``meta`` are the metadata of the cases that it is given, and ``present`` says which pictures
    each of them has (``of_cases``); None of single pictures without metadata.
    """

    structure: Structure = field(metadata={"static": True})
    params: Arrays
    stats: Arrays
    meta: Float[AnyArray, "b m"] | None = None
    present: Bool[AnyArray, "b v"] | None = None

    def __call__(
        self, image: Float[Array, "b *v h w 3"], perturb: Activations | None = None
    ) -> tuple[Float[Array, "b k"], Activations]:
        model = functional.merge(self.structure, self.params, self.stats)
        output, activations = model.with_activations(
            image, perturb=perturb, meta=self.meta, present=self.present
        )
        return output.logits, activations

    def normalize(self, image: UInt8[AnyArray, "b *v h w 3"]) -> Float[Array, "b *u h w 3"]:
        """Returns bytes as the normalised images that the network takes."""
        model = functional.merge(self.structure, self.params, self.stats)
        return model.normalize(image)

    def of_cases(
        self,
        meta: Float[AnyArray, "b m"] | None = None,
        present: Bool[AnyArray, "b v"] | None = None,
    ) -> NetworkForward:
        """Returns the network for a batch of cases, of which this is known beside their pictures.

        Without ``present`` each case has all pictures.
        """
        return replace(self, meta=meta, present=present)


def forward_of(model: Network) -> NetworkForward:
    """Returns the view of a network that every method takes; its arrays are shared, not copied.

    ``grad_cam(forward_of(model), images, class_index, "conv5")``. Convolutions and arithmetic are
    the model's own: build it with ``conv="exact"`` where maps should not depend on the form that
    is fastest (see ``network_forward``).

    Raises:
      ValueError: (from Flax) the model holds state that is neither parameter nor statistic.
    """
    return NetworkForward(*functional.split(model))


def network_forward(
    config: ModelConfig, params: Arrays, stats: Arrays, *, num_classes: int
) -> NetworkForward:
    """Returns the view of a network from its configuration and arrays.

    Equal configurations share one structure, and so what was compiled for it.

    Its convolutions are XLA's own and in float32, whatever the configuration says. The gradients
    of max pooling and ReLU jump where rounding makes two values change places, which now and then
    moves a map by up to 1e-2; Winograd's form rounds two to three times as coarsely.
    """
    exact = replace(config, conv="exact", precision="f32")
    structure, _, _ = abstract_model(exact, num_classes=num_classes)
    return NetworkForward(structure, params, stats)


class Linearization(NamedTuple):
    """An activation A, and the gradient of each image's class logit in it.

    Those of cases are of all their pictures one after the other.
    """

    activation: Float[Array, "n h w c"]
    gradient: Float[Array, "n h w c"]


def linearize(
    forward: Forward, image: Images, class_index: Int[AnyArray, "b"], stage: str
) -> Linearization:
    """Returns the activation named ``stage`` and the gradient in it, over every path to the logit.

    The gradient is that in a perturbation added to the activation, at zero. Images do not mix in
    evaluation, so that the gradient of the sum of their logits is that of each.

    Raises:
      ValueError: there is no such activation.
    """
    image = normalized(image, forward)
    zero = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(lambda x: _activation(forward, x, stage), image),
    )

    def total(perturbation: Float[Array, "n h w c"]) -> tuple[Array, Array]:
        logits, activations = forward(image, {stage: perturbation})
        return class_logit(logits, class_index).sum(), activations[stage]

    gradient, activation = jax.grad(total, has_aux=True)(zero)
    return Linearization(activation, gradient)


def activation_of(forward: Forward, image: Images, stage: str) -> Float[Array, "n p q c"]:
    """Returns the activation named ``stage``.

    Raises:
      ValueError: there is none.
    """
    return _activation(forward, normalized(image, forward), stage)


def of_places(forward: Forward, places: Int[AnyArray, "n"]) -> Forward:
    """Returns what a method calls with the cases at these places of its batch, in their order.

    Of a network of your own that is the network itself: it has no metadata that go with a place.
    """
    if not isinstance(forward, NetworkForward):
        return forward
    meta, present = forward.meta, forward.present
    return forward.of_cases(
        None if meta is None else jnp.asarray(meta)[places],
        None if present is None else jnp.asarray(present)[places],
    )


def by_case(x: Float[Array, "n ..."], image: Images) -> Float[Array, "b ..."]:
    """Returns what is of all pictures one after the other with the axes of the ``image``."""
    return x.reshape(*image.shape[:-3], *x.shape[1:])


def class_logit(logits: Float[Array, "b k"], class_index: Int[AnyArray, "b"]) -> Float[Array, "b"]:
    """Returns each image's logit of its class; NaN, as its gradient, where it has no such class."""
    classes = jnp.arange(logits.shape[-1])
    exists = (class_index >= 0) & (class_index < len(classes))
    chosen = (classes == class_index[..., None]).astype(logits.dtype)
    return (logits * jnp.where(exists[..., None], chosen, jnp.nan)).sum(-1)


def positive_part(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Applies a ReLU that keeps NaN, which XLA's maximum on a CPU may lose."""
    return jnp.where(x < 0, 0, x)


def normalized(image: Images, forward: object = None) -> Float[Array, "b *u h w 3"]:
    """Normalises bytes; floats are normalised already and come back as they are.

    Those of a network that derives views of its images (``--views``) get an axis for them.

    Bytes are normalised as ``forward`` was trained, if it is a network of ours, else by ImageNet's
    mean and deviation.
    """
    image = jnp.asarray(image)
    if image.dtype != jnp.uint8:
        return image
    return forward.normalize(image) if isinstance(forward, NetworkForward) else normalize(image)


def _activation(
    forward: Forward, image: Float[Array, "b *v h w 3"], stage: str
) -> Float[Array, "n p q c"]:
    activations = forward(image)[1]
    if stage not in activations:
        raise ValueError(f"no activation {stage!r}, expected one of {', '.join(activations)}")
    return activations[stage]
