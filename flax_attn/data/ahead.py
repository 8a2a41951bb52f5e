"""Work done ahead of the one who asks for it, by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(
    function: Callable[[T], R], items: Iterable[T], *, count: int, workers: int = 1
) -> Generator[R, None, None]:
    """``function`` of each item, in their order, up to ``count`` of them before they are asked for.

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
