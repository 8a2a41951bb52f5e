"""Batches of one fixed shape: which images each holds, and how they are decoded ahead."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from flax_attn.data.dataset import Split, read_image
from flax_attn.data.epoch_order import EpochOrder
from flax_attn.data.oversampling import Oversampling
from flax_attn.errors import UsageError
from flax_attn.system.thread_pool import ahead

# Beside the batch that is being used.
_BATCHES_AHEAD = 2

Places = tuple[Int[np.ndarray, " b"], Bool[np.ndarray, " b"]]


def num_batches(n: int, batch_size: int) -> int:
    """Returns how many batches an epoch over ``n`` images has, the last, partial one included."""
    return -(-n // batch_size)


@dataclass(frozen=True)
class Sampler:
    """The images of each batch of an epoch, a function of ``seed`` and the epoch's number alone.

    Args:
      batch_size: images in a batch.
      seed: of the order.
      shuffle: whether the order is random, another one each epoch; otherwise that of the split.
      part: (i, m), the i-th (from 0) of m equal parts of every batch; m must divide its size.
      oversampling: how often each image occurs in an epoch; None for once.
      random_order: how an epoch is shuffled; None for freely.

    Raises:
      UsageError: ``batch_size`` below 1 or not a multiple of the parts, or a negative ``seed``.
    """

    batch_size: int
    seed: int = 0
    shuffle: bool = False
    part: tuple[int, int] = (0, 1)
    oversampling: Oversampling | None = None
    random_order: EpochOrder | None = None

    def __post_init__(self) -> None:
        _check_at_least(1, batch_size=self.batch_size)
        _check_at_least(0, seed=self.seed)
        number, count = self.part
        if not 0 <= number < count or self.batch_size % count:
            raise UsageError(
                f"part is {self.part} of batches of {self.batch_size}: expected (i, m) with i from "
                "0 to m - 1 and m a divisor of the batch"
            )

    def length(self, n: int) -> int:
        """Returns how many images an epoch over ``n`` images shows, repeats counted."""
        return n if self.oversampling is None else self.oversampling.length

    def num_batches(self, n: int) -> int:
        """Returns how many batches an epoch over ``n`` images has, the last, partial one included.

        Whatever counts the steps of an epoch asks here.
        """
        return num_batches(self.length(n), self.batch_size)

    def order(self, n: int, epoch: int = 0) -> Int[np.ndarray, " m"]:
        """Returns the indices of ``n`` images in the order of an epoch, each as often as shown."""
        rng = np.random.default_rng([self.seed, epoch])
        shown = np.arange(n) if self.oversampling is None else self.oversampling.draw(rng)
        if self.shuffle and self.random_order is not None:
            return self.random_order.order(shown, rng)
        return rng.permutation(shown) if self.shuffle else shown

    def batches(self, n: int, epoch: int = 0, *, start: int = 0) -> list[Places]:
        """Returns indices and mask of each batch of an epoch over ``n`` images, from ``start`` on.

        Every image is in one batch, or in as many places as it is shown. The last batch is filled
        with images from the start of the epoch, where the mask is false.

        Raises:
          UsageError: a negative ``epoch``, or ``start`` outside it.
        """
        _check_at_least(0, epoch=epoch)
        total, size = self.num_batches(n), self.batch_size
        if not 0 <= start <= total:
            raise UsageError(f"start is {start}: expected 0 to {total}, the batches of an epoch")
        padded = np.resize(self.order(n, epoch), total * size).reshape(total, size)
        mask = (np.arange(total * size) < self.length(n)).reshape(total, size)
        number, count = self.part
        mine = slice(number * (size // count), (number + 1) * (size // count))
        return [(padded[i, mine], mask[i, mine]) for i in range(start, total)]


def _check_at_least(lowest: int, **given: int) -> None:
    for name, value in given.items():
        if value < lowest:
            raise UsageError(f"{name} is {value}: expected {lowest} or more")


class Batch(NamedTuple):
    """Decoded images with labels; places where ``mask`` is false are padding and must not count.

    Padding repeats images from the start of the epoch, so that batch statistics are of real
    images; the place of an image that is lost is padding, too, filled by its substitute
    (``quarantine``). ``index`` is the place of each image in its split. ``label`` has the form of
    the split's labels. Of cases of several pictures ``image`` has an axis for them.
    """

    image: UInt8[np.ndarray, "b *v h w 3"]
    label: Int32[np.ndarray, " b *k"]
    mask: Bool[np.ndarray, " b"]
    index: Int32[np.ndarray, " b"]  # type: ignore[assignment]  # hides tuple.index


def batches(
    split: Split, sampler: Sampler, epoch: int = 0, *, start: int = 0, workers: int = 2
) -> Generator[Batch, None, None]:
    """Yields the batches of an epoch, decoded ahead by ``workers`` threads.

    What follows batch ``start`` is the same as without the batches before it. Close the iterator
    (or let a ``for`` loop drop it) to stop the threads early; an error of a thread is raised as it
    is, in the place of its batch.

    Raises:
      UsageError: ``workers`` below 1, and as ``Sampler.batches``.
    """
    _check_at_least(1, workers=workers)
    return _decode(split, sampler.batches(len(split.labels), epoch, start=start), workers)


def _decode(split: Split, chunks: list[Places], workers: int) -> Generator[Batch, None, None]:
    labels = np.asarray(split.labels, np.int32)
    wanted = [int(i) for index, _ in chunks for i in index]
    count = _BATCHES_AHEAD * len(wanted) // max(len(chunks), 1)
    with closing(ahead(partial(read_image, split), wanted, count=count, workers=workers)) as read:
        for index, mask in chunks:
            images, places = zip(*islice(read, len(index)), strict=True)
            shown = np.array(places, np.int32)
            yield Batch(np.stack(images), labels[shown], mask & (shown == index), shown)
