"""Say what is on new images: ``flax-attn predict RUN PATHS…``.

RUN is a run directory, a folder that ``flax-attn publish`` wrote, or a folder or file of
``flax-attn export``.
"""

from __future__ import annotations

import logging
import os
import time
from argparse import Namespace
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from flax_attn.config import DataConfig, check_ranges
from flax_attn.errors import NAMED, DataError, UsageError
from flax_attn.explain.named_images import NamedImages
from flax_attn.explain.photographs import warn_of_unknown
from flax_attn.explain.predict_flags import FILE, parse
from flax_attn.explain.predicted_images import PredictedImage, cuts_of, predict_images
from flax_attn.explain.prediction_maps import MAPS, PLACES
from flax_attn.explain.prediction_outputs import REMEDY, JsonLines, Output, open_table
from flax_attn.explain.predictions import Asking
from flax_attn.explain.predictor import Predictor, open_predictor
from flax_attn.system import cli
from flax_attn.system.console import speak
from flax_attn.system.folders import require_writable
from flax_attn.training.test_time import require_unmoved

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    """Runs ``flax-attn predict``: writes what a network says of images without labels.

    Raises:
      FlaxAttnError: a failure that one line explains; ``cli.run`` prints it.
    """
    args = parse(argv)
    speak(on_stderr=args.json)
    table = Path(args.out or FILE)
    folders = [PLACES[args.maps](table)] if args.maps == "png" else []
    if os.path.isdir(table):
        raise UsageError(f"--out {table} is a folder: {REMEDY}")
    if args.out or args.maps or not args.json:
        require_writable(table.parent, remedy=REMEDY)
    predictor = open_predictor(Path(args.run))
    data = replace(predictor.data, **cli.take_settings(vars(args), "predict"))
    check_ranges(data)
    if args.maps and not predictor.has_maps:
        raise UsageError(f"--maps {args.maps}: the network of {args.run} has no gates: drop it")
    if predictor.metadata is not None:
        warn_of_unknown(predictor.metadata)
    if args.tta and not predictor.takes_tta:
        raise UsageError(f"--tta needs a run: {args.run} is an export: drop it, or name the run")
    require_unmoved(args.tta, predictor.views)
    if (found := cuts_of(predictor, calibrated=not args.uncalibrated)) is not None:
        cuts = ", ".join(f"{name} above {value:.4f}" for name, value in found.values.items())
        _log.info(f"at_threshold: {cuts}; chosen on the validation images, epoch {found.epoch}")
    written = _places(args, table)
    images = NamedImages(args.paths)
    images.look(out=" and ".join(written), folders=folders)
    _predict(args, predictor, images, data, table, written)


def _places(args: Namespace, table: Path) -> list[str]:
    """Returns what is written, as messages name it."""
    places = [str(table)] if args.out or not args.json else []
    places += [str(PLACES[args.maps](table))] if args.maps else []
    return [*places, *(["standard output"] if args.json else [])]


def _predict(
    args: Namespace,
    predictor: Predictor,
    images: NamedImages,
    data: DataConfig,
    table: Path,
    written: Sequence[str],
) -> None:
    started = time.perf_counter()
    with ExitStack() as stack:
        outputs: list[Output] = []
        if args.out or not args.json:
            outputs.append(stack.enter_context(open_table(table, predictor.classes)))
        if args.maps:
            outputs.append(stack.enter_context(MAPS[args.maps](table)))
        if args.json:
            exclusive = predictor.task.exclusive
            outputs.append(JsonLines(predictor.classes, exclusive=exclusive))
        said = predict_images(
            predictor,
            images,
            data,
            Asking(args.batch_size, args.tta, not args.uncalibrated),
            total=images.count,
        )
        with closing(said):
            tally = _write(said, outputs)
    if not tally.wanted:  # who read standard output has left
        return
    seconds, count = time.perf_counter() - started, tally.images - tally.unusable
    if tally.unusable:
        where = f"column error of {table}" if args.out or not args.json else "its error says why"
        _log.warning(f"{tally.unusable} of {tally.images} images cannot be used ({where}): {tally}")
    _log.info(f"wrote {' and '.join(written)}: {count} images, {count / seconds:.1f} images/s")


class _Tally(NamedTuple):
    """How many images there were, how many of them unusable, and a few of these with the reason.

    ``wanted`` is false where the outputs wanted no more of them.
    """

    images: int
    unusable: int
    shown: Sequence[str]
    wanted: bool = True

    def __str__(self) -> str:
        more = self.unusable - len(self.shown)
        return "; ".join(self.shown) + (f"; and {more} more" if more else "")


def _write(said: Iterable[PredictedImage], outputs: Sequence[Output]) -> _Tally:
    """Writes predictions to all outputs, while one of them wants more.

    Raises:
      DataError: there is no image, or none can be used; up to five are named.
    """
    count = unusable = 0
    shown: list[str] = []
    for image in said:
        count += 1
        unusable += image.said is None
        if image.said is None and len(shown) < NAMED:
            shown.append(f"{image.name!r}: {image.error}")
        # A list: each of them must get it.
        if not any([output.write(image) for output in outputs]):
            return _Tally(count, unusable, shown, wanted=False)
    tally = _Tally(count, unusable, shown)
    if count == 0:
        raise DataError("no names of images on standard input: expected one a line")
    if count == unusable:
        raise DataError(f"none of the {count} images can be used: {tally}")
    return tally
