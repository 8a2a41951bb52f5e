"""The maps of predictions, one after the other: a picture an image, or arrays in one file."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from flax_attn.errors import UsageError
from flax_attn.explain.predicted_images import PredictedImage, Said
from flax_attn.explain.prediction_outputs import REMEDY, Output
from flax_attn.models.derived import place_of_map, shown_views
from flax_attn.system.files import replacing, writing
from flax_attn.system.output import MARK, mark_output

# Of pictures: the number of the row, and what can be kept of the file's name.
_PICTURE = re.compile(r"\d{6,}-[\w.-]*\.png", re.ASCII)
_KEPT = 60
_CHUNK = 1 << 20


def pictures_folder(table: Path) -> Path:
    """Returns the folder of pictures beside a table."""
    return table.with_name(f"{table.stem}-maps")


def arrays_file(table: Path) -> Path:
    """Returns the file of arrays beside a table."""
    return table.with_name(f"{table.stem}-maps.npz")


class _Pictures:
    def __init__(self, folder: Path):
        self._folder = folder

    def write(self, image: PredictedImage) -> bool:
        if image.said is not None:
            stem = re.sub(r"[^\w.-]+", "_", Path(image.name).stem, flags=re.ASCII)[:_KEPT]
            path = self._folder / f"{image.number:06d}-{stem}.png"
            with writing(path, remedy=REMEDY):
                mark_output(self._folder)
                Image.fromarray(_picture(image.said)).save(path)
        return True


def _picture(said: Said) -> np.ndarray:
    """Returns the photograph, and beside it each map laid over it, on a scale of its own.

    Maps of a view lie over that view.
    """
    from flax_attn.explain.maps_figure import overlay_whole  # matplotlib takes a second

    shown = [said.image] if said.views is None else shown_views(said.views, said.image[None])[0]
    laid = (
        overlay_whole(shown[place_of_map(said.views, name)], values)
        for name, values in said.maps.items()
    )
    parts = [said.image, *laid]
    return np.concatenate(parts, axis=1)


@contextmanager
def open_pictures(table: Path) -> Iterator[Output]:
    """Yields a folder of pictures; those of an earlier prediction there are removed.

    Raises:
      DiskFullError: no space is left for it.
      UsageError: it cannot be written, or holds other files.
    """
    folder = pictures_folder(table)
    with writing(folder, remedy=REMEDY):
        if folder.exists():
            found = [path for path in folder.iterdir() if path.name != MARK]
            if found and not all(_PICTURE.fullmatch(path.name) for path in found):
                raise UsageError(f"{folder} holds other files than maps of predictions: {REMEDY}")
            for path in found:
                path.unlink()
    yield _Pictures(folder)


class _Arrays:
    """Appends maps to a file each; unusable images are NaN, so that places are those of rows."""

    def __init__(self, stack: ExitStack, path: Path):
        self._stack, self._path = stack, path
        self._files: dict[str, IO[bytes]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._count = 0

    def write(self, image: PredictedImage) -> bool:
        with writing(self._path, remedy=REMEDY):
            self._write(image)
        return True

    def _write(self, image: PredictedImage) -> None:
        if image.said is not None and not self._files:
            for name, values in image.said.maps.items():
                file = tempfile.TemporaryFile(dir=self._path.parent)
                self._files[name] = self._stack.enter_context(file)
                self._shapes[name] = values.shape
                for _ in range(self._count):
                    self._append(name, None)
        for name in self._files:
            self._append(name, None if image.said is None else image.said.maps[name])
        self._count += 1

    def _append(self, name: str, values: np.ndarray | None) -> None:
        shape = self._shapes[name]
        filled = np.full(shape, np.nan, np.float32) if values is None else values
        self._files[name].write(np.asarray(filled, "<f4").tobytes())

    def save(self) -> None:
        """Writes all of it as one file of ``numpy.load``, a part at a time.

        Raises:
          OSError: it cannot be written.
        """
        with replacing(self._path) as path, zipfile.ZipFile(path, "w") as archive:
            for name, file in self._files.items():
                file.seek(0)
                head = {"descr": "<f4", "fortran_order": False}
                head["shape"] = (self._count, *self._shapes[name])
                # A name may hold what paths in an archive may not.
                entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
                with archive.open(entry, "w", force_zip64=True) as opened:
                    np.lib.format.write_array_header_2_0(opened, head)
                    while chunk := file.read(_CHUNK):
                        opened.write(chunk)


@contextmanager
def open_arrays(table: Path) -> Iterator[Output]:
    """Yields a file of arrays, [n, h, w] by the map's name, in the order of the table's rows.

    It appears when the block ends well.

    Raises:
      DiskFullError: no space is left for it.
      UsageError: it cannot be written.
    """
    path = arrays_file(table)
    with ExitStack() as stack:
        arrays = _Arrays(stack, path)
        yield arrays
        with writing(path, remedy=REMEDY):
            arrays.save()


MAPS = {"png": open_pictures, "npz": open_arrays}
PLACES = {"png": pictures_folder, "npz": arrays_file}
