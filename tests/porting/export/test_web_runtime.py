"""Where the page's runtime comes from: a folder, or a download that is verified and kept."""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path

import pytest

from flax_attn.errors import UsageError, WeightsError
from flax_attn.porting.export import web_runtime
from flax_attn.porting.export.web_runtime import DIGESTS, VERSION, find_runtime
from tests.helpers.servers import Cut, Quiet, serve

CONTENT = {
    name: f"/*! ONNX Runtime Web v{VERSION} */ {name}".encode() for name in web_runtime.DIGESTS
}


@pytest.fixture(autouse=True)
def digests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in CONTENT.items():
        monkeypatch.setitem(DIGESTS, name, hashlib.sha256(content).hexdigest())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as npm leaves it."""
    made = tmp_path / "dist"
    made.mkdir()
    for name, content in CONTENT.items():
        (made / name).write_bytes(content)
    (made / "ort.min.js").write_text("another build")
    return made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flax_attn" / f"onnxruntime-web-{VERSION}"


def test_a_folder_is_read_without_the_cache(folder: Path, cache: Path) -> None:
    assert find_runtime(folder) == (VERSION, CONTENT)
    assert not cache.exists()


@pytest.mark.parametrize("name", CONTENT)
def test_a_folder_without_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(
        UsageError, match=rf"cannot read .*{name}: no such file .*--runtime, as npm"
    ):
        find_runtime(folder)


@pytest.mark.parametrize("name", CONTENT)
def test_a_folder_with_a_damaged_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(CONTENT[name] + b"\n")
    with pytest.raises(WeightsError, match=rf"{name} has SHA-256 .* expected .*: it is not that"):
        find_runtime(folder)


def test_files_of_something_else_are_refused(folder: Path) -> None:
    (folder / "ort.wasm.min.mjs").write_bytes(b"export default 1")
    with pytest.raises(UsageError, match="is no file of onnxruntime-web: name a folder"):
        find_runtime(folder)


def test_another_version_is_taken_and_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "ort.wasm.min.mjs").write_bytes(b"/*! ONNX Runtime Web v9.9.1-dev */")
    with caplog.at_level(logging.WARNING):
        assert find_runtime(folder).version == "9.9.1-dev"
    assert f"holds onnxruntime-web 9.9.1-dev; the page is tested with {VERSION}" in caplog.text


def test_a_download_is_kept_and_verified_on_every_call(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(partial(Quiet, directory=str(folder))) as address, caplog.at_level(logging.INFO):
        monkeypatch.setattr(web_runtime, "ADDRESS", address)
        assert find_runtime() == (VERSION, CONTENT)
        assert f"fetching onnxruntime-web {VERSION} (14.3 MB) from {address}" in caplog.text
        caplog.clear()
    assert find_runtime() == (VERSION, CONTENT)
    assert caplog.text == ""
    assert {path.name for path in cache.iterdir()} == CONTENT.keys()
    (cache / "ort.wasm.min.mjs").write_bytes(b"poison")
    with pytest.raises(WeightsError, match="expected .*: delete it and try again"):
        find_runtime()


def test_what_cannot_be_downloaded_leaves_nothing_and_says_another_way(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "ort.wasm.min.mjs").write_bytes(b"poison")
    with serve(partial(Quiet, directory=str(folder))) as address:
        monkeypatch.setattr(web_runtime, "ADDRESS", address)
        with pytest.raises(
            WeightsError, match="SHA-256 of what came.* or name a folder .*--runtime"
        ):
            find_runtime()
    with serve(Cut) as address:
        monkeypatch.setattr(web_runtime, "ADDRESS", address)
        with pytest.raises(WeightsError, match="cut short"):
            find_runtime()
    assert list(cache.iterdir()) == []
