"""What a network says of a stream of image files: in their order, unusable ones with the reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from flax_attn.config import DataConfig, parse_views
from flax_attn.data.decode import ImageError
from flax_attn.data.framing import decode_photograph
from flax_attn.explain.predictions import Asking
from flax_attn.explain.predictor import Predictor
from flax_attn.models.tasks import names_of
from flax_attn.runs.thresholds import Thresholds
from flax_attn.system.console import bar
from flax_attn.system.thread_pool import ahead

# Decoded beside the batch that is computed, in batches.
_AHEAD = 2
# Images that wait for a full batch, in batches: of many unusable ones in a row only so many.
_WAITING = 8

Square = UInt8[np.ndarray, "s s 3"]


class Said(NamedTuple):
    """What a network says of an image.

    Args:
      labels: the classes that it is said to have: the likeliest, or all above one half.
      at_threshold: the same by the thresholds of training; None where there are none.
      probabilities: of each class.
      maps: by name.
      image: as the network sees it, or as it makes its views of it.
      views: what ``--views`` named; None where maps lie over the image itself.
      weights: those of the views by their names, where a gate joins them.
    """

    labels: list[str]
    at_threshold: list[str] | None
    probabilities: Float[np.ndarray, "k"]
    maps: Mapping[str, Float[np.ndarray, "_ _"]]
    image: Square
    views: str | None = None
    weights: Mapping[str, float] | None = None


class PredictedImage(NamedTuple):
    """A file, its number (from 1), and what is said of it, or why it cannot be used."""

    number: int
    name: str
    said: Said | None
    error: str | None


def predict_images(
    predictor: Predictor,
    paths: Iterable[Path],
    data: DataConfig,
    how: Asking,
    *,
    total: int | None = None,
) -> Generator[PredictedImage, None, None]:
    """Yields what is said of files in their order; unusable ones come with the reason.

    A few batches are decoded ahead by ``data.workers`` threads, and no more is in memory, however
    many files there are. Shows the progress; ``total`` is their number where it is known.
    """
    say = partial(_say, predictor, how)
    batch_size = how.batch_size
    read = partial(_read, data=data)
    # None beside a single image: who sends names one by one may wait for each answer.
    files = ahead(read, paths, count=_AHEAD * (batch_size - 1), workers=data.workers)
    display = bar(files, total, "predicting")
    started = time.perf_counter()
    waiting: list[tuple[Path, Square | ImageError]] = []
    done = ready = 0
    with closing(files):
        for path, found in display:
            waiting.append((path, found))
            ready += not isinstance(found, ImageError)
            if ready == batch_size or len(waiting) >= _WAITING * batch_size:
                yield from _predict(say, waiting, done, batch_size)
                done, ready, waiting = done + len(waiting), 0, []
                display.set_postfix_str(f"{done / (time.perf_counter() - started):.1f} images/s")
        # The last batch has the shape of the others, for which the network is compiled.
        yield from _predict(say, waiting, done, batch_size)


def _read(path: Path, data: DataConfig) -> tuple[Path, Square | ImageError]:
    try:
        return path, decode_photograph(path, data)
    except ImageError as error:
        return path, error


def _predict(
    say: Callable[[list[Square], int], Iterator[Said]],
    files: list[tuple[Path, Square | ImageError]],
    done: int,
    batch_size: int,
) -> Iterator[PredictedImage]:
    squares = [found for _, found in files if not isinstance(found, ImageError)]
    each = iter(say(squares, batch_size if done else len(squares)))
    for number, (path, found) in enumerate(files, start=done + 1):
        if isinstance(found, ImageError):
            yield PredictedImage(number, str(path), None, found.reason)
        else:
            yield PredictedImage(number, str(path), next(each), None)


def cuts_of(predictor: Predictor, *, calibrated: bool) -> Thresholds | None:
    """Returns the thresholds of what is said, at the temperature as its probabilities are."""
    found = predictor.thresholds
    if found is None or not found.found:
        return None
    return found.calibrated(predictor.temperature if calibrated else None)


def _say(predictor: Predictor, how: Asking, squares: list[Square], size: int) -> Iterator[Said]:
    if not squares:
        return
    missing = size - len(squares)
    filled = np.stack(squares + squares[-1:] * missing)
    said = predictor.predict_squares(filled, replace(how, batch_size=size))
    at_threshold = None
    if (found := cuts_of(predictor, calibrated=how.calibrated)) is not None:
        at_threshold = predictor.task.decide_at(said.probabilities, list(found.values.values()))
    classes, names = predictor.classes, parse_views(predictor.views).names
    for i in range(len(squares)):
        yield Said(
            names_of(classes, said.decided[i]),
            None if at_threshold is None else names_of(classes, at_threshold[i]),
            said.probabilities[i],
            {name: maps[i] for name, maps in said.attention.items()},
            said.images[i],
            predictor.views,
            None
            if said.weights is None
            else dict(zip(names, said.weights[i].tolist(), strict=True)),
        )
