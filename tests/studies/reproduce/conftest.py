"""What the tests of several sections share."""

from __future__ import annotations

from importlib import import_module

import pytest

SECTIONS = (
    *("spread", "over_epochs", "dogs", "comparison", "versus_grad_cam", "on_the_animal"),
    *("sanity_check", "recognition", "taught_maps", "used_maps"),
)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections without their pictures, and with fewer resamples."""
    monkeypatch.setattr("flax_attn.statistics.RESAMPLES", 400)
    monkeypatch.setattr("flax_attn.statistics.MEASURE_RESAMPLES", 200)
    for section in SECTIONS:
        # Not at the top: settings of JAX are made before anything imports it.
        module = import_module(f"flax_attn.studies.reproduce.sections.{section}")
        for name in ("draw_strips", "animate_strips", "draw_intervals", "draw_curves"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *_, **__: None)
