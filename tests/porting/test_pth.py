"""Honest files of PyTorch's, read without it: the same tensors as ``torch.load`` gives."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flax_attn.errors import DiskFullError, UsageError, WeightsError
from flax_attn.porting import pth
from flax_attn.porting.pth import MAX_PICKLE, read_state_dict
from tests.helpers.small_torch import small_state
from tests.helpers.weight_faults import (
    call,
    hungry,
    impossible,
    items,
    legacy,
    modern,
    name,
    quoting,
    state_table,
    storage,
    table,
    text,
    whole,
)

ROOT = Path(__file__).resolve().parents[2]

# Of a zip archive's record, before its name.
LOCAL_HEADER_BYTES = 30

DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"]


def save(path: Path, content: object, old: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path


def assert_same(path: Path, expected: dict[str, torch.Tensor]) -> None:
    found = read_state_dict(path)
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert found[key].shape == tuple(tensor.shape)
        assert found[key].dtype == str(tensor.dtype).removeprefix("torch.")
        values = np.asarray(found[key])
        wanted = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
        assert values.dtype == wanted.dtype and values.tobytes() == wanted.tobytes(), key


def numbers(*shape: int, dtype: str = "float32") -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return (values * 9).to(getattr(torch, dtype))


@pytest.mark.parametrize("old", [False, True])
def test_types_and_shapes(tmp_path: Path, old: bool) -> None:
    state = {dtype: numbers(3, 4, dtype=dtype) for dtype in DTYPES}
    state |= {"bool": numbers(5) > 0, "complex64": torch.complex(numbers(2), numbers(2))}
    state |= {"scalar": torch.tensor(7.5), "empty": torch.zeros(0, 3), "deep": numbers(*[1] * 9)}
    assert_same(save(tmp_path / "a.pth", state, old), state)


@pytest.mark.parametrize("old", [False, True])
def test_views_of_one_storage(tmp_path: Path, old: bool) -> None:
    whole = numbers(6, 8)
    state = {
        "whole": whole,
        "part": whole[2:4, 1:7],
        "transposed": whole.T,
        "steps": whole[::2, ::3],
        "last": whole[5, 7],
        "channels_last": numbers(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    assert_same(save(tmp_path / "a.pth", state, old), state)
    assert len({id(t) for t in read_state_dict(tmp_path / "a.pth").values()}) == len(state)


@pytest.mark.parametrize("old", [False, True])
def test_state_dicts_of_modules(tmp_path: Path, old: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    state = network.state_dict()
    assert isinstance(state, OrderedDict) and hasattr(state, "_metadata")
    assert_same(save(tmp_path / "a.pth", state, old), dict(state))
    # Parameters instead of tensors, inside what training scripts put around them.
    around = {
        "state_dict": {f"module.{k}": v for k, v in network.named_parameters()},
        "optimizer": torch.optim.Adam(network.parameters()).state_dict(),
        "epoch": 3,
        "best": 0.5,
        "args": {"lr": 1e-3, "names": ["a", "b"], "size": torch.Size([1, 2]), "done": None},
    }
    path = save(tmp_path / "b.pth", around, old)
    assert_same(path, dict(network.named_parameters()))


@pytest.mark.parametrize("wrap", [modern, legacy])
def test_what_pytorch_before_1_0_wrote_from_python_2(tmp_path: Path, wrap) -> None:
    """Pairs as an argument, byte strings, ``_rebuild_tensor``, storages of a GPU."""
    arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.ones(2, "f4")}

    def short(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    pairs = b""
    for i, (key, array) in enumerate(arrays.items()):
        held = items(
            short("storage"), name("torch.cuda.FloatStorage"), short(str(i)), short("cuda:0"),
            b"K" + bytes([array.size]), *([b"N"] if wrap is legacy else []),
        ) + b"Q"  # fmt: skip
        shape = b"(" + b"".join(b"K" + bytes([n]) for n in array.shape) + b"t"
        strides = b"(" + b"".join(b"K" + bytes([n // 4]) for n in array.strides) + b"t"
        rebuilt = call("torch._utils._rebuild_tensor", held, b"K\x00", shape, strides)
        pairs += b"](" + short(key) + rebuilt + b"ea"
    pickled = name("collections.OrderedDict") + b"]" + pairs + b"\x85R"
    path = tmp_path / "a.pth"
    path.write_bytes(wrap(pickled, arrays))
    found = read_state_dict(path)
    for key, array in arrays.items():
        np.testing.assert_array_equal(np.asarray(found[key]), array)
    if wrap is legacy:
        loaded = torch.load(path, weights_only=True, map_location="cpu")
        assert list(loaded) == list(found)


def test_files_built_by_hand_are_pytorchs(tmp_path: Path) -> None:
    """Else the hostile ones would be refused for another reason than the one they test."""
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((), np.float64)}
    for wrap, more in ((modern, ()), (legacy, (b"N",))):
        path = tmp_path / "a.pth"
        path.write_bytes(wrap(state_table(arrays, *more), arrays))
        for found in (torch.load(path, weights_only=True), read_state_dict(path)):
            assert {k: np.asarray(v).tolist() for k, v in found.items()} == {
                k: a.tolist() for k, a in arrays.items()
            }


def test_other_tensors_are_named_with_the_reason(tmp_path: Path) -> None:
    state = {
        "s": torch.eye(3).to_sparse(),
        "m": torch.empty(3, device="meta"),
        "d": numbers(3),
    }
    path = save(tmp_path / "a.pth", state, old=False)
    with pytest.raises(WeightsError, match=r"1 sparse \(s\); 1 without values \(m\)"):
        read_state_dict(path)
    held = storage("torch.QInt8Storage", "0", 3)
    quantised = call("torch._utils._rebuild_qtensor", held, b"K\x00", items(b"K\x03"))
    path.write_bytes(modern(table([(text("q"), quantised)]), {"q": np.zeros(3, np.int8)}))
    with pytest.raises(WeightsError, match=r"1 quantised \(q\)"):
        read_state_dict(path)


def test_a_storage_must_be_as_long_as_the_pickle_says(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32)}
    path = tmp_path / "a.pth"
    for stored in (arrays["a"][:5], np.arange(7, dtype=np.float32)):
        path.write_bytes(modern(state_table(arrays), {"a": stored}))
        with pytest.raises(WeightsError, match=r"without as many values.*\(a\)"):
            read_state_dict(path)
    short = legacy(state_table(arrays), arrays)[:-1]
    path.write_bytes(short)
    with pytest.raises(WeightsError, match="storage 0 is cut short"):
        read_state_dict(path)


SMALL = {"w": np.zeros(3, np.float32)}

# What the reader itself must say, not whoever compares the tensors with a network.
REASONS = {
    "stride-0": "1 larger than the bytes stored for it (w)",
    "stride-fits": "1 larger than the bytes stored for it (w)",
    "offset-behind-the-end": "1 larger than the bytes stored for it (w)",
    "storage-of-160-gb": "",
    "many-dimensions": "an impossible shape",
    "copied-items": "more items than the pickle has bytes",
    "hashed-tuples": "it holds a key that is a tuple",
    "size-of-2048-bits": "an impossible shape",
    "no-such-storage": "",
    "storage-too-short": "",
    "storage-too-long": "",
    "storage-of-two-types": "is of two sizes",
}


@pytest.mark.parametrize("wrap", [modern, legacy])
@pytest.mark.parametrize("kind", [*hungry(SMALL), *impossible(SMALL)])
def test_what_no_pytorch_writes_is_refused_by_the_reader(
    kind: str, wrap: Callable, tmp_path: Path
) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(wrap({**hungry(SMALL), **impossible(SMALL)}[kind], SMALL))
    if kind == "empty-but-wide" and wrap is modern:
        # It claims nothing that is not there; whether it fits a network is another matter.
        assert read_state_dict(path)["cls.weight"].shape == (1 << 61, 0)
        return
    with pytest.raises(WeightsError) as caught:
        read_state_dict(path)
    reason = REASONS.get(kind, "")
    if kind == "hashed-tuples" and wrap is legacy:
        reason = "a storage that no tensor is of"
    assert reason in str(caught.value)


def test_records_that_hold_each_other_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(quoting(whole(text("a" * 5000)), 3))
    # Each record is sound by itself. New versions of zipfile refuse to read them all the same.
    content = path.read_bytes()
    records = zipfile.ZipFile(path).infolist()
    assert len(records) == 4
    for record in records:
        start = record.header_offset + LOCAL_HEADER_BYTES + len(record.filename)
        assert zlib.crc32(content[start : start + record.file_size]) == record.CRC
    with pytest.raises(WeightsError, match="records that are packed or overlap"):
        read_state_dict(path)


def test_five_other_pickles_are_no_file_of_pytorchs(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(legacy(state_table(SMALL), SMALL, header=whole(b"K\x07")))
    with pytest.raises(WeightsError, match="no magic number of PyTorch's"):
        read_state_dict(path)


def test_the_pickle_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + text("a" * MAX_PICKLE) + b".")
    with pytest.raises(WeightsError, match="data.pkl has more than 1,048,576 bytes"):
        read_state_dict(path)


def test_a_pth_is_read_without_torch_and_written_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth"
    torch.save(small_state(), path)
    monkeypatch.setattr(pth, "find_spec", lambda name: None)
    assert pth.read_state_dict(path).keys() == small_state().keys()
    with pytest.raises(UsageError, match=r"pip install 'flax_attn\[torch\]'"):
        pth.write_state_dict(path, {})
    code = (
        "import sys; from pathlib import Path; from flax_attn.porting.pth import read_state_dict\n"
        "read_state_dict(Path(sys.argv[1])); print('torch' in sys.modules, 'pickle' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    # pickletools, which only names opcodes, imports pickle.
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_a_storage_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (n for n in records if n.endswith("data.pkl"))
    # BININT1 4, the number of elements, becomes LONG1 of 40 * 2**30.
    huge = b"\x8a\x05\x00\x00\x00\x00\x0a"
    assert b"K\x04t" in records[name]
    records[name] = (
        records[name].replace(b"K\x04t", huge + b"t").replace(b"K\x04\x85", huge + b"\x85")
    )
    with zipfile.ZipFile(path, "w") as archive:
        for record, content in records.items():
            archive.writestr(record, content)
    with pytest.raises(WeightsError, match=r"a\.pth"):
        pth.read_state_dict(path)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskFullError, match="no space left"):
        pth.write_state_dict(tmp_path / "a.pth", {"a": np.zeros(3, np.float32)})
    assert list(tmp_path.iterdir()) == []
