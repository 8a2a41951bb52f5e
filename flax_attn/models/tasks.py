"""The tasks: an image has one of several classes, or any number of labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from flax_attn.ops.losses import binary_cross_entropy, cross_entropy
from flax_attn.ops.metrics import LabelSums, Sums, label_ranking, ranking


class Task(NamedTuple):
    """The functions of a task: its loss, its sums, its probabilities and its ranking metrics.

    Labels are class numbers [b] in ``multiclass`` and 0 or 1 for each label [b, k] in
    ``multilabel``.

    Args:
      loss: ``loss(logits, labels, *, label_smoothing=0.0, focal_gamma=0.0, class_weights=None)
        -> [b]``, without options the cross entropy.
      weigh: ``weigh(class_weights, labels) -> [b]``: what each example counts in a mean of weighted
        losses.
      sums: the class that adds up the metrics of examples.
      probabilities: from logits [b, k].
      average: from the logits [v, b, k] of several views, those of their mean probabilities.
      ranking: metrics of the order of probabilities, ``(probabilities, labels) -> {name: value}``.
      truth: ``truth(labels, k) -> [n, k]``, on the host: whether an image has each class.
      decide: ``decide(probabilities) -> [n, k]``, on the host: whether it is predicted to.
      blank: ``blank(b, k)``, on the host: labels in the task's form for images of unknown ones.
      cuts: ``cuts(k)``: the classes whose probability alone decides, by a threshold: of two classes
        the second, of more none, of labels all.
      exclusive: whether an image has exactly one class.
    """

    loss: Callable[..., Array]
    weigh: Callable[[Array, Array], Array]
    sums: type[Sums] | type[LabelSums]
    probabilities: Callable[[Array], Array]
    average: Callable[[Array], Array]
    ranking: Callable[..., dict[str, float]]
    truth: Callable[[np.ndarray, int], np.ndarray]
    decide: Callable[[np.ndarray], np.ndarray]
    blank: Callable[[int, int], np.ndarray]
    cuts: Callable[[int], Sequence[int]]
    exclusive: bool

    def confidence(
        self, probabilities: Float[np.ndarray, "n k"], said: Bool[np.ndarray, "n k"]
    ) -> Float[np.ndarray, "n"]:
        """Returns the probability of what is said: of the class, or of the least certain label."""
        if self.exclusive:
            return probabilities[said]
        return np.where(said, probabilities, 1 - probabilities).min(-1)

    def decide_at(
        self, probabilities: Float[np.ndarray, "n k"], thresholds: Sequence[float]
    ) -> Bool[np.ndarray, "n k"]:
        """Returns whether an image is predicted to have each class, by thresholds of ``cuts``.

        Where one is NaN the task decides as it does without.
        """
        said = self.decide(probabilities)
        for column, threshold in zip(self.cuts(said.shape[-1]), thresholds, strict=True):
            if not math.isnan(threshold):
                # In float64: a threshold between two neighbours of float32 is neither of them.
                said[:, column] = probabilities[:, column] > np.float64(threshold)
                if self.exclusive:
                    said[:, 0] = ~said[:, column]
        return said


def _weight_of_class(weights: Float[Array, "k"], labels: Int[Array, "b"]) -> Float[Array, "b"]:
    return weights[labels]


def _one_each(weights: Float[Array, "k"], labels: Int[Array, "b k"]) -> Float[Array, "b"]:
    return jnp.ones(len(labels), weights.dtype)


def _average_of_classes(logits: Float[Array, "v b k"]) -> Float[Array, "b k"]:
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - math.log(len(logits))


def _average_of_labels(logits: Float[Array, "v b k"]) -> Float[Array, "b k"]:
    # Each is the logarithm of v times a mean, of the probability and of what it lacks to 1.
    there, absent = (jax.nn.logsumexp(jax.nn.log_sigmoid(s * logits), axis=0) for s in (1, -1))
    return there - absent


def _class_of(labels: Int[np.ndarray, "n"], k: int) -> Bool[np.ndarray, "n k"]:
    return labels[:, None] == np.arange(k)


def _likeliest(probabilities: Float[np.ndarray, "n k"]) -> Bool[np.ndarray, "n k"]:
    return _class_of(probabilities.argmax(-1), probabilities.shape[-1])


def _labels_of(labels: Int[np.ndarray, "n k"], k: int) -> Bool[np.ndarray, "n k"]:
    del k
    return labels.astype(bool)


def _more_likely_than_not(probabilities: Float[np.ndarray, "n k"]) -> Bool[np.ndarray, "n k"]:
    return probabilities > 0.5


def names_of(classes: Sequence[str], has: Bool[np.ndarray, "k"]) -> list[str]:
    """Returns the classes that an image has, or is said to have."""
    return [name for name, there in zip(classes, has, strict=True) if there]


TASKS: dict[str, Task] = {
    "multiclass": Task(
        cross_entropy,
        _weight_of_class,
        Sums,
        jax.nn.softmax,
        _average_of_classes,
        ranking,
        truth=_class_of,
        decide=_likeliest,
        blank=lambda b, k: np.zeros(b, np.int32),
        cuts=lambda k: (1,) if k == 2 else (),
        exclusive=True,
    ),
    "multilabel": Task(
        binary_cross_entropy,
        _one_each,
        LabelSums,
        jax.nn.sigmoid,
        _average_of_labels,
        label_ranking,
        truth=_labels_of,
        decide=_more_likely_than_not,
        blank=lambda b, k: np.zeros((b, k), np.int32),
        cuts=range,
        exclusive=False,
    ),
}
