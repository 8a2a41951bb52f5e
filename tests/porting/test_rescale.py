from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.config import Config
from flax_attn.models import build_model, functional
from flax_attn.models.paths import BACKBONE
from flax_attn.porting.rescale import rescale_stages
from tests.helpers.bounds import chain


def features(structure, arrays: dict[str, jax.Array], params, stats):
    model = functional.merge(
        structure, {**params, **{p: arrays[p] for p in params}}, {p: arrays[p] for p in stats}
    )
    return model.features(jax.random.normal(jax.random.key(1), (2, 64, 64, 3)), train=False)


@pytest.mark.parametrize("scales", [(2, 4, 8, 4, 1), (0.5, 1, 16, 2, 4)])
def test_each_map_is_divided_by_its_own_scale_alone(
    tiny: Config, scales: tuple[float, ...]
) -> None:
    config = tiny.updated(depths=(2, 1, 2, 1, 1))
    structure, params, stats = functional.split(build_model(config.model, num_classes=2))
    rng = np.random.default_rng(0)
    # No array may be at a neutral value: biases and means of 0 would hide what is not scaled.
    arrays = {
        path: np.asarray(a) + rng.uniform(0.1, 0.5, a.shape).astype(np.float32)
        for path, a in {**params, **stats}.items()
    }
    backbone = {path: a for path, a in arrays.items() if path.startswith(BACKBONE)}
    scaled = {**arrays, **rescale_stages(backbone, scales, depths=config.model.depths)}
    before = features(structure, jax.tree.map(jnp.array, arrays), params, stats)
    after = features(structure, jax.tree.map(jnp.array, scaled), params, stats)
    for pooled, pooled_after, scale in zip(before, after, scales, strict=True):
        assert float(jnp.abs(pooled).max()) > 0
        # Seven convolutions of at most 72 summands.
        limit = chain(7, 72) * float(jnp.abs(pooled).max())
        np.testing.assert_allclose(pooled_after * scale, pooled, rtol=0, atol=limit)
    for path in backbone:
        if path.endswith("kernel"):
            np.testing.assert_array_equal(scaled[path], arrays[path])
