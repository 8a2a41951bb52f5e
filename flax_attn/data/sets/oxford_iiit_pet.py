"""The TFDS data set ``oxford_iiit_pet``: cats and dogs with trimaps (Parkhi et al., CVPR 2012)."""

from __future__ import annotations

import hashlib
import io
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from flax_attn.config import DataConfig
from flax_attn.data.dataset import Dataset, Found, OpenRequest
from flax_attn.data.manifest import sort_by_name
from flax_attn.data.masks import decode_mask
from flax_attn.data.sets.tfds import (
    RecordSplit,
    folder_of_tfds,
    import_tfds,
    is_prepared,
    open_records,
    require_reachable,
    write_records,
)
from flax_attn.errors import DataError

NAME = "oxford_iiit_pet"
VERSION = "4.0.0"
_HOST = "https://thor.robots.ox.ac.uk/~vgg/data/pets"
IMAGES, ANNOTATIONS = "images.tar.gz", "annotations.tar.gz"
URLS = {name: f"{_HOST}/{name}" for name in (IMAGES, ANNOTATIONS)}
LISTS = {"train": "trainval.txt", "test": "test.txt"}

CLASSES = ("cat", "dog")
SPLITS = {"train": "train", "val": "test"}

# Of a trimap, 1 is the animal, 2 what is behind it, and 3 the pixels along its outline, and some
# of collars, that were not classified. They count as the animal. Segmentation benchmarks such as
# PASCAL VOC leave them out of both kinds, but measures of maps know no third one. As background
# they would count against every map that follows the outline; as the animal they widen it by a few
# pixels, of which the control has its share, and by less than the pointing game's tolerance (15).
BACKGROUND = 2

SPECIES = ("Cat", "Dog")
BREEDS = (
    *("Abyssinian", "american_bulldog", "american_pit_bull_terrier", "basset_hound", "beagle"),
    *("Bengal", "Birman", "Bombay", "boxer", "British_Shorthair", "chihuahua", "Egyptian_Mau"),
    *("english_cocker_spaniel", "english_setter", "german_shorthaired", "great_pyrenees"),
    *("havanese", "japanese_chin", "keeshond", "leonberger", "Maine_Coon", "miniature_pinscher"),
    *("newfoundland", "Persian", "pomeranian", "pug", "Ragdoll", "Russian_Blue", "saint_bernard"),
    *("samoyed", "scottish_terrier", "shiba_inu", "Siamese", "Sphynx"),
    *("staffordshire_bull_terrier", "wheaten_terrier", "yorkshire_terrier"),
)

_Box = tuple[float, float, float, float]
_NO_BOX: _Box = (0.0, 0.0, 0.0, 0.0)


class Pet(NamedTuple):
    """A photograph with its annotations.

    ``breed`` and ``species`` count from 0; ``head`` is a box (top, left, bottom, right) in shares
    of the photograph.
    """

    name: str
    image: bytes
    breed: int
    species: int
    trimap: bytes
    head: _Box


def prepare(tfds: Any, data_dir: Path) -> None:
    """Writes ``data_dir/oxford_iiit_pet/4.0.0`` as array_record, whole or not at all.

    The archives ``images.tar.gz`` and ``annotations.tar.gz`` come from ``data_dir`` if they are
    there, else from TFDS's download manager (790 MB and 19 MB).

    Raises:
      DataError: the download host cannot be reached, an archive is damaged or lacks what its lists
        name, no space. Says how to place the archives by hand.
    """
    missing = [name for name in URLS if not (data_dir / name).exists()]
    if missing and not _are_downloaded(data_dir):
        require_reachable(NAME, URLS[missing[0]], data_dir / missing[0])
    write_records(tfds, lambda: _builder_class(tfds, data_dir), NAME, data_dir, URLS)


def _are_downloaded(data_dir: Path) -> bool:
    return len(list((data_dir / "downloads").glob("**/*.tar.gz"))) >= len(URLS)


def _builder_class(tfds: Any, data_dir: Path) -> Any:
    from tensorflow_datasets.core import registered

    # Registered, it would replace TFDS's own builder of the same name for the whole process.
    with registered.skip_registration():

        class OxfordIiitPet(tfds.core.GeneratorBasedBuilder):
            """Photographs of pets with trimaps, as they are in the archives."""

            VERSION = tfds.core.Version(VERSION)
            # As in ``cats_vs_dogs``.
            url_infos = None

            def _info(self) -> Any:
                features = {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=list(BREEDS)),
                    "species": tfds.features.ClassLabel(names=list(SPECIES)),
                    "file_name": tfds.features.Text(),
                    "segmentation_mask": tfds.features.Image(
                        shape=(None, None, 1), use_colormap=True
                    ),
                    "head_bbox": tfds.features.BBoxFeature(),
                }
                return tfds.core.DatasetInfo(
                    builder=self,
                    description="Photographs of pets with trimaps; nothing is encoded anew.",
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                    homepage="https://www.robots.ox.ac.uk/~vgg/data/pets/",
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                paths = {
                    name: data_dir / name
                    if (data_dir / name).exists()
                    else Path(dl_manager.download(url))
                    for name, url in URLS.items()
                }
                return {
                    split: self._generate_examples(paths, file) for split, file in LISTS.items()
                }

            def _generate_examples(
                self, paths: Mapping[str, Path], file: str
            ) -> Iterator[tuple[str, dict[str, Any]]]:
                for pet in read_archives(paths[IMAGES], paths[ANNOTATIONS], file):
                    yield (
                        pet.name,
                        {
                            "image": io.BytesIO(pet.image),
                            "label": pet.breed,
                            "species": pet.species,
                            "file_name": pet.name,
                            "segmentation_mask": io.BytesIO(pet.trimap),
                            "head_bbox": tfds.features.BBox(*pet.head),
                        },
                    )

    return OxfordIiitPet


def read_archives(images: Path, annotations: Path, listed_in: str) -> Iterator[Pet]:
    """Yields the photographs that a list of the annotations names, in the archive's order.

    Raises:
      DataError: no such list, a line that is not ``name breed species number``, or a photograph or
        trimap that it names is missing.
      tarfile.TarError: no archive, or a damaged one.
    """
    notes = dict(_members(annotations))
    where = f"{str(annotations)!r}, {listed_in}"
    listed = dict(_parse_list(notes.get(f"annotations/{listed_in}", b""), where))
    for path, image in _members(images):
        name = PurePosixPath(path)
        if str(name.parent) != "images" or name.suffix != ".jpg" or name.stem not in listed:
            continue
        breed, species = listed.pop(name.stem)
        trimap = notes.get(f"annotations/trimaps/{name.stem}.png")
        if trimap is None:
            raise DataError(f"no trimap of {name.name!r} in {str(annotations)!r}: fetch it again")
        head = _head(notes.get(f"annotations/xmls/{name.stem}.xml"))
        yield Pet(name.name, image, breed, species, trimap, head)
    if listed:
        raise DataError(
            f"{len(listed)} photographs that {where} names are not in {str(images)!r}, such as "
            f"{min(listed)!r}: fetch it again"
        )


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yields path and content of each regular file of an archive, compressed or not."""
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None:
                yield str(PurePosixPath(member.name)), file.read()


def _parse_list(content: bytes, where: str) -> Iterator[tuple[str, tuple[int, int]]]:
    lines = [line.split() for line in content.decode().splitlines() if not line.startswith("#")]
    if not lines:
        raise DataError(f"{where}: no such list of photographs, or an empty one: fetch it again")
    for line in lines:
        breed, species = (int(n) - 1 if n.isdecimal() else -1 for n in (*line, "", "")[1:3])
        if len(line) != 4 or not (breed in range(len(BREEDS)) and species in range(len(SPECIES))):
            raise DataError(f"{where}: {' '.join(line)!r} is not: name, breed, species, number")
        yield line[0], (breed, species)


def _head(annotation: bytes | None) -> _Box:
    """Returns the box around the head; zeros where there is none, as in all of the test split."""
    if annotation is None:
        return _NO_BOX
    root = ElementTree.fromstring(annotation)

    def number(path: str) -> float:
        return float(root.findtext(path, ""))

    width, height = number("size/width"), number("size/height")
    box = "object/bndbox"
    return (
        number(f"{box}/ymin") / height,
        number(f"{box}/xmin") / width,
        number(f"{box}/ymax") / height,
        number(f"{box}/xmax") / width,
    )


@dataclass(frozen=True, kw_only=True)
class PetSplit(RecordSplit):
    """Photographs with the trimap of the animal."""

    def masks(self, index: int) -> Bool[np.ndarray, "1 s s"]:
        """Returns the animal's pixels, its outline included.

        Raises:
          ImageError: the record or its trimap cannot be used.
        """
        record = self.record(index)
        mask = decode_mask(
            record["segmentation_mask"],
            image=record["image"],
            size=self.size,
            resize=self.resize,
            centre_crop=self.centre_crop,
            background=BACKGROUND,
            name=f"trimap of {self.rows[index].path}",
            max_pixels=self.max_pixels,
        )
        return mask[None]

    def mask_digest(self, index: int) -> str:
        """Returns the SHA-256 of an image's trimap.

        Raises:
          ImageError: the record cannot be read.
        """
        return hashlib.sha256(self.record(index)["segmentation_mask"]).hexdigest()


def open_set(config: DataConfig, request: OpenRequest) -> Dataset:
    """Opens the splits "train" and "val" of ``oxford_iiit_pet``, which are its own train and test.

    3,680 and 3,669 photographs of 37 breeds; the label is the species, cat 0 and dog 1.
    ``config.data_dir`` is TFDS's (by default ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``).
    What is not prepared there yet is prepared first (``prepare``). Reads every record once,
    without decoding it. Where folds are asked for its own test part is "test".

    Raises:
      UsageError: tensorflow_datasets is not installed.
      DataError: cannot be downloaded or prepared, or prepared in a format without random access.
    """
    tfds = import_tfds(NAME)
    root = folder_of_tfds(tfds, config.data_dir)
    if not is_prepared(root, NAME, VERSION):
        prepare(tfds, root)
    splits = {}
    for name, split in SPLITS.items():
        records = open_records(
            tfds,
            root,
            NAME,
            VERSION,
            split=split,
            encoded=("image", "segmentation_mask"),
            read_row=_name_and_species,
            classes=CLASSES,
            known=request.known,
        )
        splits[name] = PetSplit(
            **records.of(sort_by_name(records.places)),
            classes=CLASSES,
            size=config.image_size,
            resize=config.resize,
        )
    if config.folds and not request.undivided:  # divide what is there to train on
        test = splits.pop("val")
        if request.test:
            splits["test"] = test
        return Dataset(
            CLASSES, splits, found=Found(unread={} if request.test else {"test": len(test.rows)})
        )
    return Dataset(CLASSES, splits)


def _name_and_species(record: Mapping[str, Any]) -> tuple[str, int]:
    return record["file_name"].decode(), int(record["species"])
