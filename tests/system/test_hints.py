"""Every command that a document, a help text or a message tells people to type works as told.

They are typed in a folder like a clone, one after the other, with flags that make them small.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import make_config
from flax_attn.models import build_model
from flax_attn.models.family import Backbone
from flax_attn.porting import from_flax, imagenet, save_torch
from flax_attn.porting.architecture import Architecture
from flax_attn.porting.imagenet import TORCHVISION_FILE
from flax_attn.porting.keras_h5 import write_keras
from flax_attn.porting.tables import keras_table, torchvision_table
from flax_attn.porting.weight_files import write_torch
from flax_attn.system import cli
from tests.helpers.hints import (
    ROOT,
    SOURCES,
    Hint,
    collect,
    flags_told,
    hints_of_sentence,
    hints_of_source,
)
from tests.helpers.image_folders import put_image, put_tree
from tests.helpers.networks import TINY, UNGATED, flags_of
from tests.helpers.pictures import leave_pictures_empty
from tests.helpers.plain_vgg import random_arrays
from tests.helpers.ported_weights import ported

SIZES = flags_of({name: TINY[name] for name in ("widths", "depths")})
_NAMES = ("widths", "depths", "attn_features", "image_size")
_SMALL = {name: TINY[name] for name in _NAMES}
_SHORT = {"train_count": 8, "val_count": 6, "batch_size": 4, "epochs": 1}
TRAINED = flags_of({**_SMALL, **_SHORT})
# What is typed after a command, so that it takes seconds.
SMALLER: dict[str, list[str]] = {
    "train": TRAINED,
    "explain": "--count 2 --methods grad_cam".split(),
    "cross-validate": [*TRAINED, "--folds", "2", "--gates", "pool4"],
    "ablate": [*TRAINED, *"--scores gate --norms sigmoid --seeds 0 --train-subset 6".split()],
    "reproduce": [
        *flags_of({**_SMALL, **_SHORT, "epochs": 2, "hidden": 16}),
        *"--seeds 0 --methods input_gradients --map-images 6 --sanity-images 2".split(),
        *"--sanity-draws 2 --timing-size 32 --timing-batch 2 --timing-rounds 3".split(),
    ],
    "port": SIZES,
}
# Commands with these words are only parsed, or looked for.
ONLY_PARSED = {
    "--source torchvision": "half a gigabyte from the network",
    "--dataset oxford_iiit_pet": "a data set that is downloaded",
    "--full": "trains on cats_vs_dogs, which is downloaded",
    "--coordinator": "needs two hosts",
    "-m benchmarks.": "takes minutes",
    "--workdir runs/asked/": "is of a run of such a benchmark",
    "--export-formats page": "a runtime that is downloaded",
    "isic201": "images that are downloaded",
    "derm7pt": "images that are downloaded",
    "--paper parent": "trains six networks: tests/studies/reproduce does",
}
TYPED_ELSEWHERE = {
    "flax-attn reproduce": "tests/studies/reproduce, a minute",
}
NOT_OURS = {
    "-m venv": "Python's own",
    "-m http.server": "Python's own",
    "-m pytest": "these tests",
}
# Flags of other programs.
FOREIGN = {
    "--dist",  # pytest-xdist
    "--size",  # benchmarks.compare
    "--batch",
    "--only",
    "--counts",  # benchmarks.many_files
    *("--flags", "--rounds"),  # benchmarks.devices
    "--cases",  # benchmarks.asked
    *("--nodes", "--ntasks-per-node", "--cpus-per-task", "--signal"),  # sbatch
    "--directory",  # http.server
    *("--hash", "--quiet", "--no-deps", "--no-binary", "--require-hashes", "--requirement"),  # pip
    "--disable-pip-version-check",
    "--dest",
    "--local-dir",  # hf
}

HINTS = collect()
WHOLE = [hint for hint in HINTS if hint.whole and not any(n in hint.command for n in NOT_OURS)]
PARSED = [hint for hint in WHOLE if any(words in hint.command for words in ONLY_PARSED)]


def command_of(argv: Sequence[str]) -> tuple[str, ...]:
    """The arguments of ``flax-attn`` that a command stands for; those of others as they are."""
    words = list(argv)
    if Path(words[0]).name.startswith("python"):
        words = words[1:]
    shims = {"train.py": "train", "eval.py": "eval", "flax-attn": None}
    if words[0] in shims:
        name = shims[words[0]]
        words = [name, *words[1:]] if name else words[1:]
    return tuple(words)


def _distinct(hints: Sequence[Hint]) -> list[Hint]:
    """Of commands that stand for the same the first; scripts of a clone come before flax-attn."""
    ordered = sorted(hints, key=lambda hint: hint.command.startswith("flax-attn"))
    first = {command_of(hint.argv): hint for hint in reversed(ordered)}
    return [hint for hint in hints if hint in first.values()]


TYPED = _distinct(
    [hint for hint in WHOLE if hint not in PARSED and hint.command not in TYPED_ELSEWHERE]
)


def type_command(argv: Sequence[str]) -> int:
    """Types a command in this process; returns its exit code."""
    if argv[0] == "flax-attn":
        try:
            return cli.main(argv[1:])
        except SystemExit as ended:  # --help
            return int(ended.code or 0)
    words = list(argv[1:] if Path(argv[0]).name.startswith("python") else argv)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(os.getcwd())
        try:
            if words[0] == "-m":
                patch.setattr(sys, "argv", words[1:])
                # Another test may have imported it, which no command has.
                patch.delitem(sys.modules, words[1], raising=False)
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                patch.setattr(sys, "argv", words)
                runpy.run_path(words[0], run_name="__main__")
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a clone has at its top, and the files that documents name."""
    folder = tmp_path_factory.mktemp("clone")
    for path in ROOT.iterdir():
        if path.name not in ("weights", "runs", "data", ".git", ".venv", "build", "dist"):
            (folder / path.name).symlink_to(path)
    (folder / "weights").mkdir()
    (folder / "weights" / "port.py").symlink_to(ROOT / "weights" / "port.py")
    ported(folder / "weights" / TORCHVISION_FILE, make_config(TINY))
    put_tree(folder / "photos", 8)
    rows = [f"{name}/{i}.jpg,{name}\n" for name in ("cat", "dog") for i in range(8)]
    (folder / "photos" / "labels.csv").write_text("name,class\n" + "".join(rows))
    put_tree(folder / "others", 3)
    for image in put_tree(folder / "lesions", 8, ("melanoma", "other")).rglob("*.jpg"):
        mask = folder / "lesions_masks" / image.relative_to(folder / "lesions").with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(20, 30, dtype=np.uint8)).save(mask)
    for number, name in enumerate(("cat.jpg", "photo.jpg", "holiday/1.jpg", "folder/1.jpg")):
        put_image(folder / name, number)
    save_torch(build_model(network("vgg"), num_classes=5), folder / "vgg16_bn.pth")
    save_torch(build_model(network("attn_vgg"), num_classes=2), folder / "attnvgg.pth")
    plain = Architecture(
        Backbone(TINY["depths"], norm=False), TINY["widths"], "dense", classes=5, hidden=4
    )
    arrays, depths = random_arrays(plain), TINY["depths"]
    counted = from_flax(keras_table(depths, counted=True), arrays)
    write_keras(folder / "vgg16.weights.h5", counted, pixels="caffe")
    theirs = from_flax(torchvision_table(depths, norm=False), arrays)
    write_torch(folder / "vgg19.pth", theirs, "float32")
    return folder


def network(name: str) -> Any:
    return make_config({**(TINY if name == "attn_vgg" else UNGATED), "model": name}).model


@pytest.fixture
def there(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder like a clone as the working directory; pictures are empty files."""
    monkeypatch.chdir(clone)
    leave_pictures_empty(monkeypatch)
    return clone


def type_small(hint: Hint) -> int:
    """Types a hint after those that make what it reads, with flags that make it small."""
    argv = hint.argv
    for need in sorted(set(needs(argv))):
        if not Path(need).exists():
            (maker,) = [h for h in TYPED if need in makes(h.argv)][:1]
            assert type_small(maker) == 0, maker
    name = command_of(argv)[0]
    smaller = [] if "--help" in argv else SMALLER.get(name, [])
    if "inspect" in argv:
        smaller = []
    if name == "explain" and "--split" not in argv:
        smaller = smaller[2:]
    return type_command([*argv, *smaller])


def value_of(flag: str, argv: Sequence[str]) -> str | None:
    return argv[argv.index(flag) + 1] if flag in argv else None


def needs(argv: Sequence[str]) -> Iterator[str]:
    """What a command reads that another one makes."""
    name = command_of(argv)[0]
    if name in ("predict", "export", "publish") and "--help" not in argv:
        yield command_of(argv)[1]
    flags = ["--init-from"] if name in ("train", "cross-validate") else ["--workdir"]
    flags += ["--source"] if name == "port" else []
    values = [value_of(flag, argv) for flag in flags if name != "reproduce"]
    yield from (value for value in values if value)


def makes(argv: Sequence[str]) -> list[str | None]:
    name = command_of(argv)[0]
    if name == "publish":
        return [command_of(argv)[2]]
    flags = {"train": "--workdir", "port": "--out", "export": "--out"}
    return [value_of(flags.get(name, "-"), argv)]


def test_hints_are_found() -> None:
    """In each kind of place; the commands found here are those of the tests below."""
    places = {Path(hint.where.partition(":")[0]).suffix for hint in HINTS}
    assert places == {".md", ".py"} and len(TYPED) > 20 and len(PARSED) > 4
    used = {command_of(hint.argv)[0] for hint in TYPED}
    assert used == cli.COMMANDS.keys(), "a command that no document shows"
    for words in (*ONLY_PARSED, *NOT_OURS):
        assert any(words in hint.command for hint in HINTS), words


@pytest.mark.parametrize("hint", TYPED, ids=lambda hint: hint.command)
def test_a_command_works_as_told(
    hint: Hint, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert type_small(hint) == 0, f"{hint.where}: {capsys.readouterr().err}"


class _Parsed(Exception):
    """Ends a command once its arguments are parsed."""


@pytest.mark.parametrize("hint", PARSED, ids=lambda hint: hint.command)
def test_a_command_parses_as_told(hint: Hint, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise _Parsed(parse(self, *args, **kwargs))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    with pytest.raises(_Parsed):
        type_command(hint.argv)


@pytest.mark.parametrize(
    "hint", [hint for hint in HINTS if not hint.whole], ids=lambda hint: hint.command
)
def test_a_command_that_is_mentioned_exists(hint: Hint) -> None:
    words = hint.argv
    if words[0] == "flax-attn":
        assert words[1:2] == [] or words[1] in cli.COMMANDS, hint
    elif "-m" in words:
        name = words[words.index("-m") + 1]
        spec = find_spec(name)
        assert spec is not None, hint
        assert not spec.submodule_search_locations or find_spec(f"{name}.__main__"), hint
    else:
        (script,) = [word for word in words if word.endswith(".py")]
        assert (ROOT / script).is_file(), hint


def test_the_package_tells_nothing_that_needs_a_clone() -> None:
    sources = [path for path in SOURCES if path.is_relative_to(ROOT / "flax_attn")]
    told = [hint for path in sources for hint in hints_of_source(path)]
    pythons = [words for words, whose in NOT_OURS.items() if whose == "Python's own"]
    needy = [hint for hint in told if not any(words in hint.command for words in pythons)]
    assert needy and all(hint.argv[0] == "flax-attn" for hint in needy)


def test_marks_that_are_told_exist() -> None:
    marks = [hint.argv[-1] for hint in HINTS if "-m pytest -m" in hint.command]
    assert marks
    for mark in marks:
        assert f'"{mark}: ' in (ROOT / "pyproject.toml").read_text(), mark


def test_flags_that_are_told_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (*([name] for name in cli.COMMANDS), ["port", "inspect"]):
        with pytest.raises(SystemExit):
            cli.main([*command, "--help"])
    known = {word.strip(",[]|") for word in capsys.readouterr().out.split()}
    for flag, where in flags_told().items():
        assert flag in known | FOREIGN | {"--version"}, where


# What a message tells after a failure.


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_pytorch_are_ported_as_told(
    suffix: str, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_torch(build_model(network("attn_vgg"), num_classes=2), there / f"theirs{suffix}")
    command = ["flax-attn", "train", "--workdir", f"runs/theirs{suffix}", *TRAINED, "--weights"]
    assert type_command([*command, f"theirs{suffix}"]) == 5
    (hint,) = hints_of_sentence(capsys.readouterr().err)
    assert hint.whole and type_small(hint) == 0
    ours = value_of("--out", hint.argv)
    assert ours and type_command([*command, ours]) == 0


def test_imagenet_weights_are_put_where_told(
    tmp_path: Path, clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    leave_pictures_empty(monkeypatch)
    monkeypatch.setattr(imagenet, "host_answers", lambda url: False)
    monkeypatch.setattr(imagenet, "PORT_SECONDS", 0)
    command = ["flax-attn", "train", *TRAINED]
    assert type_command(command) == 5
    said = capsys.readouterr().err
    assert "flax-attn port" in said and "--weights none" in said
    folder = tmp_path / "cache" / "flax_attn" / "weights"
    assert f"in {folder} (as {TORCHVISION_FILE} or" in said
    port = ["flax-attn", "port", "--source", str(clone / "vgg16_bn.pth"), *SIZES]
    assert type_command([*port, "--out", str(folder / TORCHVISION_FILE)]) == 0
    assert type_command(command) == 0
    told = [hint for hint in hints_of_sentence(capsys.readouterr().out) if hint.whole]
    assert [hint.command.split()[1] for hint in told] == ["eval"]
    assert type_command(told[0].argv) == 0


def test_another_run_is_resumed_as_told(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["flax-attn", "train", *TRAINED, "--workdir", "runs/resumed"]
    assert type_command(command) == 0
    other = [*command, "--epochs", "2", "--learning-rate", "0.5", "--label-smoothing", "0.1"]
    assert type_command(other) == 4
    told = capsys.readouterr().err.partition("or add ")[2].split()
    assert told[0] == "--resume-anyway" and type_command([*other, *told]) == 0
