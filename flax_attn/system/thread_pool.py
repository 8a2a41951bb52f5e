"""Work in threads: results in the order of the items, computed ahead, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# The most items of a task where each takes little: to hand over a task costs as much as a small
# file. Of fewer items every thread has several tasks, so that none is left with the last of them.
_MOST_ITEMS = 64
_TASKS_A_THREAD = 4


def ahead(
    function: Callable[[T], R], items: Iterable[T], *, count: int, workers: int = 1
) -> Generator[R, None, None]:
    """Yields ``function`` of each item, in order; up to ``count`` are computed beforehand.

    Nothing starts before the first is asked for. Close the generator (or let a ``for`` loop drop
    it) to stop early; an error is raised as it is, in the place of its item.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ahead_in_chunks(
    function: Callable[[T], R], items: Sequence[T], *, workers: int
) -> Generator[R, None, None]:
    """Yields ``function`` of each of very many items that take little, in order.

    As ``ahead``, but a thread takes several items at a time. A pool's own ``map`` would make a task
    of every item before the first is done.
    """

    def work(chunk: Sequence[T]) -> list[R]:
        return [function(item) for item in chunk]

    tasks = _TASKS_A_THREAD * workers
    size = min(max(len(items) // tasks, 1), _MOST_ITEMS)
    chunks = (items[start : start + size] for start in range(0, len(items), size))
    with closing(ahead(work, chunks, count=tasks, workers=workers)) as done:
        for results in done:
            yield from results
