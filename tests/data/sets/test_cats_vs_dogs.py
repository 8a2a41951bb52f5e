from __future__ import annotations

import hashlib
import http.server
import io
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data.check import preflight
from flax_attn.data.dataset import Dataset, OpenRequest
from flax_attn.data.decode import ImageError, decode
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.sets import cats_vs_dogs, tfds
from flax_attn.data.sets.cats_vs_dogs import ARCHIVE, open_set, read_archive
from flax_attn.errors import DataError, UsageError

PER_CLASS = 10


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def members() -> dict[str, bytes]:
    """The archive's layout: photographs, one of them without JFIF, and what lies between them."""
    photographs = {
        f"PetImages/{name}/{i}.jpg": jpeg(100 * label + i)
        for label, name in enumerate(("Cat", "Dog"))
        for i in range(PER_CLASS)
    }
    rest = {
        "PetImages/Cat/666.jpg": b"",
        "PetImages/Dog/11702.jpg": jpeg(300).replace(b"JFIF", b"XXXX"),
        "PetImages/Cat/Thumbs.db": b"thumbnails",
        "PetImages/Dog/Thumbs.db": b"thumbnails",
        "readme[1].txt": b"read me",
        "MSR-LA - 3467.docx": b"licence",
    }
    return {**photographs, **rest}


def write_archive(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tfds")
    write_archive(root / ARCHIVE, members())
    open_at(root)
    # Everything after this must do without the archive.
    (root / ARCHIVE).unlink()
    return root


@pytest.fixture
def data_dir(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # The discard port, where nobody listens: no test may reach the real host.
    monkeypatch.setattr(cats_vs_dogs, "URL", "http://127.0.0.1:9/cats.zip")


def open_at(root: Path, known: Sequence[ManifestRow] = (), **settings: object) -> Dataset:
    settings = {"image_size": 16, "val_fraction": 0.2, **settings}
    config = DataConfig(dataset="cats_vs_dogs", data_dir=str(root), **settings)  # type: ignore[arg-type]
    return open_set(config, OpenRequest(known=known))


def all_names(dataset: Dataset) -> list[str]:
    return sorted(name for split in dataset.splits.values() for name in split.names)


def test_archive_is_read_as_tfds_reads_it(tmp_path: Path) -> None:
    content = members()
    found = {
        n: (label, data) for n, label, data in read_archive(write_archive(tmp_path / "a", content))
    }
    assert found == {
        f"PetImages/{name}/{i}.jpg": (name.lower(), content[f"PetImages/{name}/{i}.jpg"])
        for name in ("Cat", "Dog")
        for i in range(PER_CLASS)
    }


def test_splits(prepared: Path) -> None:
    dataset = open_at(prepared)
    assert dataset.classes == ("cat", "dog")
    train, val = (dataset.splits[name] for name in ("train", "val"))
    assert (len(train.names), len(val.names)) == (16, 4)
    assert len(set(all_names(dataset))) == 2 * PER_CLASS
    for split in (train, val):
        assert list(split.names) == sorted(split.names)
        assert split.labels.tolist() == [int("/Dog/" in name) for name in split.names]


def test_images_are_those_of_the_archive(prepared: Path) -> None:
    content = members()
    for split in open_at(prepared).splits.values():
        with ThreadPoolExecutor(4) as pool:
            images = list(pool.map(split.image, range(len(split.names))))
        for name, image in zip(split.names, images, strict=True):
            np.testing.assert_array_equal(image, decode(content[name], size=16, resize="crop"))
    preflight(open_at(prepared))


def test_manifest_records_the_split_and_is_followed(data_dir: Path) -> None:
    manifest = data_dir / "cats_vs_dogs-val-0.2.jsonl"
    before = open_at(data_dir)
    lines = manifest.read_text().splitlines()
    assert len(lines) == 2 * PER_CLASS
    digest = hashlib.sha256(members()["PetImages/Cat/0.jpg"]).hexdigest()
    assert any('"PetImages/Cat/0.jpg"' in line and digest in line for line in lines)
    manifest.unlink()
    again = open_at(data_dir)
    assert manifest.read_text().splitlines() == lines
    for name in ("train", "val"):
        assert before.splits[name].fingerprint == again.splits[name].fingerprint
    first = lines.index(next(line for line in lines if '"train"' in line))
    lines[first] = lines[first].replace('"train"', '"val"')
    manifest.write_text("\n".join(lines))
    assert len(open_at(data_dir).splits["val"].names) == 5
    assert len(open_at(data_dir, val_fraction=0.5).splits["val"].names) == PER_CLASS


@pytest.mark.parametrize("damage", ["drop", "digest", "split"])
def test_manifest_of_other_photographs_is_refused(damage: str, data_dir: Path) -> None:
    manifest = data_dir / "cats_vs_dogs-val-0.2.jsonl"
    lines = manifest.read_text().splitlines()
    if damage == "drop":
        lines.pop()
    elif damage == "digest":
        lines[0] = lines[0].replace('"digest": "', '"digest": "0')
    else:
        lines = [line.replace('"val"', '"test"') for line in lines]
    manifest.write_text("\n".join(lines))
    with pytest.raises(DataError, match="delete it"):
        open_at(data_dir)


def test_a_row_that_was_set_aside_stands_for_its_record(tmp_path: Path) -> None:
    content = members()
    write_archive(tmp_path / ARCHIVE, content)
    first = open_at(tmp_path)
    row = first.splits["train"].rows[3]
    shutil.rmtree(tmp_path / "cats_vs_dogs")
    write_archive(tmp_path / ARCHIVE, {**content, row.path: jpeg(999)})
    with pytest.raises(DataError, match="lists other photographs"):
        open_at(tmp_path)
    again = open_at(tmp_path, known=[row])
    for name, split in again.splits.items():
        assert split.fingerprint == first.splits[name].fingerprint
    with pytest.raises(ImageError, match="not the content it had"):
        again.splits["train"].image(3)


def test_plain_tfds_reads_what_was_prepared(prepared: Path) -> None:
    import tensorflow_datasets as tfds

    source = tfds.data_source("cats_vs_dogs", split="train", data_dir=prepared, download=False)
    assert len(source) == 2 * PER_CLASS
    assert source.dataset_info.features["label"].names == ["cat", "dog"]


def test_tensorflow_is_not_imported_and_tfds_only_when_needed(tmp_path: Path) -> None:
    write_archive(tmp_path / ARCHIVE, members())
    code = (
        "import sys; from pathlib import Path; import flax_attn.data.sets.cats_vs_dogs as module\n"
        "from flax_attn.config import DataConfig\n"
        "from flax_attn.data.dataset import OpenRequest\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"root = Path({str(tmp_path)!r})\n"
        "config = DataConfig(dataset='cats_vs_dogs', data_dir=str(root), image_size=8)\n"
        "data = module.open_set(config, OpenRequest())\n"
        "data.splits['val'].image(0)\n"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class _ArchiveHandler(http.server.BaseHTTPRequestHandler):
    body = b""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def archive_server(tmp_path: Path) -> Iterator[str]:
    body = write_archive(tmp_path / "served.zip", members()).read_bytes()
    handler = type("Handler", (_ArchiveHandler,), {"body": body})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{ARCHIVE}"
        server.shutdown()
        thread.join()


def test_download(tmp_path: Path, archive_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cats_vs_dogs, "URL", archive_server)
    root = tmp_path / "new"
    assert len(all_names(open_at(root))) == 2 * PER_CLASS
    # What was downloaded is used again, without asking the host.
    shutil.rmtree(root / "cats_vs_dogs")
    monkeypatch.setattr(cats_vs_dogs, "require_reachable", None)
    assert len(all_names(open_at(root))) == 2 * PER_CLASS


def test_missing_tfds_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'flax_attn\[tfds\]'"):
        open_at(tmp_path)


@pytest.fixture
def silent_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/cats.zip"


def assert_says_how_to_place_the_archive(root: Path) -> None:
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        open_at(root)
    assert time.monotonic() - start < 10
    message = str(caught.value)
    assert str(root / ARCHIVE) in message and "--data-dir" in message and "\n" not in message
    assert cats_vs_dogs.URL in message
    assert not root.exists()


def test_unreachable_host(tmp_path: Path) -> None:
    assert_says_how_to_place_the_archive(tmp_path / "new")


def test_silent_host(tmp_path: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cats_vs_dogs, "URL", silent_server)
    monkeypatch.setattr(tfds, "_CONNECT_SECONDS", 0.2)
    assert_says_how_to_place_the_archive(tmp_path / "new")


@pytest.mark.parametrize("damage", ["text", "cut", "flipped", "empty"])
def test_damaged_archive(damage: str, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / ARCHIVE, {} if damage == "empty" else members())
    data = bytearray(archive.read_bytes())
    if damage == "text":
        data = bytearray(b"<html>not found</html>")
    elif damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        data[data.index(b"PetImages/Dog/3.jpg") + 400] ^= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match=ARCHIVE) as caught:
        open_at(tmp_path)
    assert "\n" not in str(caught.value)
    # Nothing half-made is left that a second try would take for whole.
    write_archive(archive, members())
    assert len(all_names(open_at(tmp_path))) == 2 * PER_CLASS


def test_damaged_preparation(data_dir: Path) -> None:
    shard = next((data_dir / "cats_vs_dogs").rglob("*.array_record-*"))
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(DataError, match="prepared anew"):
        open_at(data_dir)
    shard.unlink()
    with pytest.raises(DataError, match="prepared anew"):
        open_at(data_dir)


def test_preparation_without_random_access(data_dir: Path) -> None:
    folder = next((data_dir / "cats_vs_dogs").iterdir())
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="array_record"):
        open_at(data_dir)


def test_read_only_folder_only_lacks_the_manifest(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    manifest = data_dir / "cats_vs_dogs-val-0.3.jsonl"
    monkeypatch.setattr("flax_attn.data.sets.cats_vs_dogs.write_manifest", refuse)
    first = open_at(data_dir, val_fraction=0.3)
    assert not manifest.exists()
    monkeypatch.undo()
    assert open_at(data_dir, val_fraction=0.3).splits["val"].names == first.splits["val"].names
    assert manifest.exists()


def test_val_fraction_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="val_fraction is 0"):
        open_at(tmp_path / "none", val_fraction=0.0)
