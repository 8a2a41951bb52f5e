"""Batches of one fixed shape, decoded ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from flax_attn.data.dataset import Split
from flax_attn.errors import UsageError

_BATCHES_AHEAD = 3


class Batch(NamedTuple):
    """Places where ``mask`` is false are padding: image 0, label 0, index -1.

    ``index`` is the place of each image in its split.
    """

    image: UInt8[np.ndarray, "b h w 3"]
    label: Int32[np.ndarray, " b"]
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
) -> Generator[Batch, None, None]:
    """One epoch, each image exactly once; the last batch is padded to ``batch_size``.

    ``start`` is the first batch to yield: what follows is the same as without the batches before
    it. Close the iterator (or let a ``for`` loop drop it) to stop the threads early; an error of
    a thread is raised as it is, in the place of its batch.

    Raises:
      UsageError: ``batch_size`` or ``workers`` below 1, a negative ``epoch`` or ``seed``,
        ``start`` outside the epoch.
    """
    total = num_batches(len(split.labels), max(batch_size, 1), drop_remainder=drop_remainder)
    for name, value, lowest in [
        ("batch_size", batch_size, 1),
        ("workers", workers, 1),
        ("epoch", epoch, 0),
        ("seed", seed, 0),
    ]:
        if value < lowest:
            raise UsageError(f"{name} is {value}: expected {lowest} or more")
    if not 0 <= start <= total:
        raise UsageError(f"start is {start}: expected 0 to {total}, the batches of an epoch")
    order = epoch_order(len(split.labels), epoch=epoch, seed=seed, shuffle=shuffle)
    chunks = [order[i * batch_size : (i + 1) * batch_size] for i in range(start, total)]
    return _decode_ahead(split, chunks, batch_size=batch_size, workers=workers)


def _decode_ahead(
    split: Split, chunks: list[Int[np.ndarray, " n"]], *, batch_size: int, workers: int
) -> Generator[Batch, None, None]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    ahead: deque[list[Future[np.ndarray]]] = deque()
    submitted = 0
    try:
        for chunk in chunks:
            while submitted < len(chunks) and len(ahead) < _BATCHES_AHEAD:
                ahead.append([pool.submit(split.image, int(i)) for i in chunks[submitted]])
                submitted += 1
            images = [future.result() for future in ahead.popleft()]
            yield _pad(images, split.labels[chunk], chunk, batch_size)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pad(
    images: list[np.ndarray],
    labels: Int[np.ndarray, " n"],
    index: Int[np.ndarray, " n"],
    batch_size: int,
) -> Batch:
    n = len(images)
    batch = Batch(
        image=np.zeros((batch_size, *images[0].shape), np.uint8),
        label=np.zeros(batch_size, np.int32),
        mask=np.arange(batch_size) < n,
        index=np.full(batch_size, -1, np.int32),
    )
    np.stack(images, out=batch.image[:n])
    batch.label[:n] = labels
    batch.index[:n] = index
    return batch
