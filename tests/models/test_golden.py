"""Forward parity from recorded PyTorch outputs (tests/golden/make_golden.py), without torch."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from flax_attn.config import ModelConfig
from flax_attn.models import AttnOutput, abstract_model, functional
from flax_attn.ops.images import normalize
from flax_attn.porting import TABLES, to_flax
from tests.helpers.bounds import assert_within, fan_in, rounding

pytestmark = pytest.mark.numerical

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny.npz"


def recorded(norm: str, kind: str) -> dict[str, np.ndarray]:
    prefix = f"{norm}/{kind}/"
    with np.load(GOLDEN, allow_pickle=False) as file:
        return {name[len(prefix) :]: file[name] for name in file if name.startswith(prefix)}


def images() -> np.ndarray:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return file["images"]


def named(output: AttnOutput) -> dict[str, jax.Array]:
    return {
        **{f"map {name}": x for name, x in output.features.items()},
        **{f"attention {name}": x for name, x in output.attention.items()},
        **{f"pooled {name}": x for name, x in output.pooled.items()},
        "logits": output.logits,
    }


@pytest.mark.parametrize("norm", ["sigmoid", "softmax"])
@pytest.mark.parametrize("conv", ["auto", "exact"])
def test_outputs_equal_the_recorded_ones(norm: str, conv: str) -> None:
    config = ModelConfig(norm=norm, widths=(4, 8, 8, 8, 8), attn_features=8, conv=conv)
    structure, params, stats = abstract_model(config, num_classes=2)
    weights = recorded(norm, "weights")
    arrays = to_flax(TABLES["attn_vgg"](config.depths), weights, {**params, **stats})

    @jax.jit
    def call(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
        ours = [{path: arrays[path] for path in part} for part in (params, stats)]
        image = normalize(images(), dtype=arrays["classifier/kernel"].dtype)
        return named(functional.merge(structure, *ours)(image, train=False))

    with jax.default_matmul_precision("highest"):
        got = call(arrays)
        with jax.enable_x64(True):
            _, bound = rounding(call, arrays, terms=fan_in, whole=True)
    # The recorded values are of float32, too.
    bound = {name: 2 * limit for name, limit in bound.items()}
    assert_within(got, recorded(norm, "output"), bound, whole=True)


def test_file_is_small() -> None:
    assert GOLDEN.stat().st_size < 500_000
