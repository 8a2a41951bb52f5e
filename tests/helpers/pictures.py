"""Commands without the drawing of their pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

_OF_RUNS = (
    *(f"training.run_figure.draw_{what}" for what in ("curves", "attention", "strips")),
    *("training.run_figure.animate_strips", "training.judging_figure.draw_ranking"),
    *("training.confidence_figure.draw_reliability", "figures.draw_attention"),
)


def leave_pictures_of_runs_empty(patch: pytest.MonkeyPatch) -> None:
    """What training and evaluation draw are empty files; what is shown is computed nevertheless.

    For files that type many commands: making the axes takes longer than what is shown on them.
    """

    def touch(*arguments: object, **_: object) -> None:
        next(path for path in arguments if isinstance(path, Path)).touch()

    for draw in _OF_RUNS:
        patch.setattr(f"flax_attn.{draw}", touch)


def leave_pictures_empty(patch: pytest.MonkeyPatch) -> None:
    """The same for every command: what others draw with matplotlib is drawn, but not rendered."""
    leave_pictures_of_runs_empty(patch)
    patch.setattr(Figure, "savefig", lambda figure, path, **_: Path(path).touch())
