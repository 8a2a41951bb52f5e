"""Files of ported weights: whole, sealed, refused when they are anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flax_attn.errors import WeightsError
from flax_attn.porting import read_ported, write_ported
from tests.helpers.small_torch import DEPTHS, WIDTHS, ported_arrays, same_bits

METADATA = {
    "source": "a test",
    "source_sha256": "0" * 64,
    "layout": "attn_vgg",
    "batch_norm": "trained",
    "widths": WIDTHS,
    "depths": DEPTHS,
}


def test_file_round_trip(tmp_path: Path) -> None:
    arrays, path = ported_arrays("attn_vgg"), tmp_path / "a.safetensors"
    write_ported(path, arrays, METADATA)
    read, metadata = read_ported(path)
    assert same_bits(read, arrays)
    assert metadata == METADATA | {
        "format": "flax_attn",
        "widths": list(WIDTHS),
        "depths": list(DEPTHS),
    }
    before = path.read_bytes()
    write_ported(path, dict(reversed(arrays.items())), metadata)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_ported(path, ported_arrays("attn_vgg"), METADATA)
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    # Header, first and last array; bit 7 makes the header invalid text, bit 0 mostly does not.
    positions = [0, 8, 40, 8 + header // 2, 8 + header, len(content) - 1]
    for position in positions:
        for bit in (0, 7):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(WeightsError, match="a.safetensors"):
                read_ported(path)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    for content in (b"", b"<html>not found</html>", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="no safetensors file"):
            read_ported(path)
    save_file({"a": np.zeros(3, np.float32)}, path)
    with pytest.raises(WeightsError, match="flax-attn port"):
        read_ported(path)
    with pytest.raises(WeightsError, match="no such file"):
        read_ported(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="not a file"):
        read_ported(tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(WeightsError, match="cannot write"):
        write_ported(target, ported_arrays("attn_vgg"), METADATA)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(ValueError, match="missing: batch_norm"):
        write_ported(tmp_path / "b", {}, {k: v for k, v in METADATA.items() if k != "batch_norm"})
