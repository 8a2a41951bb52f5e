"""What several test files share: compiled programs, a network small enough to train in seconds."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxtyping
import pytest
from filelock import FileLock

from flax_attn.config import Config, make_config
from flax_attn.system.console import LOGGER, speak
from tests.helpers import shapes
from tests.helpers.faulty_runs import SMALL, Reference, make_reference
from tests.helpers.hurry import compile_with
from tests.helpers.networks import TINY
from tests.helpers.pictures import leave_pictures_of_runs_empty

# Files that take longest, longest first: begun late, the last of them would leave a core idle.
# Together with --no-loadscope-reorder in pyproject.toml.
LONG = (
    "system/test_hints.py",
    "training/test_train.py",
    "test_library.py",
    "system/test_flags.py",
    "system/test_failures.py",
    "training/test_devices.py",
    "attention/test_attention.py",
    "training/test_loop.py",
    "faults/test_runs.py",
    "studies/reproduce/test_reproduce_command.py",
    "runs/test_checkpoints.py",
    "porting/export/test_onnx.py",
    "ops/test_llvm.py",
    "models/test_parity_forward.py",
    "ops/test_conv.py",
    "models/test_parity_gradients.py",
    "explain/test_explain_command.py",
    "training/test_step.py",
    "ops/test_winograd.py",
    "ops/test_images.py",
    "studies/ablate/test_ablate_command.py",
    "attention/test_relations.py",
    "ops/test_conv_modules.py",
    "attention/test_gate_variants.py",
    "models/test_family.py",
    "explain/test_cam.py",
    "models/test_multilabel.py",
    "models/test_precision.py",
    "studies/reproduce/test_parent_command.py",
    "attention/test_training_all_pairs.py",
    "ops/test_conv_stage.py",
    "test_benchmarks.py",
    "explain/test_trained_run.py",
    "training/test_parity_training.py",
    "porting/export/test_export_run.py",
    "runs/test_conditions.py",
    "explain/test_derived_views.py",
    "porting/test_state_dict.py",
)
# ``pytest -m quick``: what one runs while writing. A file of every room, under a minute in all.
QUICK = (
    "test_rooms.py",
    "test_statistics.py",
    "config/test_checks.py",
    "config/test_configuration.py",
    "config/test_datasets.py",
    "config/test_presets.py",
    "system/test_cli.py",
    "system/test_files.py",
    "system/test_folders.py",
    "ops/test_losses.py",
    "models/test_golden.py",
    "data/sets/test_folder.py",
    "data/sets/test_labelled_csv.py",
    "data/test_batches.py",
    "data/test_decode.py",
    "data/test_manifest.py",
    "data/test_masks.py",
    "data/test_pixel_cache.py",
    "runs/test_conditions.py",
    "runs/test_directory.py",
    "runs/test_log.py",
    "porting/test_pth.py",
    "porting/test_torch_pickle.py",
    "explain/test_page.py",
    "explain/measures/test_concentration.py",
    "studies/ablate/test_table.py",
)
# Rooms and files that type commands, beside those that are called so.
COMMANDS = ("faults", "runs", "studies", "system", "test_library.py", "training/test_train.py")
PROGRAMS = pytest.StashKey[Path]()
OPTIMISED = pytest.StashKey[frozenset[Path]]()


def pytest_configure(config: pytest.Config) -> None:
    # jaxtyping's hook takes its decorator from there when a module is imported.
    jaxtyping.jaxtyped = shapes.jaxtyped
    # Workers of pytest-xdist inherit the settings of the process that started them.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.stash[PROGRAMS] = share_compiled_programs()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    places = {tests / file: place for place, file in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))
    config.stash[OPTIMISED] = frozenset(
        item.path
        for item in items
        if item.get_closest_marker("numerical") or item.path.name.startswith("test_parity_")
    )
    quick = {tests / file for file in QUICK}
    for item in items:
        # -m on the command line replaces pyproject.toml's, so the long forms are left out here.
        if item.path in quick and not item.get_closest_marker("faults"):
            item.add_marker("quick")


def pytest_collection_finish() -> None:
    """Leaves what was imported alone when garbage is collected, and collects less often.

    Tracing makes many objects that stay: with Python's limits collecting takes a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_runtest_setup() -> None:
    shapes.begin_test()


def pytest_unconfigure(config: pytest.Config) -> None:
    if PROGRAMS in config.stash:
        shutil.rmtree(config.stash[PROGRAMS], ignore_errors=True)


def share_compiled_programs() -> Path:
    """Keeps what XLA compiles for all processes of this session: compiling takes most of its time.

    The folder is a new one, so that no session depends on an earlier one.
    """
    folder = tempfile.mkdtemp(prefix="flax_attn-programs-")
    settings = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    return Path(folder)


def types_commands(path: Path) -> bool:
    """Whether a file tests what commands do, not what is computed."""
    place = path.relative_to(Path(__file__).parent)
    return place.parts[0] in COMMANDS or str(place) in COMMANDS or path.match("*_command.py")


@pytest.fixture(autouse=True, scope="module")
def programs_of_a_file(request: pytest.FixtureRequest) -> Iterator[None]:
    """Drops the programs of a file after its last test: those of all files take gigabytes."""
    optimised = request.path in request.config.stash[OPTIMISED]
    compile_with(optimised=optimised, emitters=not types_commands(request.path))
    yield
    compile_with(optimised=True, emitters=True)
    jax.clear_caches()
    gc.collect()
    # Commands that ran in this process have told glibc to keep what is freed (system/memory.py).
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@pytest.fixture(autouse=True)
def speaking() -> None:
    """Prints what the package says, as every command does, whichever test came before.

    pytest's own handlers hear it, too.
    """
    speak()
    LOGGER.propagate = True


@pytest.fixture
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands without their pictures, which take longer than a few steps."""
    if not request.node.get_closest_marker("drawn"):
        monkeypatch.setattr("flax_attn.training.run_figure.draw_run", lambda *_: None)
        leave_pictures_of_runs_empty(monkeypatch)


@pytest.fixture
def tiny() -> Config:
    # Dense layers for those that make a VGG of it.
    return make_config(TINY).updated(hidden=16)


@pytest.fixture
def no_compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that there are no compiled convolutions for."""
    monkeypatch.setattr("flax_attn.ops.llvm.host_kernels", lambda: None)


@pytest.fixture
def wrong_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """For arrays that do not fit on purpose: what users get is our error, not jaxtyping's."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Reference:
    """A run of a small network that several files damage copies of; one for all workers."""
    flags = [*SMALL, *"--train-count 48 --epochs 2 --save-every 3".split()]
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "small"
    with FileLock(f"{folder}.lock"):
        kept = folder / "reference.pickle"
        if not kept.exists():
            folder.mkdir()
            kept.write_bytes(pickle.dumps(make_reference(folder, flags)))
        return pickle.loads(kept.read_bytes())
