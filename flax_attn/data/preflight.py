"""Finds unusable images before training starts instead of an hour into it."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

from flax_attn.data.dataset import Split
from flax_attn.data.decode import check
from flax_attn.errors import DataError

_SHOWN = 5


@runtime_checkable
class EncodedSplit(Split, Protocol):
    """A split of encoded images, as opposed to drawn ones."""

    def source(self, index: int) -> bytes | Path:
        """The file, or the content of one, that image ``index`` is decoded from."""
        ...


def find_problems(split: Split, *, workers: int = 8) -> list[str]:
    """One line for each image that cannot be used, in order; nothing for images that are drawn."""
    if not isinstance(split, EncodedSplit):
        return []

    def problem(index: int) -> str | None:
        source = split.source(index)
        try:
            check(source, name=split.names[index] if isinstance(source, bytes) else None)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(workers) as pool:
        return [line for line in pool.map(problem, range(len(split.labels))) if line is not None]


def preflight(splits: Iterable[Split], *, workers: int = 8) -> None:
    """Checks every image of the splits.

    Raises:
      DataError: names up to five images that cannot be used, with the reasons, and their number.
    """
    problems = [line for split in splits for line in find_problems(split, workers=workers)]
    if not problems:
        return
    shown = "; ".join(problems[:_SHOWN])
    rest = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    raise DataError(f"{len(problems)} unusable image(s), repair or remove them: {shown}{rest}")
