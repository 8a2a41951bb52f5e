"""What the tests of training share."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from flax_attn.models import backbone
from flax_attn.ops.images import normalize


@pytest.fixture
def double_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Steps in float64, as their arrays are: a network's own images are float32."""
    monkeypatch.setattr(backbone, "normalize", partial(normalize, dtype=jnp.float64))
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield
