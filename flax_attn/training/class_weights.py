"""The weights of classes in the loss, from a setting and the labels of the training images.

They follow from what a resumed run must have in common with the run before, so that they are
worked out again and not kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int

from flax_attn.config import parse_class_weights
from flax_attn.data.listing import same_form
from flax_attn.errors import UsageError, name_some


def resolve_class_weights(
    setting: str, labels: Int[np.ndarray, "n *k"], classes: Sequence[str]
) -> Float32[np.ndarray, "k"] | None:
    """Returns the weight of each class, or of each label's positives; None for "none".

    "balanced" gives each class the same part of the loss: with one class an image
    ``n / (k n_class)``, of the k classes that have images; with several labels
    ``(n - n_label) / n_label``, so that the images with and without a label count the same. Where
    there is nothing to balance, a weight is 1, as is that of a class that is not named.

    Raises:
      UsageError: the setting cannot be read, names an unknown class, or leaves no weight to any
        image.
    """
    wanted = parse_class_weights(setting)
    if wanted == "none":
        return None
    present = _counts(labels, len(classes)) > 0
    if isinstance(wanted, str):
        return _balanced(labels, len(classes))
    weights = _named(wanted, classes)
    if not weights[present].any():
        raise UsageError(
            f"--class-weights {setting} leaves every training image without weight: give one of "
            "their classes more than 0"
        )
    return weights


def describe_class_weights(weights: Float32[np.ndarray, "k"], classes: Sequence[str]) -> str:
    """Returns the weights in one line, those of the first classes by name."""
    pairs = [f"{name} {weight:.4g}" for name, weight in zip(classes, weights, strict=True)]
    return f"class weights: {name_some(pairs)}"


def _counts(labels: Int[np.ndarray, "n *k"], k: int) -> Int[np.ndarray, "k"]:
    return np.bincount(labels, minlength=k) if labels.ndim == 1 else labels.sum(0)


def _balanced(labels: Int[np.ndarray, "n *k"], k: int) -> Float32[np.ndarray, "k"]:
    count = _counts(labels, k)
    if labels.ndim == 1:
        weighty, parts = count > 0, (count > 0).sum() * count
        of_all = np.full(k, len(labels))
    else:
        weighty, parts = (count > 0) & (count < len(labels)), count
        of_all = len(labels) - count
    return np.where(weighty, of_all / np.maximum(parts, 1), 1).astype(np.float32)


def _named(wanted: dict[str, float], classes: Sequence[str]) -> Float32[np.ndarray, "k"]:
    places = {same_form(name): place for place, name in enumerate(classes)}
    weights = np.ones(len(classes), np.float32)
    for name, weight in wanted.items():
        if same_form(name) not in places:
            raise UsageError(
                f"--class-weights names {name!r}, which is no class of the data set: choose from "
                f"{name_some(classes)}"
            )
        weights[places[same_form(name)]] = weight
    return weights
