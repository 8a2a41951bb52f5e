"""What is said of a run's confidence: the temperature of its checkpoint, before and after."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from flax_attn import statistics
from flax_attn.models.tasks import TASKS, Task
from flax_attn.ops.confidence_metrics import BINS
from flax_attn.ops.temperature import LEAST, MOST, calibrate_probability
from flax_attn.runs.load import Restored
from flax_attn.runs.thresholds import Thresholds
from flax_attn.system.json_text import encode_json
from flax_attn.training import confidence_figure
from flax_attn.training.confidence import (
    ConfidenceReport,
    Temperature,
    calibrated,
    choose_temperature,
    judge_confidence,
    stored_temperature,
)
from flax_attn.training.confidence_text import confidence_lines, temperature_line
from flax_attn.training.judging import EvaluationReport, choose_thresholds, judge

ONE, MANY = TASKS["multiclass"], TASKS["multilabel"]
NAMES = ("ant", "bee", "cow")
N = 80

CASES = pytest.mark.parametrize(
    ("task", "k"), [(ONE, 2), (ONE, 3), (MANY, 3)], ids=["two classes", "three classes", "labels"]
)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MEASURE_RESAMPLES", 12)


def example(task: Task, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, their logits, and labels that these know a little of and shout."""
    rng = np.random.default_rng(k)
    labels = rng.integers(k, size=N) if task is ONE else (rng.random((N, k)) < 0.4).astype(int)
    truth = task.truth(labels, k)
    logits = (4 * (rng.normal(size=(N, k)) + truth - 0.5)).astype(np.float32)
    return np.asarray(task.probabilities(logits)), logits, labels


def report_of(task: Task, k: int, value: float | None) -> tuple[EvaluationReport, ConfidenceReport]:
    p, logits, labels = example(task, k)
    found = judge_confidence(task, p, logits, labels, Temperature(value, 7, False))
    chosen = choose_thresholds(task, p, labels)
    columns = [NAMES[j] for j in task.cuts(k)]
    thresholds = Thresholds(dict(zip(columns, chosen, strict=True)), 7, False) if columns else None
    return judge(task, NAMES[:k], p, labels, thresholds=thresholds), found


@CASES
def test_the_temperature_of_these_images_makes_all_better(task: Task, k: int) -> None:
    _, logits, labels = example(task, k)
    value = choose_temperature(task, logits, labels)
    _, found = report_of(task, k, value)
    assert found.after is not None
    before, after = found.before.measures, found.after.measures
    for name, of in before.items():
        assert after[name].estimate < of.estimate
        assert of.low <= of.estimate <= of.high
    written = json.loads(encode_json(found.to_json()))
    assert written["temperature"] == value and written["bins"] == BINS
    assert written["fitted_on"] == "validation images of the run, epoch 7"
    assert written["fitted_on_these_images"] is False
    for name, of in after.items():
        assert written["after"][name] == of.estimate
        assert written["after"]["intervals"][name] == [of.low, of.high]


@CASES
@pytest.mark.parametrize("value", [0.4, 3.0])
def test_decisions_and_their_order_stay(task: Task, k: int, value: float) -> None:
    p, logits, labels = example(task, k)
    said = calibrated(task, p, logits, value)
    np.testing.assert_array_equal(task.decide(said), task.decide(p))
    report, found = report_of(task, k, value)
    now = report.calibrated(found)
    assert now.default == report.default and now.at_threshold == report.at_threshold
    if report.thresholds is None:
        assert now.thresholds is None
        return
    # Those that are said go with the probabilities that are written.
    moved = [now.thresholds.values[NAMES[j]] for j in task.cuts(k)]
    own = [report.thresholds.values[NAMES[j]] for j in task.cuts(k)]
    assert moved == [calibrate_probability(t, value) for t in own] != own
    np.testing.assert_array_equal(task.decide_at(said, moved), task.decide_at(p, own))
    if task is ONE:
        # Of logits whose probabilities do not round to 1 at either temperature.
        mild = [calibrated(task, p, logits / 4, each) for each in (1.0, value)]
        first, second = (task.ranking(of, labels)["roc_auc"] for of in mild)
        assert first == pytest.approx(second, abs=1e-12)


def test_without_a_temperature_nothing_is_done() -> None:
    p, logits, _ = example(ONE, 2)
    assert calibrated(ONE, p, logits, None) is p
    report, found = report_of(ONE, 2, None)
    assert report.calibrated(found).thresholds == report.thresholds
    assert found.after is None
    written = found.to_json()
    for name in ("temperature", "fitted_on", "fitted_on_these_images", "after"):
        assert written[name] is None
    assert len(confidence_lines(found)) == 6


ROWS = {
    "fitted": ({"temperature": 1.5}, 1.5, True),
    "none is best": ({"temperature": math.nan}, None, True),
    "a row from before": ({"val": {}}, None, False),
    "not evaluated": (None, None, False),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_checkpoint_has_its_own_or_none(case: str) -> None:
    row, value, looked_for = ROWS[case]
    checkpoint = Restored(None, {}, {}, 7, 70, row)  # type: ignore[arg-type]
    assert checkpoint.temperature == value
    expected = Temperature(value, 7, True, looked_for)
    assert stored_temperature(checkpoint, own_images=True) == expected


def test_one_line_says_where_it_is_from_or_why_there_is_none() -> None:
    fitted = "fitted on the run's validation images in epoch 7"
    for given, expected in (
        (Temperature(1.5, 7, False), f"confidence: temperature 1.5000, {fitted}"),
        (
            Temperature(1.5, 7, True),
            f"confidence: temperature 1.5000, {fitted}, which are among these: others will look "
            "worse",
        ),
        (
            Temperature(LEAST, 7, False),
            f"confidence: temperature 0.0500, the lowest that is tried, {fitted}",
        ),
        (
            Temperature(MOST, 7, False),
            f"confidence: temperature 20.0000, the highest that is tried, {fitted}",
        ),
        (
            Temperature(None, 7, False),
            "no temperature: the run's validation images have none in epoch 7, as they are all "
            "right, no better than chance, or too few",
        ),
        (
            Temperature(None, 7, False, looked_for=False),
            "no temperature: none was looked for when the checkpoint was made",
        ),
    ):
        assert temperature_line(given) == expected


def test_lines_have_a_column_without_and_one_with_it() -> None:
    _, found = report_of(ONE, 2, 2.0)
    assert found.after is not None
    lines = confidence_lines(found)
    for name, title in (
        ("expected_calibration_error", "calibration error"),
        ("brier_score", "Brier score"),
        ("negative_log_likelihood", "negative log-likelihood"),
    ):
        (line,) = (line for line in lines if line.startswith(title))
        cells = [of.measures[name] for of in (found.before, found.after)]
        texts = [f"{c.estimate:.4f} ({c.low:.4f} to {c.high:.4f})" for c in cells]
        assert line.removeprefix(title).split("  ")[-2:] == texts or all(t in line for t in texts)


@CASES
@pytest.mark.parametrize("value", [None, 2.0], ids=["no temperature", "temperature"])
def test_the_picture_has_the_shares_of_both(
    task: Task, k: int, value: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    report, found = report_of(task, k, value)
    confidence_figure.draw_reliability(report.calibrated(found), "unused.png")  # type: ignore
    count = 1 if value is None else 2
    shares, counts = drawn[0].axes[:count], drawn[0].axes[count:]
    for of, share, below in zip((found.before, found.after), shares, counts, strict=False):
        assert of is not None
        said, right = of.confidences.said.ravel(), of.confidences.right.ravel()
        place = np.clip(np.ceil(said * BINS).astype(int) - 1, 0, BINS - 1)
        held = sorted(set(place.tolist()))
        bars = {round(bar.get_x() * BINS - 0.03): bar.get_height() for bar in share.patches}
        expected = {b: right[place == b].mean() for b in held}
        assert bars == pytest.approx(expected)
        assert [bar.get_height() for bar in below.patches] == [
            (place == b).sum() for b in range(BINS)
        ]
        intervals = [line for line in share.get_lines() if line.get_color() == "black"]
        assert len(intervals) == len(held)
        for b, line in zip(held, intervals, strict=True):
            low, high = line.get_ydata()
            assert 0 <= low <= expected[b] <= high <= 1 and high - low > 0.01
