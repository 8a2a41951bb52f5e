"""Several processes that train one network: how they join, exchange values and end together.

JAX has the processes meet at a coordinator, which the first of them starts, and compiles steps
over the devices of all. Waiting for each other inside a step cannot be interrupted, so a process
that fails posts its failure at the coordinator, where a thread of every other process polls.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Int

from flax_attn.errors import ProcessLostError, UsageError
from flax_attn.system.console import cleared_line
from flax_attn.system.failures import as_our_error
from flax_attn.system.json_text import encode_json
from flax_attn.system.meeting import AUTO, Meeting
from flax_attn.system.signals import StoppedError

Tree = TypeVar("Tree")

# Seconds: until all processes have started; without a sign of life until one counts as lost; that
# the others wait at the end while the first writes and draws; until they have read of a failure.
JOIN_WITHIN, SILENT_FOR, LEAVE_WITHIN, HEAR_WITHIN = 120, 30, 1800, 5
_LOOK_EVERY = 0.3

_NAMES = ("failed", "heard", "gone", "alive", "said", "left")
_FAILED, _HEARD, _GONE, _ALIVE, _SAID, _LEFT = (f"flax_attn/{name}" for name in _NAMES)


@dataclass(frozen=True)
class Processes:
    """The processes of a run and the index of this one; by default a single process."""

    count: int = 1
    index: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the first process, the one that writes."""
        return self.index == 0

    def gather(self, numbers: Int[np.ndarray, "n"]) -> Int[np.ndarray, "p n"]:
        """Gathers the numbers of every process, one row each; all must call this."""
        if self.count == 1:
            return numbers[None]
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(numbers)

    def from_first(self, tree: Tree) -> Tree:
        """Returns the first process's tree of arrays, bit for bit; all must call this."""
        if self.count == 1:
            return tree
        from jax.experimental import multihost_utils

        leaves, structure = jax.tree.flatten(tree)
        arrays = [np.array(leaf, ndmin=1) for leaf in leaves]
        packed = np.concatenate([array.reshape(-1).view(np.uint8) for array in arrays])
        packed = np.asarray(multihost_utils.broadcast_one_to_all(packed))
        ends = np.cumsum([array.nbytes for array in arrays])
        received = [
            piece.view(array.dtype).reshape(np.shape(leaf))
            for piece, array, leaf in zip(np.split(packed, ends[:-1]), arrays, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, received)

    def first_says(self, name: str, text: str) -> str:
        """Returns the first process's ``text`` in every process; use each ``name`` only once."""
        if self.count == 1:
            return text
        if self.first:
            _client().key_value_set(f"{_SAID}/{name}", text)
            return text
        return _client().blocking_key_value_get(f"{_SAID}/{name}", 1000 * LEAVE_WITHIN)


ALONE = Processes()


@contextmanager
def joined(meeting: Meeting | None) -> Iterator[Processes]:
    """Joins the other processes before anything else uses JAX, and leaves together with them.

    A failure in one process ends the others with its line and exit code. Without a meeting the
    process is alone.

    Raises:
      UsageError: the others do not come.
      ProcessLostError: another process has died.
    """
    if meeting is None:
        yield ALONE
        return
    processes = _meet(meeting)
    watch = _Watch(processes)
    try:
        try:
            yield processes
        except StoppedError:
            watch.leave()
            raise
        watch.leave()
    except jax.errors.JaxRuntimeError as error:
        line = str(error).splitlines()[0]
        lost = ProcessLostError(
            f"process {processes.index} of {processes.count} cannot go on, another may be lost: "
            f"{line}; start all again, the last checkpoint is whole"
        )
        watch.fail(lost)
        raise lost from error
    except StoppedError:
        raise
    except BaseException as error:
        watch.fail(error)
        raise


def _meet(meeting: Meeting) -> Processes:
    if meeting.coordinator == AUTO:
        who, where = "this process", f"--coordinator {AUTO} found them"
        advice = "start all of them by the same srun or mpirun"
    else:
        who, where = f"process {meeting.index} of {meeting.count}", meeting.coordinator
        advice = (
            "start all of them, each with its own --process-id, and the address of the first one"
        )
    late = f"{who} met no others at {where} within {JOIN_WITHIN} s: {advice}"
    # Without this timer JAX would abort, with a stack trace.
    timer = threading.Timer(JOIN_WITHIN, _give_up, args=(late,))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            None if meeting.coordinator == AUTO else meeting.coordinator,
            num_processes=meeting.count,
            process_id=meeting.index,
            initialization_timeout=2 * JOIN_WITHIN,
            heartbeat_timeout_seconds=2 * SILENT_FOR,
            shutdown_timeout_seconds=SILENT_FOR,
        )
    # What finds out about a cluster reads variables, files and pages that may be of any kind.
    except (RuntimeError, ValueError, LookupError, ImportError, OSError) as error:
        if meeting.coordinator == AUTO and _distributed().coordinator_address is None:
            raise UsageError(
                f"--coordinator {AUTO}: JAX finds no Slurm, Open MPI, TPU pod or GKE here "
                f"({_first_line(error)}): start the processes by srun or mpirun, or name "
                "--coordinator host:port, --num-processes and --process-id"
            ) from error
        raise UsageError(
            f"{who} cannot meet the others ({_first_line(error)}): {advice}"
        ) from error
    finally:
        timer.cancel()
    state = _distributed()
    return Processes(state.num_processes, state.process_id)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _give_up(line: str) -> None:
    os.write(2, f"error: {line}\n".encode())
    os._exit(UsageError.exit_code)


def _distributed() -> Any:
    # JAX has no public name for its coordinator's store; Orbax uses this one, too.
    from jax._src import distributed

    return distributed.global_state


def _client() -> Any:
    return _distributed().client


class _Watch:
    """Polls for failures of other processes, and posts this one's.

    The first process holds the store, so it ends last: JAX aborts the others when the store ends.
    """

    def __init__(self, processes: Processes):
        self._me, self._client = processes, _client()
        self._over = threading.Event()
        now = time.monotonic()
        self._alive = {i: ("", now) for i in range(processes.count) if i != processes.index}
        self._thread = threading.Thread(target=self._look, name="processes", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Waits until every process has called this."""
        self._client.wait_at_barrier(_LEFT, 1000 * LEAVE_WITHIN)
        self._stop()

    def fail(self, error: BaseException) -> None:
        """Posts the failure, waits until the others have read it, and ends the process at exit."""
        self._stop()
        code, line = _describe_failure(error)
        with suppress(RuntimeError):
            self._post(_FAILED, encode_json({"code": code, "line": line}))
        self._wait(_HEARD, _FAILED)
        # JAX would wait for the others once more.
        atexit.register(self._go, code)

    def _post(self, name: str, text: str = "") -> None:
        self._client.key_value_set(f"{name}/{self._me.index}", text, allow_overwrite=True)

    def _posted(self, name: str) -> dict[int, str]:
        entries = self._client.key_value_dir_get(name)
        return {int(key.rpartition("/")[2]): text for key, text in entries}

    def _wait(self, *names: str) -> None:
        """Waits until every other process has posted one of ``names``, or ``HEAR_WITHIN`` s."""
        deadline = time.monotonic() + HEAR_WITHIN
        with suppress(RuntimeError):
            while time.monotonic() < deadline:
                posted = set().union(*(self._posted(name) for name in names))
                if len(posted | {self._me.index}) == self._me.count:
                    return
                time.sleep(_LOOK_EVERY / 3)

    def _go(self, code: int) -> None:
        with suppress(RuntimeError):
            self._post(_GONE)
        if self._me.first:
            self._wait(_GONE)
        os._exit(code)

    def _stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        turn = 0
        while not self._over.wait(_LOOK_EVERY):
            turn += 1
            with suppress(RuntimeError):
                self._post(_ALIVE, str(turn))
                for index, text in self._posted(_FAILED).items():
                    failure = json.loads(text)
                    self._end(failure["code"], f"process {index} ended: {failure['line']}")
                self._miss(self._posted(_ALIVE))

    def _miss(self, posted: dict[int, str]) -> None:
        """Ends this process when another has been silent for more than ``SILENT_FOR`` s."""
        now = time.monotonic()
        for index, (before, since) in self._alive.items():
            text = posted.get(index, "")
            if text != before:
                self._alive[index] = (text, now)
            elif now - since > SILENT_FOR:
                self._end(
                    ProcessLostError.exit_code,
                    f"process {index} is lost, there was no sign of it for {SILENT_FOR} s; start "
                    "all again, the last checkpoint is whole",
                )

    def _end(self, code: int, line: str) -> None:
        self._post(_HEARD)
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os.write(2, f"{cleared_line()}error: {line}\n".encode())
        self._go(code)


def _describe_failure(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the line of a failure, as a command reports them."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if (failure := as_our_error(error)) is not None:
        return failure.exit_code, " ".join(str(failure).split())
    return 1, f"{type(error).__name__}: {' '.join(str(error).split())}"
