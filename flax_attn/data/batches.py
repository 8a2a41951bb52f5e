"""Batches of one fixed shape, decoded ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from flax_attn.data.dataset import Split, read_image
from flax_attn.errors import UsageError

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


_BATCHES_AHEAD = 3


class Batch(NamedTuple):
    """Places where ``mask`` is false are padding and must not count.

    Padding repeats images from the start of the epoch, so that batch statistics are of real
    images; the place of an image that is lost is padding, too, filled by its substitute
    (`quarantine`). ``index`` is the place of each image in its split. ``label`` has the form of the
    split's labels.
    """

    image: UInt8[np.ndarray, "b h w 3"]
    label: Int32[np.ndarray, " b *k"]
    mask: Bool[np.ndarray, " b"]
    index: Int32[np.ndarray, " b"]  # type: ignore[assignment]  # hides tuple.index


def num_batches(n: int, batch_size: int, *, drop_remainder: bool = False) -> int:
    """Batches in one epoch over ``n`` images; the last, partial one counts unless dropped."""
    return n // batch_size if drop_remainder else -(-n // batch_size)


def epoch_order(n: int, *, epoch: int, seed: int, shuffle: bool) -> Int[np.ndarray, " n"]:
    """The order of the images in an epoch, a function of ``seed`` and ``epoch`` alone."""
    if not shuffle:
        return np.arange(n)
    return np.random.default_rng([seed, epoch]).permutation(n)


def index_batches(
    n: int,
    *,
    batch_size: int,
    epoch: int,
    seed: int,
    shuffle: bool,
    start: int = 0,
    drop_remainder: bool = False,
    part: tuple[int, int] = (0, 1),
) -> list[tuple[Int[np.ndarray, " b"], Bool[np.ndarray, " b"]]]:
    """Indices and mask of each batch of an epoch, from batch ``start`` on.

    ``part`` (i, m) is the i-th (from 0) of m equal parts of every batch: m must divide its size.

    Raises:
      UsageError: ``batch_size`` below 1, a negative ``epoch`` or ``seed``, ``start`` outside
        the epoch.
    """
    for name, value, lowest in [
        ("batch_size", batch_size, 1),
        ("epoch", epoch, 0),
        ("seed", seed, 0),
    ]:
        if value < lowest:
            raise UsageError(f"{name} is {value}: expected {lowest} or more")
    total = num_batches(n, batch_size, drop_remainder=drop_remainder)
    if not 0 <= start <= total:
        raise UsageError(f"start is {start}: expected 0 to {total}, the batches of an epoch")
    order = epoch_order(n, epoch=epoch, seed=seed, shuffle=shuffle)
    padded = np.resize(order, total * batch_size).reshape(total, batch_size)
    mask = (np.arange(total * batch_size) < n).reshape(total, batch_size)
    size = batch_size // part[1]
    mine = slice(part[0] * size, (part[0] + 1) * size)
    return [(padded[i, mine], mask[i, mine]) for i in range(start, total)]


def batches(
    split: Split,
    *,
    batch_size: int,
    epoch: int,
    seed: int,
    shuffle: bool,
    workers: int = 2,
    start: int = 0,
    drop_remainder: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Generator[Batch, None, None]:
    """One epoch, each image exactly once; the last batch is padded to ``batch_size``.

    ``start`` is the first batch to yield: what follows is the same as without the batches before
    it. ``part`` is that of ``index_batches``. Close the iterator (or let a ``for`` loop drop it) to
    stop the threads early; an error of a thread is raised as it is, in the place of its batch.

    Raises:
      UsageError: ``workers`` below 1, and as ``index_batches`` does.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}: expected 1 or more")
    chunks = index_batches(
        len(split.labels),
        batch_size=batch_size,
        epoch=epoch,
        seed=seed,
        shuffle=shuffle,
        start=start,
        drop_remainder=drop_remainder,
        part=part,
    )
    return _decode_ahead(split, chunks, workers=workers)


def _decode_ahead(
    split: Split,
    chunks: list[tuple[Int[np.ndarray, " b"], Bool[np.ndarray, " b"]]],
    *,
    workers: int,
) -> Generator[Batch, None, None]:
    read = partial(read_image, split)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    ahead: deque[list[Future[tuple[np.ndarray, int]]]] = deque()
    submitted = 0
    labels = np.asarray(split.labels, np.int32)
    try:
        for index, mask in chunks:
            while submitted < len(chunks) and len(ahead) < _BATCHES_AHEAD:
                ahead.append([pool.submit(read, int(i)) for i in chunks[submitted][0]])
                submitted += 1
            images, places = zip(*(future.result() for future in ahead.popleft()), strict=True)
            shown = np.array(places, np.int32)
            yield Batch(np.stack(images), labels[shown], mask & (shown == index), shown)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
