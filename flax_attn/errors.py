"""The errors that a user can act on, each with the exit code of a command that fails with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

# Things that a message names before it counts the rest.
NAMED = 5


def name_some(
    things: Iterable[Any],
    *,
    limit: int = NAMED,
    separator: str = ", ",
    last: str = " and",
    text: Callable[[Any], str] = str,
) -> str:
    """Returns the first things for a message, by ``text``, and how many more there are."""
    named = list(things)
    more = len(named) - limit
    return separator.join(map(text, named[:limit])) + (f"{last} {more} more" if more > 0 else "")


class FlaxAttnError(Exception):
    """A failure that one line explains: what was got, what was expected, what to do."""

    exit_code = 1


class UsageError(FlaxAttnError):
    """A wrong flag, configuration field or run directory."""

    exit_code = 2


class DataError(FlaxAttnError):
    """Images or labels that cannot be used as they are."""

    exit_code = 3


class CheckpointError(FlaxAttnError):
    """A checkpoint that is missing, damaged or belongs to another run."""

    exit_code = 4


class WeightsError(FlaxAttnError):
    """A weight file that is missing, unsafe or does not fit the network."""

    exit_code = 5


class NonFiniteError(FlaxAttnError):
    """A loss, gradient or statistic that is NaN or infinite."""

    exit_code = 6


class DiskFullError(FlaxAttnError):
    """No space is left on a disk."""

    exit_code = 7


class RunBusyError(FlaxAttnError):
    """Another process trains in the same run directory."""

    exit_code = 8


class OutOfMemoryError(FlaxAttnError):
    """No memory is left, on the host or on an accelerator."""

    exit_code = 10


class ProcessLostError(FlaxAttnError):
    """One of several processes that train together has died or fallen silent."""

    exit_code = 9
