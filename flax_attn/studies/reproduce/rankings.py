"""Average precision and ROC AUC of several networks on the same images, with intervals."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from flax_attn.ops.resampled_metrics import resampled_ranking
from flax_attn.statistics import Interval, measure_bounds

# What a network is known by.
Name = TypeVar("Name", bound=Hashable)

MEASURES = ("average_precision", "roc_auc")


class Rankings(NamedTuple):
    """Each network's measures, and the differences of pairs, all of the same resamples."""

    of: Mapping[tuple[Hashable, str], Interval]
    lead: Mapping[tuple[Hashable, Hashable, str], Interval]


def rank(
    truth: Bool[np.ndarray, "n"],
    scores: Mapping[Name, Float[np.ndarray, "n"]],
    pairs: Sequence[tuple[Name, Name]],
) -> Rankings:
    """Returns the measures of each network's scores, and of each pair the first less the second."""

    def measure(counts: Float[np.ndarray, "r n"]) -> dict[tuple, Float[np.ndarray, "r"]]:
        ranked = {name: resampled_ranking(counts, truth, each) for name, each in scores.items()}
        found: dict[tuple, np.ndarray] = {
            (name, m): getattr(ranked[name], m) for name in ranked for m in MEASURES
        }
        for first, second in pairs:
            for m in MEASURES:
                found[first, second, m] = found[first, m] - found[second, m]
        return found

    bounds = measure_bounds(measure, len(truth))
    exact = measure(np.ones((1, len(truth))))
    intervals = {key: Interval(float(value[0]), *bounds[key]) for key, value in exact.items()}
    return Rankings(
        {key: value for key, value in intervals.items() if len(key) == 2},
        {key: value for key, value in intervals.items() if len(key) == 3},
    )
