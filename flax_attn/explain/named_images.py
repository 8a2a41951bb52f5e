"""Image files that a command line names: files, folders, and names that come in one by one."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from flax_attn.data.found import describe_images
from flax_attn.data.image_formats import image_endings
from flax_attn.data.listing import Listing, describe_counts, walk_images
from flax_attn.data.own_output import refuse_among_images
from flax_attn.errors import DataError
from flax_attn.explain.predict_flags import STDIN
from flax_attn.system.files import reading

_log = logging.getLogger(__name__)


class NamedImages:
    """The images that are named, in their order; they are never in memory all at once.

    A file is taken whatever its ending, and whether it is there or not: reading it says. Of a
    folder, named here or by a line, the images are taken in the order of the names, folder by
    folder; hidden files, what commands wrote and files of other kinds are passed over.

    Args:
      given: files, folders, and ``-`` for the names of ``lines``.
      lines: names, one a line.
    """

    def __init__(self, given: Sequence[str], lines: BinaryIO | None = None):
        self._given = given
        self._lines = lines
        self.count: int | None = None

    def look(self, *, out: str, folders: Sequence[Path] = ()) -> None:
        """Counts what is named and says so in one line; before anything is computed.

        ``count`` is then the number of images, None where names come in one by one. ``out`` is
        where the command writes to, ``folders`` those of its own that it makes.

        Raises:
          DataError: a folder without images, or one that cannot be read.
          UsageError: one of ``folders`` holds images that are named.
        """
        listing, count = Listing(), 0
        holding: set[Path] = set()
        for name in self._given:
            if name == STDIN or not os.path.isdir(name):
                count += name != STDIN
                continue
            before = Listing()
            found = 0
            with reading(name, DataError):
                for image in walk_images(Path(name), before):
                    found += 1
                    holding.add(image.parent)
            if not found:
                counts = describe_counts(before.passed_over)
                others = f" but {counts}" if counts else ""
                raise DataError(
                    f"no images in folder {name!r}{others}: expected {' '.join(image_endings())}"
                )
            count += found
            listing.passed_over += before.passed_over
        roots = [Path(name) for name in self._given if os.path.isdir(name)]
        refuse_among_images(folders, roots=roots, folders=holding)
        open_end = STDIN in self._given
        sources = ["standard input" if name == STDIN else name for name in self._given]
        _log.info(
            describe_images(
                None if open_end and not count else count,
                listing.passed_over,
                sources=sources,
                out=out,
                more=open_end,
            )
        )
        self.count = None if open_end else count

    def __iter__(self) -> Iterator[Path]:
        for name in self._given:
            if name == STDIN:
                for line in self._lines or sys.stdin.buffer:
                    if text := os.fsdecode(line.rstrip(b"\r\n")):
                        yield from _images_of(text)
            else:
                yield from _images_of(name)


def _images_of(name: str) -> Iterator[Path]:
    """Yields a file, or the images of a folder; the folder itself if it has none, or is gone."""
    path, is_empty = Path(name), True
    if os.path.isdir(path):
        with suppress(OSError, DataError):  # reading the folder itself then says that it cannot
            for image in walk_images(path, Listing()):
                is_empty = False
                yield image
    if is_empty:
        yield path
