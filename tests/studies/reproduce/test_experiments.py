"""Networks that are compared start from the same weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from flax_attn.errors import CheckpointError
from flax_attn.studies.reproduce.experiments import _require_same_weights
from flax_attn.training.start import Initial

WEIGHTS = {"source": "torchvision", "file": "a.safetensors", "file_sha256": "0" * 64}


def require(**changes: str) -> None:
    trained = SimpleNamespace(run=SimpleNamespace(weights=WEIGHTS))
    start = Initial(lambda params, stats: (params, stats), {**WEIGHTS, **changes})
    _require_same_weights([trained], start, Path("work"))  # type: ignore[list-item]


def test_a_file_of_weights_may_be_renamed() -> None:
    require()
    require(file="b.safetensors")


def test_other_weights_are_refused() -> None:
    with pytest.raises(CheckpointError, match="work holds networks .*file_sha256 was '0"):
        require(file_sha256="1" * 64)
