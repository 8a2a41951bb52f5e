"""Keras's HDF5 files: taken as Keras writes them, refused in one line where they are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

from flax_attn.config.names import DTYPES
from flax_attn.errors import UsageError, WeightsError
from flax_attn.models.family import VGGS
from flax_attn.porting import keras_h5
from flax_attn.porting.convert import from_flax
from flax_attn.porting.half_precision import in_precision
from flax_attn.porting.keras_h5 import open_keras, write_keras
from flax_attn.porting.tables import keras_table
from tests.helpers.plain_vgg import narrow, random_arrays
from tests.helpers.small_torch import error_line, run_port, same_bits

NAMES = ("a.h5", "a.weights.h5")
DEPTHS = VGGS["vgg11"].depths
WIDTHS = ("--widths", *narrow(VGGS["vgg11"]).widths)


def tensors(counted: bool = False) -> dict[str, np.ndarray]:
    table = keras_table(DEPTHS, counted=counted)
    return from_flax(table, random_arrays(narrow(VGGS["vgg11"], hidden=2)))


def read(path: Path) -> dict[str, np.ndarray]:
    with open_keras(path) as file:
        return {key: np.asarray(array) for key, array in file.tensors.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_written_and_read_bit_for_bit(name: str, dtype: Any, tmp_path: Path) -> None:
    values = in_precision(tensors(counted="weights" in name), dtype)
    write_keras(tmp_path / name, values, pixels="caffe")
    assert same_bits(read(tmp_path / name), values)
    with open_keras(tmp_path / name) as file:
        assert file.pixels == "caffe"
        assert {array.dtype for array in file.tensors.values()} == {dtype}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_names_of_keras_1_and_of_models_within_models_are_read(tmp_path: Path) -> None:
    expected = tensors()
    for form in ("{0}/{0}_{2}_1:0", "{0}/{0}/{1}:0", "model_weights/vgg/{0}/{1}:0", "vgg/{0}/{1}"):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for key, values in expected.items():
                layer, part = key.split("/")
                short = {"kernel": "W", "bias": "b"}[part]
                file[form.format(layer, part, short)] = values
            file["optimizer_weights/adam/iteration"] = 3
        assert same_bits(read(tmp_path / "a.h5"), expected), form
    counted = tensors(counted=True)
    for prefix in ("layers/functional/", "vgg/"):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for key, values in counted.items():
                file[prefix + key] = values
            file["optimizer/vars/0"] = 3
            file["layers/random/seed_generator/vars/0"] = 3
        assert same_bits(read(tmp_path / "a.h5"), counted), prefix


def _other_file(file: h5py.File) -> None:
    file["block1_conv1/kernel"] = h5py.ExternalLink("other.h5", "/a")


def _soft(file: h5py.File) -> None:
    file["block1_conv1/kernel"] = h5py.SoftLink("/a")


def _cycle(file: h5py.File) -> None:
    file["a"] = file["/"]


def _claim(file: h5py.File) -> None:
    file.create_dataset("block1_conv1/kernel", shape=(10**6, 10**6), dtype="f4")


def _packed(file: h5py.File) -> None:
    file.create_dataset("block1_conv1/kernel", data=np.zeros((3, 3, 3, 9)), compression="gzip")


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3, 3, 3, 3), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "a", (3, 3, 3, 3))
    file.create_virtual_dataset("block1_conv1/kernel", layout)


def _external(file: h5py.File) -> None:
    file.create_dataset(
        "block1_conv1/kernel", (3, 3, 3, 3), "f4", external=[("/etc/hostname", 0, 324)]
    )


def _twice(file: h5py.File) -> None:
    file["a/block1_conv1/kernel"] = file["b/block1_conv1/kernel"] = np.zeros(3)


def _empty(file: h5py.File) -> None:
    file["block1_conv1/kernel"] = h5py.Empty("f4")


def _text(file: h5py.File) -> None:
    file["block1_conv1/kernel"] = "text"


def _none(file: h5py.File) -> None:
    file["conv1/kernel"] = np.zeros(3)


HOSTILE: dict[Callable[[h5py.File], None], str] = {
    _other_file: "block1_conv1/kernel is a link to elsewhere",
    _soft: "block1_conv1/kernel is a link to elsewhere",
    _cycle: "holds more groups than weights have",
    _claim: "1 without as many values in the file as it says (block1_conv1/kernel)",
    _packed: "1 compressed, which Keras never does (block1_conv1/kernel)",
    _virtual: "1 kept in other files (block1_conv1/kernel)",
    _external: "1 kept in other files (block1_conv1/kernel)",
    _twice: "has two arrays for block1_conv1/kernel",
    _empty: "1 without as many values in the file as it says",
    _text: "misshapen (block1_conv1/kernel is []",
    _none: "is no VGG of Keras: it holds conv1/kernel",
}


@pytest.mark.parametrize("write", HOSTILE, ids=lambda write: write.__name__.strip("_"))
def test_hostile_files_are_refused_in_one_line(
    write: Callable[[h5py.File], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        write(file)
    for argv in (["inspect", path], ["--source", path, "--out", tmp_path / "b.safetensors"]):
        assert run_port(*argv) == WeightsError.exit_code
        assert HOSTILE[write] in error_line(capsys)
    assert [left.name for left in tmp_path.iterdir()] == ["a.h5"]


def test_damaged_files_are_refused_or_read_whole(tmp_path: Path) -> None:
    """Cut anywhere, or with bytes changed in what describes the arrays."""
    path = tmp_path / "a.h5"
    write_keras(path, tensors(), pixels="caffe")
    good, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for trial in range(60):
        content = bytearray(good)
        if trial < 10:
            content = content[: len(good) * trial // 10 + 8]
        else:
            for place in rng.integers(8, len(good), 40):
                content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            found = read(path)
        except WeightsError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert all(array.nbytes < len(good) for array in found.values())
    assert refused >= 10


def test_h5py_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_keras(tmp_path / "a.h5", tensors(), pixels="caffe")
    monkeypatch.setattr(keras_h5, "find_spec", lambda name: None)
    for use in (lambda: read(tmp_path / "a.h5"), lambda: write_keras(tmp_path, {}, pixels="")):
        with pytest.raises(UsageError, match=r"need h5py: pip install 'flax_attn\[keras\]'"):
            use()


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize(
    ("to", "name"),
    [("torch", "b.pth"), ("timm", "b.safetensors"), ("keras", "b.h5"), ("keras", "b.weights.h5")],
)
def test_half_precision_on_request(
    to: str, name: str, dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, back, again = (tmp_path / n for n in ("a.h5", name, "c.safetensors"))
    write_keras(source, tensors(), pixels="imagenet")
    halved = run_port("--source", source, "--out", back, "--to", to, "--dtype", dtype, *WIDTHS)
    assert halved == 0
    assert run_port("--source", back, "--out", again, *WIDTHS) == WeightsError.exit_code
    assert "not float32" in error_line(capsys)
    assert run_port("--source", back, "--out", again, "--cast", *WIDTHS) == 0
    from flax_attn.porting import read_ported

    table, (arrays, metadata) = keras_table(DEPTHS, bgr=False), read_ported(again)
    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    for key, values in tensors().items():
        rounded = values.astype(kind).astype(np.float32)
        np.testing.assert_array_equal(arrays[table.entries[key].path], rounded, key)
    assert metadata["pixels"] == "imagenet"


def test_values_beyond_half_precision_are_refused() -> None:
    values = {"a": np.float32([1e6]), "b": np.float32([1]), "n": np.int64([1 << 40])}
    with pytest.raises(WeightsError, match=r"1 beyond the range of float16 \(a\)"):
        in_precision(values, "float16")
    assert in_precision(values, "bfloat16")["n"].dtype == np.int64
