"""The errors that a user can act on, each with the exit code of a command that fails with it."""

from __future__ import annotations


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
