from __future__ import annotations

from pathlib import Path

import pytest

from flax_attn.system.files import read_sealed, seal, unseal, write_text

VALUES = {
    "step": 12,
    "loss": 0.1,
    "auc": 1e308,
    "name": "café \udcff",
    "rows": [{"a": None}],
}


def test_a_seal_carries_any_values() -> None:
    assert unseal(seal(VALUES)) == VALUES


def test_a_seal_shows_every_changed_bit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = seal(VALUES).encode()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="file has changed"):
            read_sealed(path)


@pytest.mark.parametrize("text", ["", "{}", '{"sha256":"', "null", seal({}) + " ", seal({})[:-1]])
def test_other_text_is_not_sealed(text: str) -> None:
    with pytest.raises(ValueError):
        unseal(text)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    (tmp_path / ".file.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_text(path, "new")
    assert path.read_text() == "new"
