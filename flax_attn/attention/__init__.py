"""The attention family: scores, alignments, the gate that joins them, relations of several maps.

The zoo has one signature, ``score(query[..., #n, dq], keys[..., n, dk]) -> [..., n]`` and
``align(scores[..., n]) -> weights[..., n]``; how a gate pools follows the alignment's
``sums_to_one``. To add a score or an alignment, write it beside its kin and add a row to
``SCORES`` or ``ALIGNMENTS``: commands and checks follow from the table. ``relations`` says whose
maps ask a gate, as data: ``RELATIONS``.

Refuses to know which backbone the maps come from.

Read ``gate`` first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from flax_attn.attention import alignments, sampled, scores, sparse, spatial
from flax_attn.attention.alignments import Alignment
from flax_attn.attention.gate import AttentionGate, GateOutput
from flax_attn.attention.head_maps import merge_heads, overlap, region_map
from flax_attn.attention.queries import QUERIES, check_case, check_query
from flax_attn.attention.relations import RELATIONS
from flax_attn.attention.scores import Score
from flax_attn.attention.self_attention import SelfAttention
from flax_attn.config import ModelConfig, entry
from flax_attn.errors import UsageError

SCORES: dict[str, Callable[..., Score]] = {
    "gate": scores.gate,
    "additive": scores.additive,
    "concat": scores.concat,
    "dot": scores.dot,
    "scaled_dot": scores.scaled_dot,
    "general": scores.general,
    "biased_general": scores.biased_general,
    "activated_general": scores.activated_general,
    "cosine": scores.cosine,
    "neg_euclidean": scores.neg_euclidean,
}

ALIGNMENTS: dict[str, Callable[..., Alignment]] = {
    "sigmoid": alignments.sigmoid,
    "softmax": alignments.softmax,
    "sparsemax": sparse.sparsemax,
    "entmax": sparse.entmax,
    "hard": sampled.hard,
    "reinforced": sampled.reinforced,
    "local": spatial.local,
    "sigmoid_softmax": spatial.sigmoid_softmax,
}


def make_alignment(name: str, **options: Any) -> Alignment:
    """Returns the named alignment; options that are None keep its defaults.

    Raises:
      UsageError: an unknown name, an option that it does not take, or a value outside its range.
    """
    factory = entry(ALIGNMENTS, name, "norm")
    given = {option: value for option, value in options.items() if value is not None}
    unknown = given.keys() - inspect.signature(factory).parameters.keys()
    if unknown:
        flags = ", ".join(f"--{option}" for option in sorted(unknown))
        raise UsageError(f"--norm {name} takes no {flags}: drop it, or choose another --norm")
    try:
        return factory(**given)
    except ValueError as error:
        raise UsageError(f"--norm {name}: {error}") from error


def alignment_of(config: ModelConfig) -> Alignment:
    """Returns the alignment of a network's gates.

    Raises:
      UsageError: an option that the alignment does not take, or a value that it refuses.
    """
    return make_alignment(
        config.norm,
        temperature=config.temperature,
        window=config.window,
        estimator=config.estimator,
    )


def check_asked(config: ModelConfig, *, cases_known: bool = True) -> None:
    """Checks what asks the gates of a network, and that the cases have what it needs.

    Before a table is read, what its cases have is not known (``cases_known``).

    Raises:
      UsageError: unknown or contradictory settings, or cases of too few views or no metadata.
    """
    score = entry(SCORES, config.score, "score")()
    check_query(config, needs_query=score.needs_query)
    if cases_known:
        check_case(config)


__all__ = [
    "ALIGNMENTS",
    "QUERIES",
    "RELATIONS",
    "SCORES",
    "Alignment",
    "AttentionGate",
    "GateOutput",
    "Score",
    "SelfAttention",
    "alignment_of",
    "check_asked",
    "make_alignment",
    "merge_heads",
    "overlap",
    "region_map",
]
