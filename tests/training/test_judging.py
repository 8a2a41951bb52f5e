"""What is said of decisions: against scikit-learn and a bootstrap by hand, or without a value."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn import metrics as reference

from flax_attn import statistics
from flax_attn.models.tasks import TASKS, Task
from flax_attn.runs.thresholds import Thresholds
from flax_attn.statistics import wilson
from flax_attn.system.json_text import encode_json
from flax_attn.training.judging import (
    DECIDED,
    RANKED,
    EvaluationReport,
    Judgement,
    choose_thresholds,
    judge,
)
from flax_attn.training.judging_text import report_lines

N, RESAMPLES = 60, 12
NAMES = ("ant", "bee", "cow")
ONE, MANY = TASKS["multiclass"], TASKS["multilabel"]


def example(task: Task, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that know a little of them."""
    rng = np.random.default_rng(k)
    if task is ONE:
        labels = rng.choice(k, N, p=np.arange(k, 0, -1) / np.arange(k, 0, -1).sum())
        logits = rng.normal(size=(N, k)) + 1.5 * np.eye(k)[labels]
        odds = np.exp(logits)
        return labels, (odds / odds.sum(-1, keepdims=True)).astype(np.float32)
    labels = (rng.random((N, k)) < 0.3).astype(int)
    return labels, (1 / (1 + np.exp(-rng.normal(size=(N, k)) - 2 * labels + 1))).astype(np.float32)


def said_of(task: Task, k: int, labels: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """The same measures by scikit-learn."""
    if task is ONE:
        said, columns = p.argmax(-1), ([1] if k == 2 else range(k))
        accuracy = reference.accuracy_score(labels, said)
        balanced = reference.balanced_accuracy_score(labels, said)
        pairs = [(labels == j, said == j, p[:, j]) for j in columns]
    else:
        pairs = [(labels[:, j] == 1, p[:, j] > 0.5, p[:, j]) for j in range(k)]
        accuracy = np.mean([reference.accuracy_score(t, s) for t, s, _ in pairs])
        balanced = np.mean([reference.balanced_accuracy_score(t, s) for t, s, _ in pairs])
    means = {
        "sensitivity": lambda t, s, _: reference.recall_score(t, s),
        "specificity": lambda t, s, _: reference.recall_score(t, s, pos_label=0),
        "average_precision": lambda t, _, p: reference.average_precision_score(t, p),
        "roc_auc": lambda t, _, p: reference.roc_auc_score(t, p),
    }
    found = {name: np.mean([of(*pair) for pair in pairs]) for name, of in means.items()}
    return {"accuracy": accuracy, "balanced_accuracy": balanced, **found}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MEASURE_RESAMPLES", RESAMPLES)


CASES = pytest.mark.parametrize(
    ("task", "k"),
    [(ONE, 2), (ONE, 3), (MANY, 3), (MANY, 1)],
    ids=["two classes", "three classes", "labels", "one label"],
)


@CASES
def test_measures_and_bounds_are_scikit_learns(task: Task, k: int) -> None:
    labels, p = example(task, k)
    got = judge(task, NAMES[:k], p, labels).default
    expected = said_of(task, k, labels, p)
    drawn = np.random.default_rng(0).integers(N, size=(RESAMPLES, N))
    resampled = [said_of(task, k, labels[rows], p[rows]) for rows in drawn]
    assert got.measures.keys() == expected.keys()
    for name, interval in got.measures.items():
        assert interval.estimate == pytest.approx(expected[name], abs=1e-12), name
        bounds = np.quantile([each[name] for each in resampled], (0.025, 0.975))
        if name in ("sensitivity", "specificity") and len(p[0]) < 3:
            of = labels.ravel() == (name == "sensitivity")
            bounds = wilson(round(expected[name] * of.sum()), of.sum())[1:]
        assert interval[1:] == pytest.approx(tuple(bounds), abs=1e-12), name


@CASES
def test_each_class_has_its_own(task: Task, k: int) -> None:
    labels, p = example(task, k)
    got = judge(task, NAMES[:k], p, labels).default
    truth, said = task.truth(labels, k), task.decide(p)
    for j, of in enumerate(got.per_class.values()):
        assert of.positives == truth[:, j].sum() and of.images == N
        measured = {name: interval.estimate for name, interval in of.measures.items()}
        assert measured == pytest.approx(
            {
                "sensitivity": reference.recall_score(truth[:, j], said[:, j]),
                "specificity": reference.recall_score(truth[:, j], said[:, j], pos_label=0),
                "average_precision": reference.average_precision_score(truth[:, j], p[:, j]),
                "roc_auc": reference.roc_auc_score(truth[:, j], p[:, j]),
            }
        )
        assert all(low < high for _, low, high in of.measures.values())


@CASES
def test_decisions_are_taken_again_at_the_thresholds(task: Task, k: int) -> None:
    labels, p = example(task, k)
    columns = task.cuts(k)
    chosen = choose_thresholds(task, p, labels)
    assert len(chosen) == len(columns)
    if not columns:
        report = judge(task, NAMES[:k], p, labels, thresholds=None)
        assert report.to_json()["at_threshold"] is None
        return
    thresholds = Thresholds({NAMES[j]: t for j, t in zip(columns, chosen, strict=True)}, 7, False)
    report = judge(task, NAMES[:k], p, labels, thresholds=thresholds)
    at = report.at_threshold
    assert at is not None
    truth = task.truth(labels, k)
    for j, threshold in zip(columns, chosen, strict=True):
        of = at.per_class[NAMES[j]].measures
        said = p[:, j] > threshold
        assert of["sensitivity"].estimate == pytest.approx(said[truth[:, j]].mean())
        assert of["specificity"].estimate == pytest.approx((~said[~truth[:, j]]).mean())
    # They were chosen on these images, for this.
    better, default = (each.measures["balanced_accuracy"] for each in (at, report.default))
    assert better.estimate > default.estimate
    assert at.measures.keys() == set(DECIDED)
    assert np.sum(at.confusion) == N * (1 if task is ONE else k)
    written = report.to_json()["at_threshold"]
    assert written["thresholds"] == thresholds.values
    assert "epoch 7" in written["chosen_on"] and not written["chosen_on_these_images"]


def test_both_confusions_count_as_training_does() -> None:
    labels, p = example(MANY, 3)
    got = judge(MANY, NAMES, p, labels).default.confusion
    expected = reference.multilabel_confusion_matrix(labels, p > 0.5)
    np.testing.assert_array_equal(got, expected)
    labels, p = example(ONE, 3)
    got = judge(ONE, NAMES, p, labels).default.confusion
    np.testing.assert_array_equal(got, reference.confusion_matrix(labels, p.argmax(-1)))


def test_a_label_without_a_threshold_stays_at_a_half() -> None:
    p = np.array([[0.4, 0.4], [0.6, 0.6]])
    np.testing.assert_array_equal(MANY.decide_at(p, [0.3, math.nan]), [[True, False], [True, True]])
    np.testing.assert_array_equal(
        ONE.decide_at(np.array([[0.6, 0.4], [0.8, 0.2]]), [0.3]), [[False, True], [True, False]]
    )


def lines(report: EvaluationReport, classes: tuple[str, ...], n: int) -> list[str]:
    metrics = {"loss": 0.5, "precision": 0.25, "count": n, "images_per_second": 10.0}
    return report_lines(report, metrics, classes)


def undefined_of(judgement: Judgement) -> set[str]:
    return {name for name, of in judgement.measures.items() if math.isnan(of.estimate)}


P2 = np.array([[0.7, 0.3], [0.4, 0.6], [0.4, 0.6], [0.9, 0.1]])
P3 = np.array([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.5, 0.3, 0.2], [0.2, 0.6, 0.2]])
DEGENERATE = {
    "only negatives": (ONE, P2, [0, 0, 0, 0], {"balanced_accuracy", "sensitivity", *RANKED}),
    "only positives": (ONE, P2, [1, 1, 1, 1], {"balanced_accuracy", "specificity", *RANKED}),
    "a class missing": (ONE, P3, [0, 1, 0, 1], {"balanced_accuracy", "sensitivity", *RANKED}),
    "one class of three": (
        *(ONE, P3, [0, 0, 0, 0]),
        {"balanced_accuracy", "sensitivity", "specificity", *RANKED},
    ),
    "a label missing": (MANY, P3, [[1, 0, 1], [0, 0, 0], [1, 0, 1], [0, 0, 1]], set()),
    "no label": (MANY, P3, [[0, 0, 0]] * 4, {"balanced_accuracy", "sensitivity", *RANKED}),
    "a single image": (ONE, P2[:1], [0], {"balanced_accuracy", "sensitivity", *RANKED}),
    "equal probabilities": (ONE, np.full((4, 2), 0.5), [0, 1, 0, 1], set()),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_what_cannot_be_said_is_null_and_explained(case: str) -> None:
    task, p, given, undefined = DEGENERATE[case]
    labels, k = np.array(given), p.shape[1]
    columns = [NAMES[j] for j in task.cuts(k)]
    chosen = dict(zip(columns, choose_thresholds(task, p, labels), strict=True))
    thresholds = Thresholds(chosen, 1, True) if columns else None
    report = judge(task, NAMES[:k], p, labels, thresholds=thresholds)
    assert undefined_of(report.default) == undefined
    written = json.loads(encode_json(report.to_json()))
    for name in (*DECIDED, *RANKED):
        assert (written[name] is None) == (name in undefined)
        none = name in undefined or len(p) == 1 and name == "accuracy"
        assert (written["intervals"][name] == [None, None]) == none
    said = lines(report, NAMES[:k], len(p))
    explained = [line for line in said if line.startswith("undefined")]
    assert len(explained) == (1 if report.default.undefined else 0)
    assert "nan" not in "\n".join(said)
    if report.default.undefined:
        assert explained[0].endswith(", ".join(report.default.undefined))


def test_means_leave_out_labels_that_are_undefined() -> None:
    labels, p = example(MANY, 3)
    labels[:, 1] = 0
    known = [0, 2]
    got = judge(MANY, NAMES, p, labels).default.measures
    expected = said_of(MANY, 2, labels[:, known], p[:, known])
    for name in ("balanced_accuracy", "sensitivity", *RANKED):
        assert got[name].estimate == pytest.approx(expected[name], abs=1e-12), name


def test_lines_say_the_numbers_with_their_intervals() -> None:
    labels, p = example(ONE, 2)
    report = judge(ONE, NAMES[:2], p, labels, thresholds=Thresholds({"bee": 0.25}, 7, False))
    said = lines(report, NAMES[:2], N)
    auc = report.default.measures["roc_auc"]
    text = f"{auc.estimate:.4f} ({auc.low:.4f} to {auc.high:.4f})"
    assert f"ROC AUC            {text}" in said
    assert "60 images, 10.0 images/s; the positive class is bee" in said
    at = "at the threshold 0.2500, chosen on the run's validation images in epoch 7"
    assert at in said
    here = judge(ONE, NAMES[:2], p, labels, thresholds=Thresholds({"bee": 0.25}, 7, True))
    expected = f"{at}, which are among these: others will look worse"
    assert expected in lines(here, NAMES[:2], N)
    none = judge(ONE, NAMES[:2], p, labels, thresholds=Thresholds({"bee": math.nan}, 7, False))
    assert lines(none, NAMES[:2], N)[-1].startswith("no threshold: the run has none better")


def test_lines_are_a_table_of_several_classes_or_labels() -> None:
    labels, p = example(ONE, 3)
    table = [line for line in lines(judge(ONE, NAMES, p, labels), NAMES, N) if "ROC AUC" in line]
    assert table[1].split()[:3] == ["images", "sensitivity", "specificity"]
    labels, p = example(MANY, 3)
    thresholds = Thresholds({"ant": 0.25, "bee": math.nan, "cow": 0.75}, 2, False)
    said = lines(judge(MANY, NAMES, p, labels, thresholds=thresholds), NAMES, N)
    start = said.index("at the thresholds, chosen on the run's validation images in epoch 2")
    rows = [line.split()[:3] for line in said[start + 6 : start + 9]]
    counts = [str(count) for count in labels.sum(0)]
    assert [row[0] for row in rows] == list(NAMES) and [row[1] for row in rows] == counts
    assert [row[2] for row in rows] == ["0.2500", "0.5", "0.7500"]
