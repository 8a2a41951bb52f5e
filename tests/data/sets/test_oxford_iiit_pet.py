"""The TFDS data set oxford_iiit_pet, from archives of its layout with a few pets in them."""

from __future__ import annotations

import http.server
import io
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data.dataset import Dataset, OpenRequest
from flax_attn.data.decode import ImageError, decode
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.masks import objects
from flax_attn.data.sets import oxford_iiit_pet
from flax_attn.data.sets.oxford_iiit_pet import open_set
from flax_attn.errors import DataError, UsageError

SIZE = 20
# Of each breed its number and its species, as the lists have them; both are counted from 1.
BREEDS = {"Bombay": (8, 1), "beagle": (5, 2), "Sphynx": (34, 1), "pug": (26, 2)}
PETS = [f"{breed}_{i}" for i in (1, 2, 3) for breed in BREEDS]
TRAIN, TEST = PETS[:8], PETS[8:]


def encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def photograph(number: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), kind)


def trimap(number: int, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    """An animal in the columns from 8 + number on, six wide, with a border of two."""
    found = np.full(shape, 2, np.uint8)
    found[4:16, 6 + number : 16 + number] = 3
    found[6:14, 8 + number : 14 + number] = 1
    return found


def listing(pets: list[str]) -> bytes:
    lines = (f"{pet} {BREEDS[pet[:-2]][0]} {BREEDS[pet[:-2]][1]} 1\n" for pet in pets)
    return "".join(lines).encode()


HEAD = (
    b"<annotation><size><width>30</width><height>20</height></size><object><bndbox><xmin>3</xmin>"
    b"<ymin>2</ymin><xmax>15</xmax><ymax>10</ymax></bndbox></object></annotation>"
)


def images() -> dict[str, bytes]:
    found = {f"images/{pet}.jpg": photograph(i) for i, pet in enumerate(PETS)}
    # As in the real archive: a GIF by another name, and what is no photograph.
    found["images/Bombay_1.jpg"] = photograph(0, "GIF")
    return {**found, "images/Bombay_1.mat": b"", "images/unlisted_1.jpg": photograph(99)}


def annotations() -> dict[str, bytes]:
    trimaps = {
        f"annotations/trimaps/{pet}.png": encoded(Image.fromarray(trimap(i)), "PNG")
        for i, pet in enumerate(PETS)
    }
    heads = {f"annotations/xmls/{pet}.xml": HEAD for pet in TRAIN[:3]}
    lists = {
        "annotations/trainval.txt": listing(TRAIN),
        "annotations/test.txt": listing(TEST),
        "annotations/list.txt": b"# comment\n" + listing(PETS),
        "annotations/trimaps/._Bombay_1.png": b"a fork",
    }
    return {**lists, **trimaps, **heads}


def write_archive(path: Path, content: Mapping[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_archives(
    root: Path,
    *,
    photographs: Mapping[str, bytes] | None = None,
    notes: Mapping[str, bytes] | None = None,
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    # Only called .gz, as the real one of the images is; readers must not mind.
    write_archive(root / oxford_iiit_pet.IMAGES, images() if photographs is None else photographs)
    write_archive(
        root / oxford_iiit_pet.ANNOTATIONS, annotations() if notes is None else notes, "w:gz"
    )
    return root


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in oxford_iiit_pet.URLS:
        # The discard port, where nobody listens: no test may reach the real host.
        monkeypatch.setitem(oxford_iiit_pet.URLS, name, f"http://127.0.0.1:9/{name}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_archives(tmp_path_factory.mktemp("tfds"))
    open_at(root)
    # Everything after this must do without the archives.
    for name in oxford_iiit_pet.URLS:
        (root / name).unlink()
    return root


def open_at(root: Path, known: Sequence[ManifestRow] = ()) -> Dataset:
    config = DataConfig(dataset="oxford_iiit_pet", data_dir=str(root), image_size=SIZE)
    return open_set(config, OpenRequest(known=known))


def test_splits_are_its_own_and_labels_the_species(prepared: Path) -> None:
    dataset = open_at(prepared)
    assert dataset.classes == ("cat", "dog")
    for name, pets in (("train", TRAIN), ("val", TEST)):
        split = dataset.splits[name]
        assert list(split.names) == sorted(f"{pet}.jpg" for pet in pets)
        # Breeds of cats begin with a capital letter.
        assert split.labels.tolist() == [int(name[0].islower()) for name in split.names]


def test_images_and_masks_are_those_of_the_archives(prepared: Path) -> None:
    content = images()
    for split in open_at(prepared).splits.values():
        masks = objects(split, range(len(split.names)), workers=2)
        assert masks is not None
        for i, name in enumerate(split.names):
            expected = decode(content[f"images/{name}"], size=SIZE, resize="crop")
            np.testing.assert_array_equal(split.image(i), expected)
            # The crop leaves out five columns on either side, nothing is scaled.
            animal = trimap(PETS.index(name[:-4]))[:, 5:25] != 2
            np.testing.assert_array_equal(masks[i], animal)
            assert animal.any()


def test_a_configuration_opens_it(prepared: Path) -> None:
    from flax_attn.data import open_dataset

    config = DataConfig(dataset="oxford_iiit_pet", data_dir=str(prepared), image_size=32)
    split = open_dataset(config).splits["val"]
    masks = objects(split, [0])
    assert split.image(0).shape == (32, 32, 3) and masks is not None and masks.any()


def test_a_row_that_was_set_aside_stands_for_its_record(prepared: Path, tmp_path: Path) -> None:
    first = open_at(prepared)
    row = first.splits["val"].rows[1]
    root = write_archives(tmp_path, photographs={**images(), f"images/{row.path}": photograph(99)})
    assert open_at(root).splits["val"].fingerprint != first.splits["val"].fingerprint
    again = open_at(root, known=[row])
    for name, split in again.splits.items():
        assert split.fingerprint == first.splits[name].fingerprint
    with pytest.raises(ImageError, match="not the content it had"):
        again.splits["val"].image(1)


def test_plain_tfds_reads_what_was_prepared(prepared: Path) -> None:
    import tensorflow_datasets as tfds

    source = tfds.data_source("oxford_iiit_pet", split="train", data_dir=prepared, download=False)
    features = source.dataset_info.features
    records = {record["file_name"].decode()[:-4]: record for record in source}
    assert records.keys() == set(TRAIN)
    for pet, record in records.items():
        number, species = BREEDS[pet[:-2]]
        assert features["label"].int2str(record["label"]) == pet[:-2] and number == (
            record["label"] + 1
        )
        assert record["species"] == species - 1
        np.testing.assert_array_equal(record["segmentation_mask"][..., 0], trimap(PETS.index(pet)))
        head = [0.1, 0.1, 0.5, 0.5] if pet in TRAIN[:3] else [0, 0, 0, 0]
        np.testing.assert_allclose(record["head_bbox"], head, atol=1e-6)


def test_tensorflow_is_not_imported(tmp_path: Path) -> None:
    write_archives(tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "import flax_attn.data.sets.oxford_iiit_pet as module\n"
        "from flax_attn.config import DataConfig\n"
        "from flax_attn.data.dataset import OpenRequest\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"root = Path({str(tmp_path)!r})\n"
        "config = DataConfig(dataset='oxford_iiit_pet', data_dir=str(root), image_size=8)\n"
        "data = module.open_set(config, OpenRequest())\n"
        "assert data.splits['val'].masks(0).shape == (1, 8, 8)\n"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = write_archives(tmp_path / "served")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(served))
    ) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        for name in oxford_iiit_pet.URLS:
            address = f"http://127.0.0.1:{server.server_port}/{name}"
            monkeypatch.setitem(oxford_iiit_pet.URLS, name, address)
        found = open_at(tmp_path / "new")
        server.shutdown()
        thread.join()
    assert len(found.splits["train"].names) == len(TRAIN)
    # What was downloaded is used again, without asking the host.
    shutil.rmtree(tmp_path / "new" / "oxford_iiit_pet")
    assert len(open_at(tmp_path / "new").splits["val"].names) == len(TEST)


def test_unreachable_host(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_at(tmp_path / "new")
    message = str(caught.value)
    assert str(tmp_path / "new" / oxford_iiit_pet.IMAGES) in message and "--data-dir" in message
    assert oxford_iiit_pet.URLS[oxford_iiit_pet.IMAGES] in message and "\n" not in message
    assert not (tmp_path / "new").exists()


def test_missing_tfds_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(
        UsageError, match=r"oxford_iiit_pet needs .*pip install 'flax_attn\[tfds\]'"
    ):
        open_at(tmp_path)


def without(content: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {key: value for key, value in content.items() if key != name}


LISTED = "annotations/trainval.txt"
DAMAGE = {
    "cut": (None, None, oxford_iiit_pet.ANNOTATIONS),
    "no image": (without(images(), "images/pug_2.jpg"), None, "1 photographs .*'pug_2'"),
    "no trimap": (None, without(annotations(), "annotations/trimaps/pug_2.png"), "pug_2.jpg"),
    "no list": (None, without(annotations(), LISTED), "trainval.txt: no such list"),
    "odd list": (None, {**annotations(), LISTED: b"pug_2 26 2"}, "'pug_2 26 2' is not"),
    "odd species": (None, {**annotations(), LISTED: b"pug_2 26 3 1"}, "'pug_2 26 3 1' is not"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_archives(damage: str, tmp_path: Path) -> None:
    photographs, notes, message = DAMAGE[damage]
    write_archives(tmp_path, photographs=photographs, notes=notes)
    if damage == "cut":
        file = tmp_path / oxford_iiit_pet.ANNOTATIONS
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=message) as caught:
        open_at(tmp_path)
    assert "\n" not in str(caught.value)
    # Nothing half-made is left that a second try would take for whole.
    write_archives(tmp_path)
    assert len(open_at(tmp_path).splits["val"].names) == len(TEST)


def test_a_trimap_of_another_size_is_named(tmp_path: Path) -> None:
    odd = encoded(Image.fromarray(trimap(0, (19, 30))), "PNG")
    write_archives(tmp_path, notes={**annotations(), "annotations/trimaps/pug_3.png": odd})
    split = open_at(tmp_path).splits["val"]
    with pytest.raises(ImageError, match=r"trimap of pug_3.jpg.*30x19 .*30x20"):
        objects(split, range(len(split.names)))
