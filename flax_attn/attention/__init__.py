"""The attention family: score functions, alignment functions and the gate that joins them."""

from __future__ import annotations

from collections.abc import Callable

from flax_attn.attention import (
    alignments,
    alignments_sparse,
    alignments_spatial,
    scores,
    scores_multiplicative,
)
from flax_attn.attention.alignments import Alignment
from flax_attn.attention.gate import AttentionGate, GateOutput
from flax_attn.attention.scores import Score

SCORES: dict[str, Callable[..., Score]] = {
    "gate": scores.gate,
    "additive": scores.additive,
    "concat": scores.concat,
    "dot": scores_multiplicative.dot,
    "scaled_dot": scores_multiplicative.scaled_dot,
    "general": scores_multiplicative.general,
    "biased_general": scores_multiplicative.biased_general,
    "activated_general": scores_multiplicative.activated_general,
    "cosine": scores_multiplicative.cosine,
    "neg_euclidean": scores_multiplicative.neg_euclidean,
}

ALIGNMENTS: dict[str, Callable[..., Alignment]] = {
    "sigmoid": alignments.sigmoid,
    "softmax": alignments.softmax,
    "sparsemax": alignments_sparse.sparsemax,
    "entmax": alignments_sparse.entmax,
    "local": alignments_spatial.local,
    "sigmoid_softmax": alignments_spatial.sigmoid_softmax,
}

__all__ = ["ALIGNMENTS", "SCORES", "Alignment", "AttentionGate", "GateOutput", "Score"]
