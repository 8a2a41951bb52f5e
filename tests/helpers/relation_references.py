"""What each source and relation should give: the survey's equations as plain loops, in float64.

Equations are those of Brauwers and Frasincar (2023). Keys of input 1 are projected local locations,
those of input 2 projected locations of a guide. Scores are additive, equation 6, or without a
query, equation 7; weights are softmax. Everything is of one case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Params = Mapping[str, np.ndarray]
# Weights over the locations, and the context.
Look = tuple[np.ndarray, np.ndarray]


def _score(p: Params, q: np.ndarray, k: np.ndarray) -> float:
    """Equation 6: ``w^T act(W1 q + W2 k + b)``; without a query (q = 0) it is equation 7."""
    hidden = p["score/query_kernel"].T @ q + p["score/key_kernel"].T @ k + p["score/bias"]
    return float(p["score/out"] @ np.tanh(hidden))


def look_at(p: Params, local: np.ndarray, queries: list[np.ndarray]) -> Look:
    """Scores each location of a local map by the query that is for it, aligns and pools."""
    e = [_score(p, q, p["project_local/kernel"].T @ f) for q, f in zip(queries, local, strict=True)]
    total = sum(np.exp(x) for x in e)
    weights = np.array([np.exp(x) / total for x in e])
    return weights, sum(a * f for a, f in zip(weights, local, strict=True))


def _mean(maps: list[np.ndarray]) -> np.ndarray:
    """Equations 10 and 17: the mean of all locations of these maps."""
    locations = [f for each in maps for f in each]
    return sum(locations) / len(locations)


# The query of each location l for one source: (p, local [n c], what was given) -> [n d].
SOURCE_REFERENCES: dict[str, Callable[[Params, np.ndarray, np.ndarray], list[np.ndarray]]] = {
    "guide": lambda p, local, guide: [p["project_guide/kernel"].T @ g for g in guide],
    "learned": lambda p, local, _: [p["project_learned/kernel"][0]] * len(local),
    "meta": lambda p, local, meta: [p["project_meta/kernel"].T @ meta] * len(local),
    "others": lambda p, local, mean: [p["project_others/kernel"].T @ mean] * len(local),
    "affinity": lambda p, local, guide: _affinities(p, local, guide),
    "context": lambda p, local, c: [p["project_context/kernel"].T @ c] * len(local),
    "deeper": lambda p, local, c: [p["project_deeper/kernel"].T @ c] * len(local),
}


def _affinities(p: Params, local: np.ndarray, guide: np.ndarray) -> list[np.ndarray]:
    """Equations 12 and 14: A_lm = tanh(k_l^T W_A k_m), and the row ``W2 K2 A^T`` of location l."""
    queries = []
    for f in local:
        key = p["project_local/kernel"].T @ f
        query = np.zeros(len(key))
        for g in guide:
            other = p["project_affinity/kernel"].T @ g
            query += np.tanh(key @ p["affinity"][0] @ other) * other
        queries.append(query)
    return queries


def _query(source: str, p: Params, local: np.ndarray, given: np.ndarray) -> list[np.ndarray]:
    return SOURCE_REFERENCES[source](p, local, given)


def _nothing(p: Params, local: np.ndarray) -> list[np.ndarray]:
    return [np.zeros(p["project_local/kernel"].shape[1])] * len(local)


def _own(local: list[np.ndarray], guides: list[np.ndarray], gate: Callable[..., Params]):
    return [
        look_at(p := gate(f"view{i + 1}"), f, _query("guide", p, f, guides[i]))
        for i, f in enumerate(local)
    ]


def _by_others(source: str) -> Callable[..., list[Look]]:
    def reference(local, guides, gate):
        looks = []
        for i, f in enumerate(local):
            p = gate(f"{'interactive' if source == 'others' else 'parallel'}_view{i + 1}")
            others = [g for j, g in enumerate(guides) if j != i]
            given = _mean(others) if source == "others" else np.concatenate(others)
            looks.append(look_at(p, f, _query(source, p, f, given)))
        return looks

    return reference


def _alternating(local, guides, gate):
    """Equations 7 to 9, in a ring: c0 of view 1, then each by the one before, view 1 at last."""
    p = gate("alternating_view1")
    looks = [look_at(p, local[0], _nothing(p, local[0]))]
    for i in [*range(1, len(local)), 0]:
        p = gate(f"alternating_view{i + 1}")
        looks.append(look_at(p, local[i], _query("context", p, local[i], looks[-1][1])))
    return looks


def _rotatory(local, guides, gate):
    """Equations 17 to 20: the sides by the target's mean, the target by each side's context."""
    looks = []
    for j in range(1, len(local)):
        p = gate(f"rotatory_view{j + 1}")
        looks.append(look_at(p, local[j], _query("others", p, local[j], _mean([guides[0]]))))
    for j in range(1, len(local)):
        p = gate(f"rotatory_target_view{j + 1}")
        looks.append(look_at(p, local[0], _query("context", p, local[0], looks[j - 1][1])))
    return looks


# (local maps [n c], guides [m c], gate by name) -> each pass's weights and context.
RELATION_REFERENCES: dict[str, Callable[..., list[Look]]] = {
    "own": _own,
    "interactive": _by_others("others"),
    "parallel": _by_others("affinity"),
    "alternating": _alternating,
    "rotatory": _rotatory,
}
