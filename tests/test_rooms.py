"""The layout of the package: rooms, imports, names of files and classes, and docstrings."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import LONG, QUICK

PACKAGE = Path(__file__).parents[1] / "flax_attn"

# From the top: what a room may import stands before it (docs/design.md).
ROOMS = (
    *("errors", "config", "system", "statistics", "ops", "attention", "models", "figures"),
    *("data", "runs", "porting", "training", "explain", "studies"),
)
# Images on the host are of no interest to the networks, nor the other way round.
DATA_REFUSES = ("ops", "attention", "models", "figures")
HEAVY = {"jax", "flax", "optax", "orbax"}

# A verb in the third person, such as "Returns"; words that end like one are none.
VERB = re.compile(r"[A-Z][a-z]*[a-rt-z]s")
NO_VERBS = {"As", "Is", "Its", "Plus", "This", "Thus"}
SINGLE_BACKTICKS = re.compile(r"(?<!`)`(?!`)[^`]+`(?!`)")
PROSE_RAISES = re.compile(r"\b[Rr]aises\s+`*[A-Z]\w*(Error|Exception|Exit|Interrupt|Iteration)\b")

Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module that a file imports, at the top, within a function or by ``lazy_module``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            if node.module == "flax_attn":
                yield from (f"flax_attn.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy_module":
            yield ast.literal_eval(node.args[0])


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


def file_of(name: str) -> Path | None:
    """The file of a module of the package; None for any other."""
    place = PACKAGE.parent.joinpath(*name.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if PACKAGE in file.parents and file.is_file()), None)


def files_imported(tree: ast.Module) -> set[Path]:
    """The files of the package that a file imports when it is imported itself."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            found += [file_of(alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [file_of(name) or file_of(str(node.module)) for name in names]
    return {file for file in found if file is not None}


def test_imports_of_files_go_one_way() -> None:
    """Also within a room: what a file imports does not import it in turn, however far round."""
    graph = {path: files_imported(tree) for path, tree in modules() if path.parent != PACKAGE}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(str(path.relative_to(PACKAGE)) for path in error.args[1]))


@pytest.mark.parametrize("room", ["config", "data"])
def test_a_room_without_networks_never_imports_jax(room: str) -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path, tree in modules()
        if room_of(path) == room
        for name in imported(tree)
        if name.split(".")[0] in HEAVY
    ]
    assert wrong == []


def test_only_files_of_figures_import_matplotlib() -> None:
    """It is slow to import, and nothing that computes may need it."""
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path, tree in modules()
        if path.parent.name != "figures" and not path.stem.endswith("_figure")
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


def test_lists_of_test_files_name_files_that_exist() -> None:
    tests = Path(__file__).parent
    assert [file for file in (*LONG, *QUICK) if not (tests / file).is_file()] == []


def test_every_room_says_what_it_is_for() -> None:
    """What it refuses and which file to read first, in about ten lines."""
    for path, tree in modules():
        if path.name == "__init__.py" and path.parent.parent == PACKAGE:
            text = ast.get_docstring(tree) or ""
            assert 4 <= len(text.splitlines()) <= 16 and "Read " in text, path


def docstrings(only_public_functions: bool = False) -> Iterator[tuple[str, str]]:
    """Every docstring, after the name of what it describes."""

    def below(node: ast.AST, name: str, public: bool) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.ClassDef):
                yield from below(child, name, public)
                continue
            is_function = isinstance(child, ast.FunctionDef)
            named = public and (child.name == "__call__" or not child.name.startswith("_"))
            chosen = named and is_function and not is_property(child)
            if chosen or not only_public_functions:
                yield from of(child, f"{name}:{child.name}")
            # A function within a function is nobody else's.
            yield from below(child, f"{name}:{child.name}", named and not is_function)

    def of(node: Documented, name: str) -> Iterator[tuple[str, str]]:
        if (text := ast.get_docstring(node)) is not None:
            yield name, text

    for path, tree in modules():
        name = str(path.relative_to(PACKAGE))
        if not only_public_functions:
            yield from of(tree, name)
        yield from below(tree, name, True)


def is_property(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def begins_with_a_verb(text: str) -> bool:
    words = text.split()
    first = words[0].rstrip(",;")
    noun = first in NO_VERBS or words[1:2] == ["of"]
    return VERB.fullmatch(first) is not None and not noun


def test_docstrings_of_functions_begin_with_a_verb_in_the_third_person() -> None:
    wrong = [
        f"{name}: {text.splitlines()[0]}"
        for name, text in docstrings(only_public_functions=True)
        if not begins_with_a_verb(text)
    ]
    assert wrong == []


def test_the_first_line_of_a_docstring_is_a_whole_sentence() -> None:
    wrong = [
        name
        for name, text in docstrings(only_public_functions=True)
        if not text.splitlines()[0].endswith((".", "…", ":"))
    ]
    assert wrong == []


def test_code_in_docstrings_stands_in_double_backticks() -> None:
    wrong = [
        f"{name}: {found.group()}"
        for name, text in docstrings()
        if (found := SINGLE_BACKTICKS.search(text))
    ]
    assert wrong == []


def test_errors_of_functions_stand_in_a_block() -> None:
    """Under ``Raises:``, an error a line, not in a sentence."""
    wrong = [
        f"{name}: {found.group()}"
        for name, text in docstrings(only_public_functions=True)
        if (found := PROSE_RAISES.search(text))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "text, right",
    [
        ("Returns the mean.", True),
        ("Convolves, normalises.", True),
        ("Passes it on.", True),
        ("The mean.", False),
        ("Mean of all.", False),
        ("Sums of squares.", False),
        ("Loss of an example.", False),
        ("Whether it is so.", False),
        ("Return the mean.", False),
        ("returns the mean.", False),
    ],
)
def test_a_verb_is_told_from_other_words(text: str, right: bool) -> None:
    assert begins_with_a_verb(text) == right
