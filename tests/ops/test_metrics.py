from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as reference

from flax_attn.ops.losses import cross_entropy
from flax_attn.ops.metrics import LabelSums, Sums, label_ranking, per_label_ranking, ranking
from tests.helpers.bounds import assert_rounded

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("k", [2, 4])
def test_sums_equal_scikit_learn(k: int) -> None:
    labels, logits = RNG.integers(k, size=50), RNG.normal(size=(50, k)).astype(np.float32)
    sums = Sums.of(jnp.ones(50), jnp.asarray(logits), jnp.asarray(labels), jnp.ones(50, bool))
    predicted = logits.argmax(-1)
    np.testing.assert_array_equal(sums.confusion, reference.confusion_matrix(labels, predicted))
    average = "binary" if k == 2 else "macro"
    got = sums.compute()
    assert got["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert got["loss"] == pytest.approx(1.0)
    for name in ("precision", "recall"):
        score = getattr(reference, f"{name}_score")(labels, predicted, average=average)
        assert got[name] == pytest.approx(score)


def test_masked_examples_count_nowhere() -> None:
    labels, logits = jnp.asarray([0, 1, 1]), jnp.asarray([[2.0, 0], [0, 2.0], [2.0, 0]])
    sums = Sums.of(
        jnp.asarray([1.0, 2.0, jnp.nan]), logits, labels, jnp.asarray([True, True, False])
    )
    assert sums.compute() == {"loss": 1.5, "accuracy": 1.0, "precision": 1.0, "recall": 1.0}


def test_merge_is_the_whole() -> None:
    labels, logits = jnp.asarray(RNG.integers(3, size=20)), jnp.asarray(RNG.normal(size=(20, 3)))
    loss, mask = jnp.arange(20.0), jnp.asarray(RNG.random(20) < 0.7)
    whole = Sums.of(loss, logits, labels, mask)
    parts = [Sums.of(loss[s], logits[s], labels[s], mask[s]) for s in (slice(7), slice(7, None))]
    merged = Sums.zero(3).merge(parts[0]).merge(parts[1])
    np.testing.assert_array_equal(merged.confusion, whole.confusion)
    assert merged.compute() == pytest.approx(whole.compute())


def test_ranking_of_two_classes() -> None:
    labels, scores = RNG.integers(2, size=60), RNG.random(60)
    got = ranking(np.stack([1 - scores, scores], -1), labels)
    assert got["average_precision"] == reference.average_precision_score(labels, scores)
    assert got["roc_auc"] == reference.roc_auc_score(labels, scores)


def test_ranking_of_several_classes_is_the_mean_of_one_against_the_rest() -> None:
    labels, p = RNG.integers(3, size=60), RNG.dirichlet(np.ones(3), 60)
    got = ranking(p, labels)
    expected = reference.roc_auc_score(labels, p, multi_class="ovr", average="macro")
    assert got["roc_auc"] == pytest.approx(expected)


def test_ranking_without_both_classes_is_undefined() -> None:
    got = ranking(np.full((4, 2), 0.5), np.zeros(4, int))
    assert np.isnan(got["roc_auc"]) and np.isnan(got["average_precision"])


@pytest.mark.parametrize("k", [1, 4])
def test_label_sums_equal_scikit_learn(k: int) -> None:
    labels, logits = RNG.integers(2, size=(50, k)), RNG.normal(size=(50, k)).astype(np.float32)
    # All but the first label are mostly right, so that some examples have every label right.
    logits[:, 1:] = np.where(RNG.random((50, k - 1)) < 0.8, labels[:, 1:] - 0.5, 0.5)
    sums = LabelSums.of(jnp.ones(50), jnp.asarray(logits), jnp.asarray(labels), jnp.ones(50, bool))
    predicted = (logits > 0).astype(int)
    expected = reference.multilabel_confusion_matrix(labels, predicted, labels=range(k))
    if k == 1:  # scikit-learn takes one column for classes
        expected = reference.confusion_matrix(labels, predicted)[None]
    np.testing.assert_array_equal(sums.confusion, expected)
    average = {"average": "binary" if k == 1 else "macro"}
    got = sums.compute()
    assert got == pytest.approx(
        {
            "loss": 1.0,
            "accuracy": (predicted == labels).mean(),
            "exact_match": reference.accuracy_score(labels, predicted),
            "precision": reference.precision_score(labels, predicted, **average),
            "recall": reference.recall_score(labels, predicted, **average),
        }
    )
    assert 0 < got["exact_match"] < 1


def test_masked_examples_count_for_no_label() -> None:
    labels = jnp.asarray([[0, 1], [1, 1], [0, 0], [0, 1]])
    logits = jnp.asarray([[-1.0, 2.0], [3.0, 1.0], [1.0, 1.0], [-1.0, 1.0]])
    mask = jnp.asarray([True, True, False, False])
    sums = LabelSums.of(jnp.asarray([1.0, 2.0, jnp.nan, 4.0]), logits, labels, mask)
    ones = dict.fromkeys(("accuracy", "exact_match", "precision", "recall"), 1.0)
    assert sums.compute() == {"loss": 1.5, **ones}
    assert LabelSums.of(jnp.ones(4), logits, labels, ~mask).compute()["accuracy"] == 0.5


def test_label_sums_merge_is_the_whole() -> None:
    labels, loss = jnp.asarray(RNG.integers(2, size=(20, 3))), jnp.arange(20.0)
    every_third = np.arange(20)[:, None] % 3 == 0
    logits = jnp.where(every_third, labels - 0.5, RNG.normal(size=(20, 3)))
    mask = jnp.asarray(RNG.random(20) < 0.7)
    parts = [slice(7), slice(7, None), slice(None)]
    *halves, whole = [LabelSums.of(loss[s], logits[s], labels[s], mask[s]) for s in parts]
    merged = LabelSums.zero(3).merge(halves[0]).merge(halves[1])
    np.testing.assert_array_equal(merged.confusion, whole.confusion)
    assert merged.compute() == pytest.approx(whole.compute())
    assert merged.compute()["exact_match"] > 0


def test_labels_that_are_never_predicted_or_never_there() -> None:
    labels, logits = jnp.asarray([[1, 0], [1, 0]]), jnp.asarray([[-1.0, 1.0], [0.0, 1.0]])
    got = LabelSums.of(jnp.zeros(2), logits, labels, jnp.ones(2, bool)).compute()
    assert got == dict.fromkeys(("loss", "accuracy", "exact_match", "precision", "recall"), 0.0)
    nothing = LabelSums.zero(2).compute()
    assert nothing == got


def test_label_ranking_is_the_mean_over_labels() -> None:
    labels, p = RNG.integers(2, size=(60, 3)), RNG.random((60, 3))
    got = label_ranking(p, labels)
    expected = reference.average_precision_score(labels, p, average="macro")
    assert got["average_precision"] == pytest.approx(expected)
    expected = reference.roc_auc_score(labels, p, average="macro")
    assert got["roc_auc"] == pytest.approx(expected)


def test_label_ranking_leaves_out_labels_without_positives_or_negatives() -> None:
    labels, p = RNG.integers(2, size=(30, 4)), RNG.random((30, 4))
    labels[:, 1], labels[:, 2] = 0, 1
    for name, values in per_label_ranking(p, labels).items():
        assert np.isnan(values).tolist() == [False, True, True, False]
        assert label_ranking(p, labels)[name] == pytest.approx(values[[0, 3]].mean())
        assert np.isnan(label_ranking(p[:, 1:3], labels[:, 1:3])[name])


def test_both_kinds_of_sums_report_under_the_same_names() -> None:
    assert Sums.zero(2).compute().keys() <= LabelSums.zero(2).compute().keys()
    p, labels = np.eye(2), np.eye(2, dtype=int)
    assert ranking(p, labels[0]).keys() == label_ranking(p, labels).keys()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing: float) -> None:
    logits, labels = RNG.normal(size=(6, 3)), RNG.integers(3, size=6)
    logits = logits.astype(np.float32)
    target = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3

    def reference(logits: np.ndarray) -> np.ndarray:
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -(target * log_p).sum(-1)

    got = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), label_smoothing=smoothing)
    # Two sums of three, an exponential and a logarithm.
    assert_rounded(got, reference, logits, terms=6 + 16)


def test_cross_entropy_of_large_logits_is_finite() -> None:
    got = cross_entropy(jnp.asarray([[1e4, -1e4]]), jnp.asarray([1]))
    assert float(got[0]) == pytest.approx(2e4)
