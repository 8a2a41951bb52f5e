"""Where predictions go, one after the other: a table, and lines of JSON for programs."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from flax_attn.explain.predicted_images import PredictedImage
from flax_attn.system.console import flush_output
from flax_attn.system.files import replacing, writing
from flax_attn.system.json_text import encode_json

REMEDY = "name a file of your own with --out"

# The columns of the table; a probability a class stands after them.
COLUMNS = ("name", "prediction", "at_threshold", "error")


class Output(Protocol):
    """Takes predictions in their order."""

    def write(self, image: PredictedImage) -> bool:
        """Writes one; returns whether anybody wants more.

        Raises:
          DiskFullError: no space is left for it.
          UsageError: it cannot be written.
        """


class _Table:
    def __init__(self, file: TextIO, path: Path, classes: Sequence[str]):
        self._writer, self._path = csv.writer(file), path
        self._writer.writerow([*COLUMNS, *classes])
        self._empty = [""] * len(classes)

    def write(self, image: PredictedImage) -> bool:
        said = image.said
        if said is None:
            row = [image.name, "", "", image.error, *self._empty]
        else:
            labels, cut = "|".join(said.labels), "|".join(said.at_threshold or ())
            row = [image.name, labels, cut, "", *(f"{p:.6f}" for p in said.probabilities)]
        with writing(self._path, remedy=REMEDY):
            self._writer.writerow(row)
        return True


@contextmanager
def open_table(path: Path, classes: Sequence[str]) -> Iterator[Output]:
    """Yields a table (CSV) that takes the name ``path`` when the block ends well.

    A row an image: name, what it is said to have, the same at the run's threshold, why it cannot be
    used, and the probability of each class. Several classes are separated by ``|``.

    Raises:
      DiskFullError: no space is left for it.
      UsageError: it cannot be written.
    """
    with writing(path, remedy=REMEDY), replacing(path) as partial:
        with open(partial, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            yield _Table(file, path, classes)


class JsonLines:
    """Lines of JSON on standard output, an object an image, each written at once.

    Who reads them may leave (``| head``): then nobody wants more, which is no failure.

    Args:
      classes: their names, in the order of the probabilities.
      exclusive: whether an image has exactly one class; otherwise predictions are lists.
    """

    def __init__(self, classes: Sequence[str], *, exclusive: bool):
        self._classes, self._exclusive = classes, exclusive
        self._gone = False

    def write(self, image: PredictedImage) -> bool:
        """Writes one; returns whether anybody reads.

        Raises:
          DiskFullError: standard output is a file, and no space is left for it.
          UsageError: it cannot be written.
        """
        if self._gone:
            return False
        with writing("standard output"):
            try:
                sys.stdout.write(encode_json(self._object(image)) + "\n")
                flush_output()
            except BrokenPipeError:
                self._gone = True
                # What is left in the buffer would fail once more when the process ends.
                with suppress(OSError):
                    flush_output()
        return not self._gone

    def _object(self, image: PredictedImage) -> dict[str, Any]:
        values: dict[str, Any] = dict.fromkeys((*COLUMNS, "probabilities"))
        values |= {"name": image.name, "error": image.error}
        if (said := image.said) is not None:
            numbers = [round(float(p), 6) for p in said.probabilities]
            values["prediction"] = self._plain(said.labels)
            values["at_threshold"] = self._plain(said.at_threshold)
            values["probabilities"] = dict(zip(self._classes, numbers, strict=True))
            if said.weights is not None:
                values["views"] = {name: round(w, 6) for name, w in said.weights.items()}
        return values

    def _plain(self, labels: list[str] | None) -> str | list[str] | None:
        return labels[0] if labels and self._exclusive else labels
