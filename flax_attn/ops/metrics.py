"""Sums over examples that merge exactly, and the metrics computed from them.

With one class an image, precision, recall, average precision and ROC AUC are those of the
positive class (label 1) when there are two classes, and unweighted means over the classes (one
against the rest) otherwise. With several labels an image they are unweighted means over the
labels.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Sums(NamedTuple):
    """The total loss and the confusion matrix of a set of examples, with one class each.

    ``confusion[i, j]`` counts the examples of label i predicted as j.
    """

    loss: Float[Array, ""]
    confusion: Int[Array, "k k"]

    @staticmethod
    def zero(num_classes: int) -> Sums:
        """Returns the sums over no examples."""
        return Sums(jnp.zeros(()), jnp.zeros((num_classes, num_classes), jnp.int32))

    @staticmethod
    def of(
        loss: Float[Array, "b"],
        logits: Float[Array, "b k"],
        labels: Int[Array, "b"],
        mask: Bool[Array, "b"],
    ) -> Sums:
        """Returns the sums over the examples where ``mask`` is true."""
        k = logits.shape[-1]
        rows = jax.nn.one_hot(labels, k, dtype=jnp.int32) * mask[:, None]
        columns = jax.nn.one_hot(logits.argmax(-1), k, dtype=jnp.int32)
        return Sums(jnp.sum(jnp.where(mask, loss, 0)), rows.T @ columns)

    def merge(self, other: Sums) -> Sums:
        """Returns the sums over both sets of examples."""
        return Sums(self.loss + other.loss, self.confusion + other.confusion)

    def compute(self) -> dict[str, float]:
        """Computes mean loss, accuracy, precision and recall.

        A class never predicted has precision 0.
        """
        confusion = np.asarray(self.confusion, dtype=np.float64)
        count, hits = confusion.sum(), np.diag(confusion)
        precision = hits / np.maximum(confusion.sum(0), 1)
        recall = hits / np.maximum(confusion.sum(1), 1)
        positive = slice(1, 2) if len(hits) == 2 else slice(None)
        return {
            "loss": float(self.loss / max(count, 1)),
            "accuracy": float(hits.sum() / max(count, 1)),
            "precision": float(precision[positive].mean()),
            "recall": float(recall[positive].mean()),
        }


class LabelSums(NamedTuple):
    """``Sums`` of examples with any number of k labels, each predicted where its logit exceeds 0.

    ``confusion[j, t, p]`` counts the examples whose label j is t and predicted as p;
    ``exact`` counts those with every label right.
    """

    loss: Float[Array, ""]
    confusion: Int[Array, "k 2 2"]
    exact: Int[Array, ""]

    @staticmethod
    def zero(num_labels: int) -> LabelSums:
        """Returns the sums over no examples."""
        confusion = jnp.zeros((num_labels, 2, 2), jnp.int32)
        return LabelSums(jnp.zeros(()), confusion, jnp.zeros((), jnp.int32))

    @staticmethod
    def of(
        loss: Float[Array, "b"],
        logits: Float[Array, "b k"],
        labels: Int[Array, "b k"],
        mask: Bool[Array, "b"],
    ) -> LabelSums:
        """Returns the sums over the examples where ``mask`` is true; ``labels`` are 0 or 1."""
        predicted = (logits > 0).astype(jnp.int32)
        truth = jax.nn.one_hot(labels, 2, dtype=jnp.int32) * mask[:, None, None]
        confusion = jnp.einsum("bkt,bkp->ktp", truth, jax.nn.one_hot(predicted, 2, dtype=jnp.int32))
        exact = jnp.sum((predicted == labels).all(-1) & mask, dtype=jnp.int32)
        return LabelSums(jnp.sum(jnp.where(mask, loss, 0)), confusion, exact)

    def merge(self, other: LabelSums) -> LabelSums:
        """Returns the sums over both sets of examples."""
        return LabelSums(
            self.loss + other.loss, self.confusion + other.confusion, self.exact + other.exact
        )

    def compute(self) -> dict[str, float]:
        """Computes mean loss, accuracy, exact match, precision and recall.

        Accuracy is the share of decisions that are right, one a label of each example; exact
        match is the share of examples with every label right. A label never predicted has
        precision 0, a label that no example has recall 0.
        """
        confusion = np.asarray(self.confusion, dtype=np.float64)
        count = max(confusion[0].sum(), 1)
        hits = confusion[:, 1, 1]
        return {
            "loss": float(self.loss / count),
            "accuracy": float((hits + confusion[:, 0, 0]).mean() / count),
            "exact_match": float(self.exact / count),
            "precision": float((hits / np.maximum(confusion[:, :, 1].sum(1), 1)).mean()),
            "recall": float((hits / np.maximum(confusion[:, 1].sum(1), 1)).mean()),
        }


def ranking(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"]
) -> dict[str, float]:
    """Returns average precision and area under the ROC curve (scikit-learn's definitions).

    They are NaN where a class has no example or every example.
    """
    k = probabilities.shape[-1]
    classes = np.array([1]) if k == 2 else np.arange(k)
    measures = per_label_ranking(probabilities[:, classes], labels[:, None] == classes)
    return {name: float(values.mean()) for name, values in measures.items()}


def label_ranking(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n k"]
) -> dict[str, float]:
    """Returns the means over labels of average precision (mAP) and area under the ROC curve.

    Labels that no example or every example has are undefined and left out of the means, which are
    NaN when all labels are.
    """
    measures = per_label_ranking(probabilities, labels)
    defined = {name: values[~np.isnan(values)] for name, values in measures.items()}
    return {name: float(kept.mean()) if len(kept) else np.nan for name, kept in defined.items()}


def per_label_ranking(
    probabilities: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, "n k"] | Bool[np.ndarray, "n k"],
) -> dict[str, Float[np.ndarray, "k"]]:
    """Returns the average precision and ROC AUC of each label (scikit-learn's definitions).

    They are NaN where no example or every example has the label.
    """
    # Imported here, because that takes as long as all other imports of a command.
    from sklearn.metrics import average_precision_score, roc_auc_score

    ap, auc = np.full((2, labels.shape[-1]), np.nan)
    for j, truth in enumerate(labels.T.astype(bool)):
        if truth.any() and not truth.all():
            ap[j] = average_precision_score(truth, probabilities[:, j])
            auc[j] = roc_auc_score(truth, probabilities[:, j])
    return {"average_precision": ap, "roc_auc": auc}
