"""Records that TFDS prepared: read by index, and written, without TensorFlow."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax_attn.data.decode import ImageError
from flax_attn.data.manifest import ListedImages, ManifestRow
from flax_attn.errors import DataError, UsageError

_CONNECT_SECONDS = 5.0


def write_records(
    tfds: Any,
    make_builder: Callable[[], Any],
    name: str,
    data_dir: Path,
    archives: Mapping[str, str],
) -> None:
    """Writes what a builder generates as array_record, whole or not at all.

    Args:
      tfds: the package.
      make_builder: returns the class of the builder.
      name: of the data set, for messages.
      data_dir: TFDS's folder.
      archives: the files that the builder reads, each with its address.

    Raises:
      DataError: nothing can be downloaded, read or written. Says how to place the files by hand.
    """
    try:
        make_builder()(data_dir=data_dir, file_format="array_record").download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except DataError:
        raise
    # Beside OSError and those of archives, TFDS raises its own errors and bare AssertionErrors.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        by_hand = " and ".join(f"{file} from {url}" for file, url in archives.items())
        raise DataError(
            f"cannot prepare {name} in {str(data_dir)!r}: {reason}; "
            f"the files can be placed there by hand: {by_hand}"
        ) from error


def require_reachable(name: str, url: str, archive: Path) -> None:
    """Asks the host for a file's header, before TFDS tries to download it.

    Raises:
      DataError: the download would fail. Says how to place the file by hand.
    """
    # TFDS itself has no time limit and tries ten times, for minutes.
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"cannot download {name} ({reason}): get {url} in another way, "
            f"place it as {str(archive)!r} (--data-dir is its folder) and run again"
        ) from error


@dataclass(frozen=True, kw_only=True)
class RecordSplit(ListedImages):
    """Records of a ``tfds.data_source``, decoded when asked for.

    ``records[i]`` is the place of image ``i`` in ``data_source``.
    """

    data_source: Any
    records: tuple[int, ...]

    def record(self, index: int) -> Mapping[str, Any]:
        """Returns all that is kept of an image.

        Raises:
          ImageError: it cannot be read.
        """
        try:
            return self.data_source[self.records[index]]
        # The reader of records raises errors of its own on damaged files.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(self.rows[index].path, reason) from error

    def source(self, index: int) -> bytes:
        return self.record(index)["image"]


def import_tfds(name: str) -> Any:
    """Imports the package, which is an optional extra.

    Raises:
      UsageError: it is not installed.
    """
    # It takes a second to import.
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UsageError(
            f"the data set {name} needs tensorflow_datasets ({error}): "
            "pip install 'flax_attn[tfds]'"
        ) from error
    return tensorflow_datasets


def folder_of_tfds(tfds: Any, data_dir: str | None) -> Path:
    """Returns ``data_dir``, or TFDS's own (``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``)."""
    return Path(tfds.core.constants.DATA_DIR if data_dir is None else data_dir).expanduser()


def is_prepared(root: Path, name: str, version: str) -> bool:
    """Tells whether TFDS's folder holds this data set, whole."""
    return (root / name / version / "dataset_info.json").exists()


@dataclass(frozen=True)
class Records:
    """The data source of a split, and where in it the record of each row is."""

    data_source: Any
    places: Mapping[ManifestRow, int]

    def of(self, rows: Sequence[ManifestRow]) -> dict[str, Any]:
        """Returns these rows in their order, as fields of a ``RecordSplit``."""
        places = tuple(self.places[row] for row in rows)
        return {"data_source": self.data_source, "records": places, "rows": tuple(rows)}


def open_records(
    tfds: Any,
    root: Path,
    name: str,
    version: str,
    *,
    split: str = "train",
    encoded: Sequence[str] = ("image",),
    read_row: Callable[[Mapping[str, Any]], tuple[str, int]],
    classes: Sequence[str],
    known: Sequence[ManifestRow] = (),
) -> Records:
    """Returns the records of a split, with a row for each. Reads every record once.

    Args:
      tfds: the package.
      root: TFDS's folder.
      name: of the data set.
      version: of the data set.
      split: TFDS's name of it.
      encoded: features that are not decoded.
      read_row: gives the name and the label of a record.
      classes: names in label order.
      known: rows that stand for the records of their names, whatever those hold now.

    Raises:
      DataError: not readable, prepared in a format without random access, a label that is no class,
        or one image twice under one name.
    """
    try:
        data_source = tfds.data_source(
            f"{name}:{version}",
            split=split,
            data_dir=root,
            download=False,
            decoders={feature: tfds.decode.SkipDecoding() for feature in encoded},
        )
        standing = {row.path: row for row in known}
        return Records(data_source, _read_rows(data_source, name, read_row, classes, standing))
    except DataError:
        raise
    except NotImplementedError as error:
        raise DataError(
            f"{name} in {str(root)!r} is prepared in a format without random access: "
            "prepare it with file_format='array_record', or give another --data-dir"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"cannot read {name} in {str(root)!r}: {reason}; "
            f"delete {str(root / name)!r} to have it prepared anew"
        ) from error


def _read_rows(
    data_source: Any,
    name: str,
    read_row: Callable[[Mapping[str, Any]], tuple[str, int]],
    classes: Sequence[str],
    known: Mapping[str, ManifestRow],
) -> dict[ManifestRow, int]:
    rows: dict[ManifestRow, int] = {}
    for place in range(len(data_source)):
        record = data_source[place]
        path, label = read_row(record)
        if not 0 <= label < len(classes):
            raise DataError(f"{name}, {path!r}: label {label}, expected 0 to {len(classes) - 1}")
        row = ManifestRow(path, label, hashlib.sha256(record["image"]).hexdigest())
        rows[known.get(path, row)] = place
    if len(rows) != len(data_source):
        raise DataError(f"{name} holds the same photograph twice under one name: prepare anew")
    return rows
