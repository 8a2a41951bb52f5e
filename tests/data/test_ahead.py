"""Work ahead: in order, bounded, stopped early."""

from __future__ import annotations

import threading
import time

import pytest

from flax_attn.data.batches import ahead


def test_results_come_in_order() -> None:
    def slow_first(i: int) -> int:
        time.sleep(0.02 if i == 0 else 0)
        return i * i

    assert list(ahead(slow_first, range(20), count=3, workers=3)) == [i * i for i in range(20)]
    assert list(ahead(slow_first, [], count=3)) == []
    assert list(ahead(slow_first, range(5), count=0)) == [0, 1, 4, 9, 16]


def test_it_works_ahead_as_far_as_allowed() -> None:
    done: list[int] = []
    results = ahead(done.append, range(100), count=2)
    assert not done
    next(results)
    deadline = time.monotonic() + 5
    while len(done) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert done == [0, 1, 2]
    results.close()


def test_an_error_is_raised_in_its_place_and_stops_the_threads() -> None:
    def fail(i: int) -> int:
        if i == 2:
            raise KeyError("two")
        return i

    results = ahead(fail, range(9), count=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="two"):
        next(results)
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


def test_closing_early_stops_the_threads() -> None:
    for _ in ahead(lambda i: time.sleep(0.001), range(1000), count=4, workers=2):
        break
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]
