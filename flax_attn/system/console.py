"""Standard output, which may be on a full disk."""

from __future__ import annotations

import os
import sys


def flush_output() -> None:
    """Writes out what has been said; where that fails, it and all that follows goes nowhere.

    What stays in the buffer would fail again wherever it is emptied next: at a progress bar, or
    when the interpreter ends, which would then leave with a code of its own.

    Raises:
      OSError: it cannot be written.
    """
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise
