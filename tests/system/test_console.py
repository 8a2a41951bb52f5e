"""Progress: a bar on a terminal, whole lines now and then in a file."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tqdm import tqdm

from flax_attn.system import console
from flax_attn.system.console import LINE_SECONDS, ProgressLines, bar, cleared_line

PACKAGE = Path(__file__).parents[2] / "flax_attn"


class Clock:
    """A clock that only goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def told(seconds: Sequence[float], *, stop: int | None = None, done: int = 0) -> list[str]:
    """The lines told of items that take these seconds each; ``stop`` items are gone through."""
    clock, lines = Clock(), list[str]()
    total = len(seconds) + done
    shown = ProgressLines(seconds, total, "epoch 1/2", done=done, clock=clock, write=lines.append)
    for number, each in enumerate(shown):
        clock.now += each
        shown.set_postfix_str(f"loss {number}")
        if stop == number + 1:
            break
    shown.close()
    return lines


def test_what_is_over_soon_says_nothing() -> None:
    assert told([1.0, 2.0, 1.9]) == []
    assert told([]) == []


def test_a_line_in_a_few_seconds_and_one_at_the_end() -> None:
    lines = told([1.0] * 12)
    assert [line.partition(",")[0] for line in lines] == [
        "epoch 1/2: 5/12",
        "epoch 1/2: 10/12",
        "epoch 1/2: 12/12",
    ]
    assert lines[0] == "epoch 1/2: 5/12, 5 s, 7 s left, loss 4"
    assert lines[-1] == "epoch 1/2: 12/12, 12 s, loss 11"


@pytest.mark.parametrize("each", [0.01, 0.13, 1.0, 4.9, 5.0, 61.0], ids=lambda s: f"{s} s an item")
def test_there_are_never_more_lines_than_the_time_allows(each: float) -> None:
    lines = told([each] * 700)
    assert 1 < len(lines) <= each * 700 / LINE_SECONDS + 1
    assert len(set(lines)) == len(lines)
    assert not any("\r" in line or "\n" in line for line in lines)


def test_the_end_is_told_once() -> None:
    """Also where the last item is that of a line."""
    lines = told([1.0] * 10)
    assert [line.partition(",")[0] for line in lines] == ["epoch 1/2: 5/10", "epoch 1/2: 10/10"]


def test_what_ends_early_says_how_far_it_came() -> None:
    lines = told([3.0] * 10, stop=4)
    assert lines[-1].startswith("epoch 1/2: 3/10")  # the fourth was not finished
    assert told([1.0] * 10, stop=2) == []


def test_what_the_first_item_took_says_nothing_of_the_others() -> None:
    assert told([60.0] + [1.0] * 9)[:2] == [
        "epoch 1/2: 1/10, 60 s, loss 0",
        "epoch 1/2: 6/10, 65 s, 4 s left, loss 5",
    ]


def test_items_before_the_first_count_but_took_no_time() -> None:
    lines = told([5.0] * 2, done=6)
    assert lines == [
        "epoch 1/2: 7/8, 5 s, loss 0",
        "epoch 1/2: 8/8, 10 s, loss 1",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_lines_and_a_terminal_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(bar(range(3), 3, "x"), ProgressLines)
    monkeypatch.setattr("sys.stderr", None)
    assert list(bar(range(3), 3, "x")) == [0, 1, 2]
    monkeypatch.setattr("sys.stderr", Terminal())
    shown = bar(range(3), 3, "x")
    assert isinstance(shown, tqdm) and list(shown) == [0, 1, 2]


def test_a_file_gets_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, clock = io.StringIO(), Clock()
    monkeypatch.setattr("sys.stderr", stream)
    for _ in ProgressLines(range(3), 3, "features", clock=clock):
        clock.now += LINE_SECONDS
    assert stream.getvalue() == (
        "features: 1/3, 5 s\nfeatures: 2/3, 10 s, 5 s left\nfeatures: 3/3, 15 s\n"
    )


def test_a_full_disk_below_standard_error_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    assert list(bar(range(3), 3, "x")) == [0, 1, 2]


def bars_of_tqdm() -> Iterator[tuple[str, ast.Call]]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tqdm", "tqdm.tqdm"):
                yield str(path.relative_to(PACKAGE)), node


def test_no_bar_is_drawn_into_a_file() -> None:
    """Bars come from ``bar``; others say ``disable=None``, by which tqdm asks for a terminal."""
    found = list(bars_of_tqdm())
    assert "system/console.py" in {name for name, _ in found}
    for name, call in found:
        asks = any(k.arg == "disable" and ast.unparse(k.value) == "None" for k in call.keywords)
        assert asks or name == "system/console.py", name


def test_nothing_else_returns_the_carriage() -> None:
    """What is written past a bar asks ``cleared_line``, which is nothing where there is none."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and str(node.value).startswith("\r")
    }
    assert found == {"system/console.py"}


def test_a_line_in_a_file_needs_no_clearing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.isatty", lambda descriptor: False)
    assert cleared_line() == ""
    monkeypatch.setattr("os.isatty", lambda descriptor: descriptor == 2)
    assert cleared_line().startswith("\r")


def test_progress_without_a_known_end_counts() -> None:
    clock, lines = Clock(), list[str]()
    for _ in ProgressLines(range(12), None, "predicting", clock=clock, write=lines.append):
        clock.now += 1
    assert lines == ["predicting: 5, 5 s", "predicting: 10, 10 s", "predicting: 12, 12 s"]


def test_a_program_has_standard_output_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    console.speak(on_stderr=True)
    console.LOGGER.info("found")
    assert capsys.readouterr() == ("", "found\n")
    console.speak()
    console.LOGGER.info("found")
    assert capsys.readouterr() == ("found\n", "")
