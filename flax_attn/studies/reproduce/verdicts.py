"""What an interval says of a claim: supported, not supported, or undecided."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from flax_attn.explain.intervals import Interval

Verdict = Literal["supported", "not supported", "undecided"]


def above(value: Interval, threshold: float = 0.0) -> Verdict:
    """That the value exceeds ``threshold``: decided when the whole interval lies on one side."""
    if not _known(value) or value.low <= threshold <= value.high:
        return "undecided"
    return "supported" if value.low > threshold else "not supported"


def below(value: Interval, threshold: float = 0.0) -> Verdict:
    """That the value is less than ``threshold``; the mirror image of ``above``."""
    return above(Interval(-value.estimate, -value.high, -value.low), -threshold)


def within(value: Interval, low: float, high: float) -> Verdict:
    """That the value lies in [low, high]: two one-sided tests, as of equivalence.

    Supported when the whole interval lies inside, not supported when all of it lies outside.
    """
    if not _known(value):
        return "undecided"
    if low <= value.low and value.high <= high:
        return "supported"
    return "not supported" if value.high < low or value.low > high else "undecided"


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Of a claim with several parts: one part refuted refutes it, one undecided leaves it open."""
    parts = list(verdicts)
    if "not supported" in parts:
        return "not supported"
    return "supported" if parts and set(parts) == {"supported"} else "undecided"


def _known(value: Interval) -> bool:
    return math.isfinite(value.low) and math.isfinite(value.high)
