"""Say what is on new images: ``flax-attn predict RUN PATHS…``."""

from __future__ import annotations

import csv
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from flax_attn.config import DataConfig, require_pictures_alone, validate
from flax_attn.data.decode import ImageError
from flax_attn.data.framing import decode_photograph
from flax_attn.errors import DataError, UsageError, name_some
from flax_attn.explain.photographs import find_images, warn_of_unknown
from flax_attn.explain.trained_run import Predictions, TrainedRun, load
from flax_attn.system import cli
from flax_attn.system.console import bar
from flax_attn.system.files import replacing, writing
from flax_attn.system.folders import require_writable
from flax_attn.training.choices import CHOICES

FILE = "predictions.csv"
REMEDY = "name a file of your own with --out"

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(prog="flax-attn predict", description=__doc__)
    cli.add_common(parser)
    parser.add_argument("run", help="run directory of flax-attn train")
    parser.add_argument("paths", nargs="+", help="images, or folders of images")
    parser.add_argument("--out", default=FILE, help=f"table to write (default: {FILE})")
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time (default: 16)")
    cli.add_settings(parser, CHOICES, "predict")
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {args.batch_size}")
    out = Path(args.out)
    if os.path.isdir(out):
        raise UsageError(f"--out {out} is a folder: {REMEDY}")
    require_writable(out.parent, remedy=REMEDY)
    run = load(args.run)
    config = run.config.updated(**cli.take_settings(vars(args), "predict"))
    validate(config)
    if run.config.model.view_names:
        require_pictures_alone(run.config.model, "predict")
    if run.metadata is not None:
        warn_of_unknown(run.metadata)
    paths = find_images([Path(given) for given in args.paths], out=out)
    started = time.perf_counter()
    with writing(out, remedy=REMEDY), replacing(out) as partial:
        count = _write(partial, run, paths, config.data, args.batch_size)
    seconds = time.perf_counter() - started
    _log.info(f"wrote {out}: {count} images, {count / seconds:.1f} images/s")


def _write(
    file: Path, run: TrainedRun, paths: Sequence[Path], data: DataConfig, batch_size: int
) -> int:
    """Writes a row an image: its name, the classes it is said to have, all probabilities.

    An image that cannot be used is a warning.

    Raises:
      DataError: none can be used; up to five are named.
    """
    count = 0
    with open(file, "w", newline="", encoding="utf-8", errors="backslashreplace") as opened:
        writer = csv.writer(opened)
        writer.writerow(["name", "prediction", *run.classes])
        refused: list[str] = []
        usable = _decoded(bar(paths, len(paths), "predicting"), data, refused)
        while chunk := list(islice(usable, batch_size)):
            names, images = [name for name, _ in chunk], [image for _, image in chunk]
            # The last batch has the shape of the others, for which the network is compiled.
            missing = batch_size - len(images) if count else 0
            filled = np.stack(images + images[-1:] * missing)
            said: Predictions = run.predict_squares(filled, batch_size=batch_size)
            for name, label, row in zip(names, said.labels, said.probabilities, strict=False):
                writer.writerow([name, label, *(f"{p:.6f}" for p in row)])
            count += len(names)
    if not count:
        shown = name_some(refused, separator="; ", last="; and")
        raise DataError(f"none of the {len(paths)} images can be used: {shown}")
    if count < len(paths):
        _log.warning(f"{len(paths) - count} of {len(paths)} images cannot be used")
    return count


def _decoded(
    paths: Iterable[Path], data: DataConfig, refused: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields what can be used, and warns of the rest once there is something that can.

    ``refused`` takes what cannot be used before that: all of it, where nothing can.
    """
    one_is_usable = False
    for path in paths:
        try:
            image = decode_photograph(path, data)
        except ImageError as error:
            if one_is_usable:
                _log.warning(str(error))
            else:
                refused.append(str(error))
            continue
        if not one_is_usable:
            one_is_usable = True
            for text in refused:
                _log.warning(text)
        yield str(path), image
