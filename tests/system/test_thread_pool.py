"""Threads work ahead, in order, and in bounded memory."""

from __future__ import annotations

import threading

import pytest

from flax_attn.system.thread_pool import ahead_in_chunks


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    assert list(ahead_in_chunks(lambda i: 2 * i, range(count), workers=3)) == [
        2 * i for i in range(count)
    ]


def test_few_items_are_worked_on_before_they_are_needed() -> None:
    done: list[int] = []
    found = ahead_in_chunks(done.append, range(100_000), workers=2)
    assert not done
    next(found)
    found.close()
    assert len(done) <= 64 * (4 * 2 + 2)
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


def test_every_thread_has_some_of_a_few_items() -> None:
    """Each waits for the others: one thread alone would wait for ever."""
    together = threading.Barrier(4, timeout=60)
    assert len(list(ahead_in_chunks(lambda _: together.wait(), range(20), workers=4))) == 20


def test_an_error_is_raised_in_its_place() -> None:
    def work(i: int) -> int:
        if i == 130:
            raise KeyError(i)
        return i

    found, got = ahead_in_chunks(work, range(300), workers=2), []
    with pytest.raises(KeyError):
        for each in found:
            got.append(each)
    size = 300 // (4 * 2)
    assert got == list(range(130 // size * size))  # of the chunks before
