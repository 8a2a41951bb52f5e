"""What is said on the screen of how far probabilities can be trusted."""

from __future__ import annotations

from flax_attn.ops.confidence_metrics import BINS
from flax_attn.ops.temperature import LEAST, MOST
from flax_attn.statistics import Measures, interval_text
from flax_attn.training.confidence import BRIER, ERROR, LIKELIHOOD, ConfidenceReport, Temperature

TITLES = {
    ERROR: "calibration error",
    BRIER: "Brier score",
    LIKELIHOOD: "negative log-likelihood",
}
_TITLE_WIDTH = max(map(len, TITLES.values())) + 2
_CELL_WIDTH = 27


def confidence_lines(report: ConfidenceReport) -> list[str]:
    """Returns where the temperature is from, and a line a measure: without it, and with it."""
    columns: list[tuple[str, Measures]] = [("as the network says", report.before.measures)]
    if report.after is not None:
        columns.append(("at the temperature", report.after.measures))
    header = "".join(f"{title:<{_CELL_WIDTH}}" for title, _ in columns)
    lines = [temperature_line(report.temperature), f"{'':<{_TITLE_WIDTH}}{header}".rstrip()]
    for name, title in TITLES.items():
        cells = "".join(f"{interval_text(of[name]):<{_CELL_WIDTH}}" for _, of in columns)
        lines.append(f"{title:<{_TITLE_WIDTH}}{cells}".rstrip())
    return [*lines, f"(calibration error: expected, over {BINS} bins of equal width)"]


def temperature_line(temperature: Temperature) -> str:
    """Returns what the temperature is and where it is from, or why there is none."""
    value, epoch = temperature.value, temperature.epoch
    if value is None and not temperature.looked_for:
        return "no temperature: none was looked for when the checkpoint was made"
    if value is None:
        return (
            f"no temperature: the run's validation images have none in epoch {epoch}, as they are "
            "all right, no better than chance, or too few"
        )
    bound = {LEAST: ", the lowest that is tried", MOST: ", the highest that is tried"}
    line = (
        f"confidence: temperature {value:.4f}{bound.get(value, '')}, fitted on the run's "
        f"validation images in epoch {epoch}"
    )
    if temperature.own_images:
        line += ", which are among these: others will look worse"
    return line
