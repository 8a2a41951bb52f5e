"""The layout of the package: a room imports only rooms above it, and no two files share a name."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "flax_attn"

# From the top: what a room may import stands before it (docs/design.md).
ROOMS = (
    *("errors", "config", "system", "statistics", "ops", "attention", "models", "figures"),
    *("data", "runs", "porting", "training", "explain", "studies"),
)
# Images on the host are of no interest to the networks, nor the other way round.
DATA_REFUSES = ("ops", "attention", "models", "figures")
HEAVY = {"jax", "flax", "optax", "orbax"}


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module that a file imports, at the top or within a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            if node.module == "flax_attn":
                yield from (f"flax_attn.{alias.name}" for alias in node.names)
            else:
                yield node.module


def room_of(path: Path) -> str | None:
    """The room of a file; None for the package's own ``__init__``."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if first == "__init__" else first


def test_a_room_imports_only_rooms_above_it() -> None:
    wrong = []
    for path, tree in modules():
        room = room_of(path)
        if room is None:
            continue
        for name in imported(tree):
            if not name.startswith("flax_attn."):
                continue
            other = name.split(".")[1]
            below = ROOMS.index(other) > ROOMS.index(room)
            if below or (room == "data" and other in DATA_REFUSES):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_data_never_imports_jax() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path, tree in modules()
        if room_of(path) == "data"
        for name in imported(tree)
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []


def test_only_files_of_figures_import_matplotlib() -> None:
    """It is slow to import, and nothing that computes may need it."""
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path, tree in modules()
        if path.stem != "figures" and not path.stem.endswith("_figure")
        for name in imported(tree)
        if name.split(".")[0] == "matplotlib"
    ]
    assert wrong == []


def test_every_file_stands_in_a_room() -> None:
    assert {room_of(path) for path, _ in modules()} == {None, *ROOMS}


def test_no_two_files_share_a_name() -> None:
    names = Counter(path.name for path, _ in modules() if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_public_classes_share_a_name() -> None:
    names = Counter(
        node.name
        for _, tree in modules()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_every_room_says_what_it_is_for() -> None:
    """What it refuses and which file to read first, in about ten lines."""
    for path, tree in modules():
        if path.name == "__init__.py" and path.parent.parent == PACKAGE:
            text = ast.get_docstring(tree) or ""
            assert 4 <= len(text.splitlines()) <= 16 and "Read " in text, path
