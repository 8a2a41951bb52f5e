"""Methods on cases of several pictures: each picture's map is that of the picture by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from flax_attn.explain.forward import NetworkForward
from flax_attn.explain.methods import METHODS

B, V, SIDE, K = 2, 3, 4, 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LinearCases(NetworkForward):
    """The logits are sums over the pictures that are there, each weighed by its case's metadata."""

    def __call__(self, image: Array, perturb: Any = None) -> tuple[Array, dict[str, Array]]:
        assert self.meta is not None and self.present is not None
        flat = image.reshape(-1, *image.shape[-3:])
        flat = jax.nn.relu(flat) + (0 if perturb is None else perturb["a"])
        means = flat.mean((1, 2)).reshape(*image.shape[:2], -1)  # [b, v, c]
        factor = jnp.where(jnp.asarray(self.present), jnp.asarray(self.meta), 0)
        logits = jnp.einsum("bvc,bv,vck->bk", means, factor, self.params["weight"])
        return logits, {"a": flat}


def of_one(weight: Array, image: Array, perturb: Any = None) -> tuple[Array, dict[str, Array]]:
    """The same of a single picture, whose weight [c, k] holds the factor."""
    a = jax.nn.relu(image) + (0 if perturb is None else perturb["a"])
    return a.mean((1, 2)) @ weight, {"a": a}


@pytest.mark.parametrize("name", METHODS)
def test_a_picture_has_the_map_that_it_has_by_itself(name: str) -> None:
    """The other pictures add a constant to its logit, which no method depends on."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(B, V, SIDE, SIDE, 3)).astype(np.float32)
    weight = rng.normal(size=(V, 3, K)).astype(np.float32)
    meta = rng.uniform(0.5, 3, size=(B, V)).astype(np.float32)
    present = np.array([[True, True, True], [True, False, True]])
    index = np.array([1, 0])
    network = LinearCases(None, {"weight": jnp.asarray(weight)}, {}).of_cases(meta, present)  # type: ignore[arg-type]
    # Less than the channels, or the steps, of a batch at a time, so that cases are repeated.
    options = {"batch_size": 12} if name in ("score_cam", "integrated_gradients") else {}
    found = METHODS[name](network, images, index, "a", **options)
    assert found.shape == (B, V, SIDE, SIDE)
    for b in range(B):
        for v in range(V):
            factor = meta[b, v] if present[b, v] else 0
            forward = jax.tree_util.Partial(of_one, jnp.asarray(weight[v] * factor))
            alone = METHODS[name](forward, images[b : b + 1, v], index[b : b + 1], "a")
            np.testing.assert_allclose(found[b, v], alone[0], rtol=1e-4, atol=1e-6)
    if name != "score_cam":  # where all scores are the same, it is the sum of the channels
        assert not np.asarray(found[1, 1]).any() and np.asarray(found[1, 2]).any()
