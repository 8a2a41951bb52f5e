"""The front door: what docs/library.md shows runs, and says the names that there are."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flax_attn as fa
from tests.helpers.snippets import ROOT, blocks, program, run_program, sections, table_rows

DOCUMENT = ROOT / "docs" / "library.md"
SECTIONS = {name: text for name, text in sections(DOCUMENT).items() if blocks(text)}
NAMES = "Every stable name"
LOOP = "A training loop by hand"
RUN = "Train, load, predict, explain, evaluate"
ROOMS = ("attention", "data", "explain", "ops", "porting")

# What each program leaves in its folder.
LEFT = {
    NAMES: {"run", "convolutions.safetensors"},
    LOOP: {"attention.png"},
    "A gate in a network of your own": {"gate.png"},
    "VGG16_bn from PyTorch": set(),
    RUN: {"cat.png", "runs"},
    "What you can rely on": set(),
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder in which the program of a section has run, once for all tests."""

    @cache
    def run(name: str) -> Path:
        folder = tmp_path_factory.mktemp("section")
        run_program(program(SECTIONS[name]), folder)
        return folder

    return run


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_runs_in_an_empty_folder(name: str, folder_of: Callable[[str], Path]) -> None:
    folder = folder_of(name)
    assert {path.name for path in folder.iterdir()} == LEFT[name]
    for picture in folder.glob("*.png"):
        assert np.asarray(Image.open(picture).convert("L")).std() > 1, picture.name


def test_the_readme_runs_beside_a_run_and_two_photographs(
    tmp_path: Path, folder_of: Callable[[str], Path]
) -> None:
    found = blocks((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found
    for name in ("cat.jpg", "dog.png"):
        Image.new("RGB", (50, 40)).save(tmp_path / name)
    shutil.copytree(folder_of(RUN) / "runs" / "pets", tmp_path / "runs" / "photos")
    run_program("\n".join(found), tmp_path)


def test_the_loop_by_hand_is_short() -> None:
    (block,) = blocks(SECTIONS[LOOP])
    assert len([line for line in block.splitlines() if line.strip()]) <= 40


def test_the_tables_list_every_stable_name_once() -> None:
    names = [name for name, _ in table_rows(SECTIONS[NAMES])]
    assert len(names) == len(set(names))
    of_package = {name for name in names if name.count(".") == 1}
    assert of_package == {f"fa.{name}" for name in fa.__all__}
    for name in set(names) - of_package:
        _, room, member = name.split(".")
        assert room in ROOMS and member in getattr(fa, room).__all__, name


def test_each_row_of_the_tables_is_read_and_uses_its_name() -> None:
    text = SECTIONS[NAMES]
    rows = table_rows(text)
    assert len(rows) == len(re.findall(r"^\| `fa", text, re.MULTILINE))
    assert [name for name, line in rows if name not in line] == []


def test_examples_use_stable_names_only() -> None:
    stable = {name for name, _ in table_rows(SECTIONS[NAMES])}
    for text in SECTIONS.values():
        source = program(text)
        assert re.findall(r"^\s*(?:from|import) flax_attn(?! as fa$).*", source, re.M) == []
        for first, second in re.findall(r"\bfa\.(\w+)(?:\.(\w+))?", source):
            inside = first in ROOMS and second and second != "__doc__"
            assert (f"fa.{first}.{second}" if inside else f"fa.{first}") in stable


def test_import_loads_nothing(tmp_path: Path) -> None:
    source = """
import resource, sys
before, started = set(sys.modules), resource.getrusage(resource.RUSAGE_SELF)
import flax_attn
ended = resource.getrusage(resource.RUSAGE_SELF)
print(ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime)
print(*sorted(set(sys.modules) - before))
"""
    seconds, loaded = run_program(source, tmp_path).stdout.splitlines()
    foreign = {name for name in loaded.split() if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"flax_attn", "flax_attn.system", "flax_attn.system.lazy"}
    assert float(seconds) < 0.2


def test_the_package_shows_its_stable_names() -> None:
    assert set(dir(fa)) == set(fa.__all__)
    assert fa.__version__ == version("flax_attn")
    assert fa.AttnVGG is fa.AttnVGG


@pytest.mark.parametrize("module", [fa, *(getattr(fa, room) for room in ROOMS)])
def test_an_unknown_name_is_an_attribute_error(module: object) -> None:
    assert not hasattr(module, "no_such_name")


def test_type_checkers_are_told_of_the_names_that_are_imported_late() -> None:
    tree = ast.parse(Path(fa.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.name: None if node.module == "flax_attn" else node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == {
        name: None if module is None else f"flax_attn.{module}"
        for name, module in fa._STABLE.items()
    }


def test_a_users_program_passes_mypy_with_the_wheel_installed(tmp_path: Path) -> None:
    # Built from a copy: setuptools writes beside what it reads.
    copy, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "flax_attn"):
        (copy / name).symlink_to(ROOT / name)
    build = f"from setuptools.build_meta import build_wheel as b; b({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert {path.name for path in site.glob("*") if path.suffix != ".dist-info"} == {"flax_attn"}
    shutil.copy(ROOT / "tests" / "helpers" / "user_program.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "user_program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("Success"), done.stdout + done.stderr
