"""The mark of folders that commands write to, by which nothing written is read as data."""

from __future__ import annotations

from pathlib import Path

MARK = ".flax_attn_output"

_TEXT = "Written by flax_attn: what lies in this folder is never read as a data set.\n"


def mark_output(folder: Path) -> None:
    """Makes a folder if it is missing, and marks it as a place that a command writes to.

    Raises:
      OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / MARK
    if not mark.exists():
        mark.write_text(_TEXT, encoding="ascii")
