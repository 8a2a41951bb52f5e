"""What each score and alignment should give: formulas transcribed to numpy, or other packages."""

from __future__ import annotations

from collections.abc import Callable

import entmax
import numpy as np
import torch
from scipy import special

Reference = Callable[..., np.ndarray]


def _norm(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x**2).sum(-1))


def _concat(p: dict[str, np.ndarray], q: np.ndarray, k: np.ndarray) -> np.ndarray:
    tiled = np.broadcast_to(q, (*k.shape[:-1], q.shape[-1]))
    return np.tanh(np.concatenate([tiled, k], -1) @ p["kernel"] + p["bias"]) @ p["out"]


def _general(p: dict[str, np.ndarray], q: np.ndarray, k: np.ndarray) -> np.ndarray:
    bias = p.get("bias", np.zeros(k.shape[-1]))
    tiled = np.broadcast_to(q, (*k.shape[:-1], q.shape[-1]))
    bilinear = np.einsum("...k,qk,...q->...", k, p["kernel"], tiled)
    return bilinear + np.einsum("...k,k->...", k, bias)


SCORE_REFERENCES: dict[str, Reference] = {
    "gate": lambda p, q, k: np.maximum(k + q, 0) @ p["phi"] + p["bias"],
    "additive": lambda p, q, k: (
        np.tanh(q @ p["query_kernel"] + k @ p["key_kernel"] + p["bias"]) @ p["out"]
    ),
    "concat": _concat,
    "dot": lambda p, q, k: np.einsum("...d,...d->...", q, k),
    "scaled_dot": lambda p, q, k: np.einsum("...d,...d->...", q, k) / np.sqrt(k.shape[-1]),
    "general": _general,
    "biased_general": _general,
    "activated_general": lambda p, q, k: np.tanh(_general(p, q, k)),
    "cosine": lambda p, q, k: np.einsum("...d,...d->...", q, k) / (_norm(q) * _norm(k)),
    "neg_euclidean": lambda p, q, k: -_norm(q - k),
}


def _of_package(align: Callable[..., torch.Tensor]) -> Reference:
    def reference(scores: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        return align(torch.from_numpy(scores), dim=-1).numpy()

    return reference


def _each_map(align: Callable[[np.ndarray], np.ndarray]) -> Reference:
    def reference(scores: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        maps = scores.reshape(-1, *shape)
        return np.stack([align(e) for e in maps]).reshape(scores.shape)

    return reference


def _local(e: np.ndarray, window: float = 0.25) -> np.ndarray:
    """Luong et al. (2015), equation 10, with the soft arg-max as centre, renormalised."""
    height, width = e.shape
    share = special.softmax(e)
    row = (share.sum(1) * np.arange(height)).sum()
    column = (share.sum(0) * np.arange(width)).sum()
    half = max(1, window * max(height, width))
    sigma = half / 2
    weights = np.zeros_like(e)
    for y in range(height):
        for x in range(width):
            if abs(y - row) <= half and abs(x - column) <= half:
                square = (y - row) ** 2 + (x - column) ** 2
                weights[y, x] = np.exp(e[y, x]) * np.exp(-square / (2 * sigma**2))
    return weights / weights.sum()


def _sigmoid_softmax(e: np.ndarray, window: float = 0.125) -> np.ndarray:
    height, width = e.shape
    half = max(1, round(window * max(height, width)))
    weights = np.zeros_like(e)
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - half), y + half + 1)
            columns = slice(max(0, x - half), x + half + 1)
            rivals = np.exp(e[rows, columns]).mean()
            weights[y, x] = special.expit(e[y, x]) * np.exp(e[y, x]) / rivals
    return weights / weights.sum()


def _reinforced(scores: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    weights = np.zeros_like(scores)
    for row, e in zip(weights, scores, strict=True):
        chosen = np.flatnonzero(special.expit(e) > 0.5)
        chosen = chosen if len(chosen) else np.arange(len(e))
        row[chosen] = special.softmax(e[chosen])
    return weights


ALIGNMENT_REFERENCES: dict[str, Reference] = {
    "sigmoid": lambda scores, shape: special.expit(scores),
    "softmax": lambda scores, shape: special.softmax(scores, axis=-1),
    "sparsemax": _of_package(entmax.sparsemax),
    "entmax": _of_package(entmax.entmax15),
    "hard": lambda scores, shape: np.eye(scores.shape[-1])[scores.argmax(-1)],
    "reinforced": _reinforced,
    "local": _each_map(_local),
    "sigmoid_softmax": _each_map(_sigmoid_softmax),
}
