"""Leaves in every way right after a save: ``python tests/exit_faults.py FOLDER COUNT``.

Each trial is a process of its own, forked before this one has used JAX. Prints how many did not
end, and how many checkpoints were not there afterwards.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from flax_attn.runs.checkpoints import Checkpoints
from tests.helpers.saved_states import CLASSES, is_state, make_progress, make_state

_PATIENCE = 20.0


def fall_off() -> None:
    pass


def exit_zero() -> None:
    sys.exit(0)


def exit_with_a_message() -> None:
    sys.exit("a message")


def raise_an_exception() -> None:
    raise RuntimeError


def interrupt() -> None:
    raise KeyboardInterrupt


def leave_at_once() -> None:
    os._exit(9)


WAYS = (fall_off, exit_zero, exit_with_a_message, raise_an_exception, interrupt, leave_at_once)


def child(folder: Path, step: int, leave: Callable[[], None]) -> None:
    """Saves a state that JAX holds, then leaves; what is raised ends this process."""
    import jax
    import jax.numpy as jnp

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    state = jax.tree.map(jnp.asarray, make_state(step))
    Checkpoints(folder).save(state, make_progress(), classes=CLASSES, rows=[])
    leave()


def ended(process: int) -> bool:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if os.waitpid(process, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    os.kill(process, 9)
    os.waitpid(process, 0)
    return False


def main(folder: Path, count: int) -> None:
    hangs, ways, saved = 0, Counter[str](), []
    for step in range(1, count + 1):
        way = WAYS[step % len(WAYS)]
        process = os.fork()
        if process == 0:
            return child(folder / str(step), step, way)
        hangs += not ended(process)
        ways[way.__name__] += 1
        saved.append(step)
    # Only now, as a process that uses JAX has threads and must not be forked.
    losses = sum(
        not is_state(Checkpoints(folder / str(step), read_only=True).load_latest(), step)
        for step in saved
    )
    print(f"{count} exits right after a save {dict(ways)}: hangs {hangs}, losses {losses}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
