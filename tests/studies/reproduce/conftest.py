"""What the tests of several sections share."""

from __future__ import annotations

import pytest

from flax_attn import statistics
from flax_attn.studies.reproduce.sections import (
    comparison,
    dogs,
    on_the_animal,
    over_epochs,
    sanity_check,
    spread,
    versus_grad_cam,
)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections without their pictures, and with fewer resamples."""
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    for module in (spread, over_epochs, dogs, comparison, versus_grad_cam, on_the_animal):
        for name in ("draw_strips", "animate_strips", "draw_intervals", "draw_curves"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *_, **__: None)
    monkeypatch.setattr(sanity_check, "draw_intervals", lambda *_, **__: None)
