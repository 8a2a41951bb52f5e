"""Values of settings whose text has a form of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flax_attn.errors import UsageError

# A name, which may have commas and equals signs of its own, and its weight.
_WEIGHT = re.compile(r"(.+?)=([^=,]*)(?:,|$)", re.DOTALL)
HEAVIEST = 1e6
MOST_OFTEN = 1000


def parse_class_weights(text: str) -> dict[str, float] | str:
    """Returns the weights that ``--class-weights`` names, by class, or the word that it is.

    Raises:
      UsageError: it is neither, a weight is no number from 0 to ``HEAVIEST``, or a class is named
        twice.
    """
    if text in ("none", "balanced"):
        return text
    expected = f"none, balanced, or weights from 0 to {HEAVIEST:.0f} by class, as in A=1,B=4"
    found: dict[str, float] = {}
    place = 0
    while place < len(text) or not text:
        match = _WEIGHT.match(text, place)
        if match is None:
            raise UsageError(f"--class-weights takes {expected}; got {text[place:]!r}")
        name, value = match.group(1).strip(), _number(match.group(2))
        if value is None or not 0 <= value <= HEAVIEST:
            raise UsageError(
                f"--class-weights takes {expected}; got {match.group(2)!r} for class {name!r}"
            )
        if name in found:
            raise UsageError(f"--class-weights names the class {name!r} twice: name it once")
        found[name] = value
        place = match.end()
    return found


def parse_oversample(text: str) -> float | str:
    """Returns the factor that ``--oversample`` gives, or the word that it is.

    Raises:
      UsageError: it is neither, or no factor above 1 and up to ``MOST_OFTEN``.
    """
    if text in ("none", "balanced"):
        return text
    factor = _number(text)
    if factor is None or not 1 < factor <= MOST_OFTEN:
        raise UsageError(
            f"--oversample takes none, balanced, or a number above 1, at most {MOST_OFTEN}; "
            f"got {text!r}"
        )
    return factor


def parse_roi_weights(entries: Sequence[str]) -> dict[str, float]:
    """Returns the weight of the region term that ``--roi-weights`` gives each gate.

    Raises:
      UsageError: an entry is not GATE=WEIGHT with a weight of at least 0, or names a gate again.
    """
    weights: dict[str, float] = {}
    for entry in entries:
        name, _, number = entry.partition("=")
        weight = _number(number)
        if not name or weight is None or not 0 <= weight < float("inf"):
            raise UsageError(
                f"--roi-weights takes GATE=WEIGHT with a weight of at least 0, such as "
                f"pool4=0.01, got {entry!r}"
            )
        if name in weights:
            raise UsageError(f"--roi-weights names {name} twice: keep one")
        weights[name] = weight
    return weights


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
