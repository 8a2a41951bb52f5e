"""Everything wrong with a set of weights, in one message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from flax_attn.errors import WeightsError

_KEYS_SHOWN = 5
_KEY_LENGTH = 100


class Leaf(Protocol):
    """What has a shape and a dtype: an array, a tensor, or a promise of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...


class Report:
    """Problems by kind, in the order they were found."""

    def __init__(self) -> None:
        self._problems: dict[str, list[str]] = {}

    def add(self, kind: str, key: str, detail: str = "") -> None:
        self._problems.setdefault(kind, []).append(printable(key) + detail)

    def add_misshapen(self, key: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
        self.add("misshapen", key, f" is {list(got)}, expected {list(expected)}")

    def check_values(self, key: str, array: np.ndarray, *, variance: bool) -> None:
        """Notes values that are not finite, and variances below zero."""
        # A sum is finite only if no term is NaN or infinite; it needs no mask of the array's
        # size. Finite terms can overflow it, so that is looked at again.
        with np.errstate(over="ignore", invalid="ignore"):
            total = array.sum()
        if not np.isfinite(total) and not np.isfinite(array).all():
            self.add("not finite", key)
        elif variance and (array < 0).any():
            self.add("negative running variance", key)

    def raise_if_any(self, headline: str, *, remedy: str) -> None:
        """Raises WeightsError with counts and up to five keys of each kind."""
        if self._problems:
            kinds = "; ".join(_summary(kind, keys) for kind, keys in self._problems.items())
            raise WeightsError(f"{headline}: {kinds}. {remedy}")


def printable(name: str) -> str:
    """A name from a file that may hold anything: one line, without control characters."""
    text = ascii(str(name))[1:-1]
    return text if len(text) <= _KEY_LENGTH else text[:_KEY_LENGTH] + "..."


def sizes(arrays: Mapping[str, Leaf]) -> tuple[int, int]:
    """The number of arrays and of their elements."""
    return len(arrays), sum(int(np.prod(a.shape, dtype=np.int64)) for a in arrays.values())


def is_variance(path: str) -> bool:
    """Whether a path of ours is a running variance."""
    return path.endswith("/norm/var")


def _summary(kind: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:_KEYS_SHOWN])
    rest = len(keys) - _KEYS_SHOWN
    return f"{len(keys)} {kind} ({shown}{f' and {rest} more' if rest > 0 else ''})"
