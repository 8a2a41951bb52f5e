"""Sums over examples that merge exactly, and the measures computed from them.

Precision, recall, average precision and ROC AUC are of the positive class (label 1) when
there are two classes, and unweighted means over the classes (one against the rest) otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from sklearn.metrics import average_precision_score, roc_auc_score


class Sums(NamedTuple):
    """What a set of examples adds up to; ``confusion[i, j]`` counts label i predicted as j."""

    loss: Float[Array, ""]
    confusion: Int[Array, "k k"]

    @staticmethod
    def zero(num_classes: int) -> Sums:
        return Sums(jnp.zeros(()), jnp.zeros((num_classes, num_classes), jnp.int32))

    @staticmethod
    def of(
        loss: Float[Array, "b"],
        logits: Float[Array, "b k"],
        labels: Int[Array, "b"],
        mask: Bool[Array, "b"],
    ) -> Sums:
        """Sums over the examples where ``mask`` is true."""
        k = logits.shape[-1]
        rows = jax.nn.one_hot(labels, k, dtype=jnp.int32) * mask[:, None]
        columns = jax.nn.one_hot(logits.argmax(-1), k, dtype=jnp.int32)
        return Sums(jnp.sum(jnp.where(mask, loss, 0)), rows.T @ columns)

    def merge(self, other: Sums) -> Sums:
        """Sums over both sets of examples."""
        return Sums(self.loss + other.loss, self.confusion + other.confusion)

    def compute(self) -> dict[str, float]:
        """Mean loss, accuracy, precision and recall; a class never predicted has precision 0."""
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


def ranking(
    probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n"]
) -> dict[str, float]:
    """Average precision and area under the ROC curve (scikit-learn's definitions).

    NaN where a class has no example or every example.
    """
    k = probabilities.shape[-1]
    classes = (1,) if k == 2 else tuple(range(k))
    ap, auc = [], []
    for c in classes:
        truth = labels == c
        defined = truth.any() and not truth.all()
        ap.append(average_precision_score(truth, probabilities[:, c]) if defined else np.nan)
        auc.append(roc_auc_score(truth, probabilities[:, c]) if defined else np.nan)
    return {"average_precision": float(np.mean(ap)), "roc_auc": float(np.mean(auc))}
