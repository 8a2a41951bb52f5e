"""The Python that documents show: blocks by section, and the lines of tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| `(?P<name>fa\.[\w.]+)` \| (?P<text>[^|]+) \| `(?P<line>[^`]+)` \|$", re.M)


def sections(document: Path) -> dict[str, str]:
    """Returns the text under each heading of the second level."""
    _, *parts = _HEADING.split(document.read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def blocks(text: str) -> list[str]:
    """Returns the blocks of Python in a text."""
    return _BLOCK.findall(text)


def table_rows(text: str) -> list[tuple[str, str]]:
    """Returns name and line of code of each row that a table has of a stable name."""
    return [(row["name"], row["line"]) for row in _ROW.finditer(text)]


def program(text: str) -> str:
    """Returns the blocks of a section, then the lines of its tables, as one program."""
    return "\n".join([*blocks(text), *(line for _, line in table_rows(text))])


def run_program(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process of its own, in ``folder``; warnings are errors.

    Raises:
      AssertionError: it fails, with what it wrote.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done
