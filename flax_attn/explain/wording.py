"""What is said of a photograph, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from flax_attn.explain.explainer import Explained


def verdict(item: Explained, classes: Sequence[str]) -> str:
    """The classes that are said, each with its probability."""
    said = np.flatnonzero(item.decided).tolist()
    return ", ".join(f"{classes[j]} {item.probabilities[j]:.1%}" for j in said) or "nothing"


def truth_text(item: Explained, classes: Sequence[str]) -> str | None:
    """The classes the photograph has; None where that is not known."""
    return None if item.truth is None else _names(item.truth, classes) or "nothing"


def _names(has: Bool[np.ndarray, "k"], classes: Sequence[str]) -> str:
    return ", ".join(name for name, there in zip(classes, has, strict=True) if there)
