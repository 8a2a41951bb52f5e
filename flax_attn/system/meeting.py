"""Where the processes of a run meet, as the command line says it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Meeting:
    """Coordinator (``host:port`` of the first process), number of processes, index of this one."""

    coordinator: str
    count: int
    index: int
