"""The TFDS data set ``cats_vs_dogs``: 23,262 photographs (Elson et al., CCS 2007)."""

from __future__ import annotations

import io
import logging
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax_attn.config import DataConfig
from flax_attn.data.dataset import Dataset, OpenRequest
from flax_attn.data.division import split_by_digest
from flax_attn.data.manifest import ManifestRow, read_manifest, sort_by_name, write_manifest
from flax_attn.data.sets.tfds import (
    RecordSplit,
    folder_of_tfds,
    import_tfds,
    is_prepared,
    open_records,
    require_reachable,
    write_records,
)
from flax_attn.errors import DataError, UsageError

NAME = "cats_vs_dogs"
CLASSES = ("cat", "dog")
VERSION = "4.0.1"
ARCHIVE = "kagglecatsanddogs_5340.zip"
URL = (
    f"https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/{ARCHIVE}"
)

_MEMBER = re.compile(r"PetImages/(Cat|Dog)/\d+\.jpg")

_log = logging.getLogger(__name__)


def prepare(tfds: Any, data_dir: Path) -> None:
    """Writes ``data_dir/cats_vs_dogs/4.0.1`` as array_record, whole or not at all.

    The photographs come from the archive ``data_dir/kagglecatsanddogs_5340.zip`` if it is there,
    else from TFDS's download manager (825 MB).

    Raises:
      DataError: the download host cannot be reached, the archive is damaged or holds no
        photographs, no space. Says how to place the archive by hand.
    """
    archive = data_dir / ARCHIVE
    if not archive.exists() and not _is_downloaded(data_dir):
        require_reachable(NAME, URL, archive)
    write_records(tfds, lambda: _builder_class(tfds, archive), NAME, data_dir, {ARCHIVE: URL})


def _is_downloaded(data_dir: Path) -> bool:
    return any((data_dir / "downloads").glob("**/*.zip"))


def _builder_class(tfds: Any, archive: Path) -> Any:
    from tensorflow_datasets.core import registered

    # Registered, it would replace TFDS's own builder of the same name for the whole process.
    with registered.skip_registration():

        class CatsVsDogs(tfds.core.GeneratorBasedBuilder):
            """Photographs of cats and dogs, as they are in the archive."""

            VERSION = tfds.core.Version(VERSION)
            # Looked up beside this file otherwise, with a package that TFDS 4.9.10 does not
            # require. The download manager knows TFDS's own checksum of the archive anyway.
            url_infos = None

            def _info(self) -> Any:
                features = {
                    "image": tfds.features.Image(),
                    "image/filename": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=list(CLASSES)),
                }
                return tfds.core.DatasetInfo(
                    builder=self,
                    description="Photographs of cats and dogs; the JPEGs are not re-encoded.",
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                    homepage="https://www.microsoft.com/en-us/download/details.aspx?id=54765",
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                path = archive if archive.exists() else dl_manager.download(URL)
                return {"train": self._generate_examples(Path(path))}

            def _generate_examples(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
                for name, label, content in read_archive(path):
                    yield (
                        name,
                        {"image": io.BytesIO(content), "image/filename": name, "label": label},
                    )

    return CatsVsDogs


def read_archive(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yields name, class and content of each sound photograph in the archive.

    Left out, as TFDS does: files whose beginning does not hold "JFIF", and all that is not
    ``PetImages/(Cat|Dog)/<number>.jpg``.

    Raises:
      DataError: no photographs at all.
      zipfile.BadZipFile: no archive, or one with a damaged member.
    """
    used = skipped = 0
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            match = _MEMBER.fullmatch(name)
            if match is None:
                continue
            with archive.open(name) as member:
                # The same call as TFDS, so that the same files are left out.
                if b"JFIF" not in member.peek(10):  # type: ignore[attr-defined]
                    skipped += 1
                    continue
                used += 1
                yield name, match[1].lower(), member.read()
    if not used:
        raise DataError(f"no photographs PetImages/(Cat|Dog)/<number>.jpg in {str(path)!r}")
    _log.info("%s: %d photographs, %d left out", path, used, skipped)


def open_set(config: DataConfig, request: OpenRequest) -> Dataset:
    """Opens the splits "train" and "val" of ``cats_vs_dogs``; cat is 0, dog is 1.

    ``config.data_dir`` is TFDS's (by default ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``).
    What is not prepared there yet is prepared first (``prepare``). TFDS has one split only; it is
    divided by image digest (``split_by_digest``) and the division written down as the manifest
    ``cats_vs_dogs-val-<val_fraction>.jsonl`` in that folder, which later openings follow. Where
    folds are asked for all of it is "train".

    Reads every record once, without decoding it.

    Raises:
      UsageError: tensorflow_datasets is not installed, ``val_fraction`` not between 0 and 1.
      DataError: cannot be downloaded or prepared, prepared in a format without random access,
        or a manifest of other photographs.
    """
    tfds, val_fraction = import_tfds(NAME), config.val_fraction
    if not 0 < val_fraction < 1:
        raise UsageError(f"val_fraction is {val_fraction}: expected a number between 0 and 1")
    root = folder_of_tfds(tfds, config.data_dir)
    if not is_prepared(root, NAME, VERSION):
        prepare(tfds, root)
    records = open_records(
        tfds,
        root,
        NAME,
        VERSION,
        read_row=_name_and_label,
        classes=CLASSES,
        known=request.known,
    )
    manifest = root / f"cats_vs_dogs-val-{val_fraction}.jsonl"
    rows = list(records.places)
    splits = (
        {"train": sort_by_name(rows)}
        if config.folds
        else _follow_manifest(manifest, rows, val_fraction)
    )
    size, resize = config.image_size, config.resize
    return Dataset(
        CLASSES,
        {
            name: RecordSplit(**records.of(split), classes=CLASSES, size=size, resize=resize)
            for name, split in splits.items()
        },
    )


def _name_and_label(record: Mapping[str, Any]) -> tuple[str, int]:
    return record["image/filename"].decode(), int(record["label"])


def _follow_manifest(
    path: Path, rows: Sequence[ManifestRow], val_fraction: float
) -> Mapping[str, tuple[ManifestRow, ...]]:
    """Returns the division written down in ``path``, which is written first if missing."""
    if not path.exists():
        splits = split_by_digest(rows, classes=CLASSES, val_fraction=val_fraction)
        try:
            write_manifest(path, splits)
        except OSError as error:
            # The division follows from the photographs; the manifest only records it.
            _log.warning("manifest %s not written: %s", os.fspath(path), error.strerror)
        return splits
    splits = read_manifest(path, classes=CLASSES)
    listed = [row for split in splits.values() for row in split]
    if set(splits) != {"train", "val"} or sorted(listed) != sorted(rows):
        raise DataError(
            f"manifest {str(path)!r} lists other photographs than are prepared beside it: "
            "delete it to divide them anew"
        )
    return splits
