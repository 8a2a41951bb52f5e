"""Where the processes of a run meet, as the command line says it."""

from __future__ import annotations

from dataclasses import dataclass

from flax_attn.errors import UsageError

# What ``--coordinator`` takes for what JAX finds out by itself.
AUTO = "auto"


@dataclass(frozen=True)
class Meeting:
    """Coordinator (``host:port`` of the first process), number of processes, index of this one.

    Under the coordinator ``AUTO`` JAX finds out all three, and the numbers are None.
    """

    coordinator: str
    count: int | None = None
    index: int | None = None


def meeting_of(coordinator: str | None, count: int | None, index: int | None) -> Meeting | None:
    """Returns the meeting that flags name, None where none of them was given.

    Raises:
      UsageError: only some of the flags were given, or a value is out of its range.
    """
    if coordinator is None and count is None and index is None:
        return None
    if coordinator == AUTO:
        if count is not None or index is not None:
            raise UsageError(
                f"--coordinator {AUTO} finds out how many processes there are, and which this one "
                "is: drop --num-processes and --process-id"
            )
        return Meeting(AUTO)
    if coordinator is None or count is None or index is None:
        raise UsageError(
            "several processes need all of --coordinator, --num-processes and --process-id, or "
            f"--coordinator {AUTO} alone"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--coordinator takes host:port or {AUTO}, got {coordinator!r}")
    if count < 2:
        raise UsageError(f"--num-processes must be at least 2, got {count}")
    if not 0 <= index < count:
        raise UsageError(f"--process-id must be between 0 and {count - 1}, got {index}")
    return Meeting(coordinator, count, index)
