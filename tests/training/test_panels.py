"""What stands beside the maps of a run's images: pictures of a case, their names and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flax_attn.config import Config
from flax_attn.figures import draw_attention
from flax_attn.runs.directory import Run
from flax_attn.runs.run_cases import case_inputs
from flax_attn.training.case_inputs import settle_cases
from flax_attn.training.panels import attention_panels
from flax_attn.training.step import Examples, Prediction
from tests.helpers.case_tables import HEADER, ROWS, open_cases, put_cases

# Of each view another value, so that a map beside a wrong picture is seen.
FIRST, CLINIC = 0.25, 0.75
# Of a probability of 7 / 8.
LOGIT = float(np.log(7))


def said(maps: dict[str, float], views: tuple[float, float] | None) -> Any:
    """A step that answers with constant maps, without any network."""

    def step(params: object, stats: object, batch: Examples) -> tuple[None, Prediction]:
        n = len(batch.mask)
        attention = {name: np.full((n, 4, 4), value) for name, value in maps.items()}
        if views is not None:
            attention["views"] = np.tile(np.array(views), (n, 1, 1))
        probabilities = np.tile([0.875, 0.125], (n, 1))
        logits = np.tile([LOGIT, 0.0], (n, 1))
        return None, Prediction(probabilities, np.zeros(n), attention, logits)  # type: ignore[arg-type]

    return step


@pytest.mark.parametrize(
    ("settings", "maps", "views", "temperature", "titles"),
    [
        pytest.param(
            {"view_merge": "attend"},
            {"first pool3": FIRST, "clinic pool3": CLINIC},
            (0.6, 0.4),
            None,
            ["first (0.60): cat 88%", "clinic (0.40): cat 88%", "first (0.60): cat 88% (is dog)"],
            id="weighed pictures, of which one is missing",
        ),
        pytest.param(
            {"relation": ("rotatory",)},
            {"first pool3 after clinic": FIRST, "clinic pool3": CLINIC},
            None,
            2.0,
            ["first: cat 73%", "clinic: cat 73%", "first: cat 73% (is dog)"],
            id="each picture has maps of its own names, and probabilities are calibrated",
        ),
    ],
)
def test_each_picture_of_a_case_stands_beside_its_own_maps(
    tiny: Config,
    tmp_path: Path,
    settings: dict[str, Any],
    maps: dict[str, float],
    views: tuple[float, float] | None,
    temperature: float | None,
    titles: list[str],
) -> None:
    rows = [*ROWS[:-1], "f.jpg,,45,x,dog,val"]
    data = open_cases(put_cases(tmp_path / "data", rows, HEADER))
    config, metadata = settle_cases(tiny, data.splits["train"])
    run = Run(config.updated(gates=("pool3",), **settings), data.classes, "", {}, metadata=metadata)
    val = data.splits["val"]
    cases = case_inputs(val, run.config, metadata, where="val")
    panels = attention_panels(said(maps, views), {}, {}, val, run, cases, temperature)
    assert [panel.title for panel in panels] == titles
    pictures = [val.image(0)[0], val.image(0)[1], val.image(1)[0]]
    # Under rotatory the first picture's only map is due to the other one, which is missing.
    last = [] if "relation" in settings else [FIRST]
    for panel, picture, values in zip(panels, pictures, ([FIRST], [CLINIC], last), strict=True):
        np.testing.assert_array_equal(panel.image, picture)
        assert all(name.startswith("pool3") for name in panel.attention)
        for shown, value in zip(panel.attention.values(), values, strict=True):
            assert (shown == value).all()
    draw_attention(panels, tmp_path / "attention.png", title="a run of cases")
    assert (tmp_path / "attention.png").stat().st_size
