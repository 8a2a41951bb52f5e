"""Damaged images of every format: decoded or refused by name, never a crash and never a hang."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from flax_attn.data.decode import decode
from tests.helpers.fault_process import judge
from tests.helpers.image_faults import MUTATIONS, bombs, damaged, samples

PROGRAM = "tests.helpers.image_faults"


def check(found: list[dict]) -> Counter:
    outcomes = Counter(row["outcome"] for row in found)
    bad = [row for row in found if row["outcome"] not in ("decoded", "refused")]
    assert not bad, bad[:5]
    for row in found:
        if row["outcome"] == "refused":
            assert row["line"] == f"{row['file']!r}: {row['reason']}" and "\n" not in row["line"]
            assert len(row["reason"]) > 5, row
    # Both happen, or nothing is tested.
    assert outcomes["decoded"] > len(found) / 20 and outcomes["refused"] > len(found) / 5
    return outcomes


def test_samples_cover_the_formats() -> None:
    assert len(samples()) >= 12
    for name, content in samples().items():
        if name != "tiff-float":
            assert decode(content, size=16, resize="crop").shape == (16, 16, 3)


def test_cases_repeat_and_differ() -> None:
    cases = [damaged(case) for case in range(len(samples()) * len(MUTATIONS))]
    assert cases == [damaged(case) for case in range(len(cases))]
    assert len({content for _, content in cases}) > 0.95 * len(cases)
    cases = cases[len(bombs()) :]
    assert sum(content != samples()[name] for name, content in cases) > 0.95 * len(cases)


def test_decompression_bombs_take_no_memory(tmp_path: Path) -> None:
    found = judge(PROGRAM, len(bombs()), tmp_path)
    for row in found:
        assert row["outcome"] == "refused" and "more than 50 megapixels" in row["reason"], row
    assert found[-1]["peak"] - found[0]["peak"] < 16 << 20


def test_crashes_hangs_and_escapes_would_be_noticed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, sys, time\n"
        "for case in range(int(sys.argv[1]), int(sys.argv[2])):\n"
        "    if case == 1: os.abort()\n"
        "    if case == 3: time.sleep(60)\n"
        "    outcome = 'escaped' if case == 4 else 'decoded'\n"
        "    print(json.dumps({'case': case, 'outcome': outcome}), flush=True)\n"
    )
    found = judge(program, 6, hang_seconds=1.5)
    assert [row["outcome"] for row in found] == [
        "decoded",
        "crashed",
        "decoded",
        "hung",
        "escaped",
        "decoded",
    ]
    with pytest.raises(AssertionError, match="crashed"):
        check(found)


@pytest.mark.parametrize("count", [2200, pytest.param(20_000, marks=pytest.mark.faults)])
def test_damaged_images(count: int, tmp_path: Path) -> None:
    found = judge(PROGRAM, count, tmp_path)
    outcomes = check(found)
    slowest = max(row["seconds"] for row in found)
    peak = max(row["peak"] for row in found)
    print(f"{len(samples())} formats, {dict(outcomes)}, slowest {slowest:.3f} s, peak {peak:,} B")
    assert slowest < 5 and peak < 1 << 30
