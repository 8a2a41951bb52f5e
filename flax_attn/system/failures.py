"""What goes wrong, as one line and an exit code: errors of the system as errors of ours."""

from __future__ import annotations

from flax_attn.errors import DiskFullError, FlaxAttnError, OutOfMemoryError, UsageError
from flax_attn.system.files import is_no_space, reason_of


def as_our_error(error: BaseException) -> FlaxAttnError | None:
    """Returns the error of ours that describes ``error``, None if there is none.

    Who reads or writes a file knows what it is for and says so (``files.reading``, ``writing``);
    what nobody has turned into an error of ours is told here by the file's name alone.
    """
    if isinstance(error, FlaxAttnError):
        return error
    # XLA raises several types of errors for it.
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return OutOfMemoryError(
            "out of memory: use a smaller --batch-size; training also has --accumulate and --remat"
        )
    if isinstance(error, OSError):
        return _system_error(error)
    return None


def _system_error(error: OSError) -> FlaxAttnError:
    if is_no_space(error):
        where = f" for {error.filename}" if error.filename else ""
        return DiskFullError(f"no space left{where}: free some and repeat the command")
    where = f"{error.filename}: " if error.filename else ""
    return UsageError(
        f"{where}{reason_of(error)}; see that it is there and yours to use, or name another "
        "(--debug shows what it was needed for)"
    )
