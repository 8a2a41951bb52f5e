from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flax_attn.system.signals import StoppedError, stop_on_signals

# A process that is busy in one call outside of Python, as while XLA compiles: handlers wait.
BUSY = """
import hashlib, sys
from flax_attn.system.signals import stop_on_signals
with stop_on_signals(within=float(sys.argv[1])):
    print("busy", flush=True)
    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_is_a_request(number: signal.Signals, code: int) -> None:
    with stop_on_signals(within=60) as stop:
        stop.raise_if_requested("nothing")
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(StoppedError, match=f"stopped by {number.name}: all is well") as caught:
            stop.raise_if_requested("all is well")
    assert caught.value.exit_code == code


def test_everything_is_put_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), stop_on_signals(within=60):
            os.kill(os.getpid(), signal.SIGTERM)
            raise ZeroDivisionError
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert "signals" not in {thread.name for thread in threading.enumerate()}


def leave(within: float, *numbers: signal.Signals) -> tuple[int, str, float]:
    """Exit code, last line and seconds of a busy process that gets these signals."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(within)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "busy\n"
        started = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.05)
        _, error = process.communicate(timeout=30)
    return process.returncode, error, time.monotonic() - started


def test_the_time_to_stop_is_limited() -> None:
    code, error, seconds = leave(0.5, signal.SIGTERM)
    assert code == 143
    assert error.strip() == (
        "error: left 0.5 s after SIGTERM, without saving: the last checkpoint is whole"
    )
    assert 0.4 < seconds < 5


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((signal.SIGTERM, signal.SIGTERM), 143),
        ((signal.SIGINT, signal.SIGINT), 130),
        ((signal.SIGTERM, signal.SIGINT), 130),
    ],
)
def test_the_second_signal_leaves_at_once(numbers: tuple[signal.Signals, ...], code: int) -> None:
    found, error, seconds = leave(60, *numbers)
    assert found == code
    assert error.strip().startswith("error: left at once") and "\n" not in error.strip()
    assert seconds < 5
