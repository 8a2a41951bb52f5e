"""Forward parity from recorded PyTorch outputs (tests/golden/make_golden.py), without torch."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from flax_attn.config import ModelConfig
from flax_attn.models import AttnOutput, build_model, functional
from flax_attn.ops.images import normalize
from flax_attn.porting import TABLES, to_flax

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny.npz"
# float32, as in test_parity_forward.py.
FORWARD = 1e-5


def recorded(norm: str, kind: str) -> dict[str, np.ndarray]:
    prefix = f"{norm}/{kind}/"
    with np.load(GOLDEN, allow_pickle=False) as file:
        return {name[len(prefix) :]: file[name] for name in file if name.startswith(prefix)}


def images() -> np.ndarray:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return file["images"]


def evaluate(norm: str, conv: str) -> AttnOutput:
    config = ModelConfig(norm=norm, widths=(4, 8, 8, 8, 8), attn_features=8, conv=conv)
    structure, params, stats = functional.abstract(lambda: build_model(config, num_classes=2))
    weights = recorded(norm, "weights")
    arrays = to_flax(TABLES["attn_vgg"](config.depths), weights, {**params, **stats})

    @jax.jit
    def call(arrays: dict[str, jax.Array], images: jax.Array) -> AttnOutput:
        ours = [{path: arrays[path] for path in part} for part in (params, stats)]
        return functional.merge(structure, *ours)(normalize(images), train=False)

    with jax.default_matmul_precision("highest"):
        return call(arrays, images())


@pytest.mark.parametrize("norm", ["sigmoid", "softmax"])
@pytest.mark.parametrize("conv", ["auto", "exact"])
def test_outputs_equal_the_recorded_ones(norm: str, conv: str) -> None:
    output = evaluate(norm, conv)
    got = {
        **{f"map {name}": x for name, x in output.features._asdict().items()},
        **{f"attention {name}": x for name, x in output.attention.items()},
        **{f"pooled {name}": x for name, x in output.pooled.items()},
        "logits": output.logits,
    }
    expected = recorded(norm, "output")
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].shape == array.shape, name
        error = np.linalg.norm(got[name] - array) / np.linalg.norm(array)
        assert error < FORWARD, f"{name}: {error:.1e}"


def test_file_is_small() -> None:
    assert GOLDEN.stat().st_size < 500_000
