"""The attention family: score functions, alignment functions and the gate that joins them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from flax_attn.attention import alignments, scores, scores_multiplicative
from flax_attn.attention import sampled as alignments_sampled
from flax_attn.attention import sparse as alignments_sparse
from flax_attn.attention import spatial as alignments_spatial
from flax_attn.attention.alignments import Alignment
from flax_attn.attention.gate import AttentionGate, GateOutput
from flax_attn.attention.heads import merge_heads, overlap
from flax_attn.attention.scores import Score
from flax_attn.attention.self_attention import SelfAttention
from flax_attn.errors import UsageError

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
    "hard": alignments_sampled.hard,
    "reinforced": alignments_sampled.reinforced,
    "local": alignments_spatial.local,
    "sigmoid_softmax": alignments_spatial.sigmoid_softmax,
}


def make_alignment(name: str, **options: Any) -> Alignment:
    """The named alignment; options that are None keep its defaults.

    Raises UsageError for an option it does not take, or a value it refuses.
    """
    factory = ALIGNMENTS[name]
    given = {option: value for option, value in options.items() if value is not None}
    unknown = given.keys() - inspect.signature(factory).parameters.keys()
    if unknown:
        flags = ", ".join(f"--{option}" for option in sorted(unknown))
        raise UsageError(f"--norm {name} takes no {flags}: drop it, or choose another --norm")
    try:
        return factory(**given)
    except ValueError as error:
        raise UsageError(f"--norm {name}: {error}") from error


__all__ = [
    "ALIGNMENTS",
    "SCORES",
    "Alignment",
    "AttentionGate",
    "GateOutput",
    "Score",
    "SelfAttention",
    "make_alignment",
    "merge_heads",
    "overlap",
]
