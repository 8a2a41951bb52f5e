"""Prepares the TFDS data set ``cats_vs_dogs`` without TensorFlow.

TFDS's own preparation re-encodes each JPEG with TensorFlow. This one stores the bytes of the
archive as they are, under the same name, version and features, so that ``tfds.data_source``
reads either. Both leave out the same files, those without a JFIF header.
"""

from __future__ import annotations

import io
import logging
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flax_attn.data.sets.tfds_prepare import require_reachable, write_records
from flax_attn.errors import DataError

NAME = "cats_vs_dogs"
CLASSES = ("cat", "dog")
VERSION = "4.0.1"
ARCHIVE = "kagglecatsanddogs_5340.zip"
URL = (
    f"https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/{ARCHIVE}"
)

_MEMBER = re.compile(r"PetImages/(Cat|Dog)/\d+\.jpg")


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
    """Name, class and content of each sound photograph in the archive.

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
    logging.getLogger(__name__).info("%s: %d photographs, %d left out", path, used, skipped)
