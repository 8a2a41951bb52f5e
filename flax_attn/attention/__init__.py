"""The attention family: score functions, alignment functions and the gate that joins them."""

from __future__ import annotations

from collections.abc import Callable

from flax_attn.attention import alignments, scores
from flax_attn.attention.alignments import Alignment
from flax_attn.attention.gate import AttentionGate, GateOutput
from flax_attn.attention.scores import Score

SCORES: dict[str, Callable[[], Score]] = {
    "gate": scores.gate,
}

ALIGNMENTS: dict[str, Callable[[], Alignment]] = {
    "sigmoid": alignments.sigmoid,
    "softmax": alignments.softmax,
}

__all__ = ["ALIGNMENTS", "SCORES", "Alignment", "AttentionGate", "GateOutput", "Score"]
