"""Commands without the drawing of their pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure


def leave_pictures_empty(patch: pytest.MonkeyPatch) -> None:
    """Commands whose pictures are empty files; what a picture shows is computed nevertheless.

    For files that type many commands: making the axes takes longer than what is shown on them.
    """

    def touch(*arguments: object, **_: object) -> None:
        next(path for path in arguments if isinstance(path, Path)).touch()

    for draw in (
        *(f"run_figure.draw_{what}" for what in ("curves", "attention", "strips")),
        *("run_figure.animate_strips", "judging_figure.draw_ranking"),
        "confidence_figure.draw_reliability",
    ):
        patch.setattr(f"flax_attn.training.{draw}", touch)
    patch.setattr(Figure, "savefig", lambda figure, path, **_: Path(path).touch())
