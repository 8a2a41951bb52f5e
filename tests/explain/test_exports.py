"""What the room exports, and that maps need no drawing library."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_attn as fa
from flax_attn import explain

SMALL = {"widths": (4, 4, 8, 8, 8), "depths": (1, 1, 1, 1, 1), "attn_features": 8}


@pytest.mark.parametrize("name", explain.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(explain, name) is getattr(explain, name)
    assert name in dir(explain)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="'flax_attn.explain' has no attribute 'magic'"):
        explain.magic  # noqa: B018


def test_maps_do_without_matplotlib() -> None:
    """Of everything that computes; what draws imports it."""
    names = ", ".join(f"explain.{name}" for name in explain.__all__)
    program = (
        "import sys\nfrom flax_attn import explain, statistics\n"
        f"found = ({names})\nprint('matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "False\n"


def test_the_room_imports_nothing_by_itself() -> None:
    program = "import sys, flax_attn.explain\nprint('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "False\n"


def test_maps_of_any_network_of_ours() -> None:
    model = fa.AttnVGG(num_classes=2, norm="softmax", rngs=nnx.Rngs(0), conv="exact", **SMALL)
    forward = explain.forward_of(model)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    chosen = np.array([0, 1])
    maps = explain.grad_cam(forward, images, chosen, "conv5")
    assert maps.shape == (2, 2, 2) and (maps >= 0).all()

    logits = forward(fa.normalize(jnp.asarray(images)))[0]
    expected = model(fa.normalize(jnp.asarray(images)), train=False).logits
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    by_name = explain.METHODS["grad_cam"](
        forward, jnp.asarray(images), jnp.asarray(chosen), "conv5"
    )
    np.testing.assert_array_equal(by_name, maps)
    assert explain.METHODS["grad_cam"].title == "Grad-CAM"
    assert jax.tree.leaves(forward), "its arrays are arguments of what is compiled"
