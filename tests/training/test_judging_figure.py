"""The curves of an evaluation against scikit-learn's, and the points on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sklearn import metrics as reference

from flax_attn.figures import COLOURS
from flax_attn.models.tasks import TASKS
from flax_attn.runs.thresholds import Thresholds
from flax_attn.training.judging import EvaluationReport, judge
from flax_attn.training.judging_figure import LINES, draw_ranking

N = 40


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    monkeypatch.setattr("flax_attn.statistics.MEASURE_RESAMPLES", 12)
    return figures


def classes_of(k: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(k)
    labels = np.arange(N) % k
    odds = np.exp(rng.normal(size=(N, k)) + np.eye(k)[labels])
    return labels, odds / odds.sum(-1, keepdims=True)


def draw(
    names: tuple[str, ...], labels: np.ndarray, p: np.ndarray, thresholds: Thresholds | None = None
) -> EvaluationReport:
    task = TASKS["multiclass"]
    report = judge(task, names, p, labels, thresholds=thresholds)
    draw_ranking(report, task.truth(labels, len(names)), p, Path("unused.png"))
    return report


def test_of_two_classes_the_positive_one_has_curves_and_points(drawn: list[Figure]) -> None:
    labels, p = classes_of(2)
    threshold = 0.3
    report = draw(("no", "yes"), labels, p, Thresholds({"yes": threshold}, 3, False))
    roc, precision = drawn[0].axes
    curve, default, chosen, _ = roc.get_lines()
    expected = reference.roc_curve(labels, p[:, 1])
    np.testing.assert_array_equal(curve.get_xydata(), np.stack(expected[:2], 1))
    for marker, cut in ((default, 0.5), (chosen, threshold)):
        said, yes = p[:, 1] > cut, labels == 1
        point = [said[~yes].mean(), said[yes].mean()]
        np.testing.assert_allclose(marker.get_xydata()[0], point)
    assert (default.get_marker(), chosen.get_marker()) == ("o", "D")
    steps, chance, default, chosen = precision.get_lines()
    expected = reference.precision_recall_curve(labels, p[:, 1])
    np.testing.assert_array_equal(steps.get_xydata(), np.stack(expected[1::-1], 1))
    assert set(chance.get_ydata()) == {0.5}
    for marker, cut in ((default, 0.5), (chosen, threshold)):
        said = p[:, 1] > cut
        point = [reference.recall_score(labels, said), reference.precision_score(labels, said)]
        np.testing.assert_allclose(marker.get_xydata()[0], point)
    (entry,) = (text.get_text() for text in drawn[0].legends[0].get_texts())
    auc = report.default.measures["roc_auc"]
    assert f"yes: AUC {auc.estimate:.3f} ({auc.low:.3f} to {auc.high:.3f}), AP " in entry
    said_of_points = [text.get_text() for text in roc.get_legend().get_texts()]
    assert said_of_points[1] == "above 0.3000, chosen on validation"


def test_more_classes_have_a_line_each_until_looks_run_out(drawn: list[Figure]) -> None:
    for k in (3, LINES + 2):
        labels, p = classes_of(k)
        names = tuple(f"a $name$ {j}" for j in range(k))
        draw(names, labels, p)
        roc = drawn[-1].axes[0]
        lines = [line for line in roc.get_lines() if len(line.get_xdata()) > 2]
        assert len(lines) == min(k, LINES)
        looks = {(to_hex(line.get_color()), line.get_linestyle()) for line in lines}
        assert len(looks) == len(lines) and {colour for colour, _ in looks} <= set(COLOURS)
        texts = drawn[-1].legends[0].get_texts()
        assert len(texts) == len(lines) and not any(text.get_parse_math() for text in texts)
    assert "of 2 more classes" in drawn[-1].legends[0].get_title().get_text()


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [1]], ids=["no", "yes", "one image"])
def test_without_both_kinds_of_images_the_picture_says_so(
    drawn: list[Figure], labels: list[int]
) -> None:
    draw(("no", "yes"), np.array(labels), np.full((len(labels), 2), 0.5))
    for axes in drawn[0].axes:
        assert [text.get_text()[:9] for text in axes.texts] == ["undefined"]
    assert drawn[0].legends == []


def test_nothing_said_to_be_there_has_no_precision(drawn: list[Figure]) -> None:
    labels, p = classes_of(2)
    draw(("no", "yes"), labels, np.stack([1 - p[:, 1] / 3, p[:, 1] / 3], 1))
    points = [[line for line in a.get_lines() if line.get_marker() == "o"] for a in drawn[0].axes]
    assert list(map(len, points)) == [1, 0]
