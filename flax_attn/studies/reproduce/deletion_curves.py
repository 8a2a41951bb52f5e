"""Does a network use what its maps point at? Deletion and insertion, beside two controls."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from flax_attn.explain import measures
from flax_attn.explain.forward import NetworkForward
from flax_attn.explain.measures.faithfulness import deletion, insertion
from flax_attn.studies.reproduce.measure import Maps, full_batches
from flax_attn.studies.reproduce.stages import Stage
from flax_attn.system.console import bar

# The controls, which have not looked at the image.
GAUSSIAN, RANDOM = "gaussian", "random"
CURVES = {"deletion": deletion, "insertion": insertion}

# A random map is as coarse as that of a gate, so that what it removes is connected.
_RANDOM_CELLS = 16


def with_controls(maps: Mapping[str, np.ndarray]) -> Maps:
    """Returns the maps, a Gaussian around the centre, and a map of random cells for each image."""
    count = len(next(iter(maps.values())))
    side = max(each.shape[-1] for each in maps.values())
    drawn = np.random.default_rng(0).random((count, _RANDOM_CELLS, _RANDOM_CELLS), np.float32)
    return {**maps, GAUSSIAN: measures.gaussian(count, (side, side)), RANDOM: drawn}


def areas(
    network: NetworkForward,
    images: UInt8[np.ndarray, "n s s 3"],
    maps: Mapping[str, np.ndarray],
    class_index: Int[np.ndarray, "n"],
    *,
    steps: int,
    batch_size: int,
    text: str,
) -> Stage:
    """Returns the areas under the curves of each map for the images' classes, by ``curve/map``."""

    def predict(image: Float[Array, "b s s 3"]) -> Float[Array, "b k"]:
        return _probabilities(network, image)

    found: dict[str, list[np.ndarray]] = {f"{c}/{m}": [] for m in maps for c in CURVES}
    batches = list(full_batches(len(images), batch_size))
    for wanted, places in bar(batches, len(batches), text):
        pixels = network.normalize(images[places])
        index = jnp.asarray(class_index[places])
        for name, each in maps.items():
            for curve, of in CURVES.items():
                area = of(predict, pixels, jnp.asarray(each[places]), index, steps=steps).area
                found[f"{curve}/{name}"].append(np.asarray(area, np.float64)[:wanted])
    return {name: np.concatenate(parts) for name, parts in found.items()}


@jax.jit
def _probabilities(network: NetworkForward, image: Float[Array, "b s s 3"]) -> Float[Array, "b k"]:
    return jax.nn.softmax(network(image)[0])
