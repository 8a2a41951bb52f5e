"""Resuming inside an epoch, the negative controls, and what stops a run."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from flax_attn.config import Config, make_config
from flax_attn.data import Sampler, num_batches, open_dataset
from flax_attn.data.region_masks import read_region_masks
from flax_attn.errors import NonFiniteError
from flax_attn.models import build_model, functional
from flax_attn.models.tasks import TASKS
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.directory import Run
from flax_attn.runs.log import Row, RunLog, read_rows
from flax_attn.runs.resume import Earlier
from flax_attn.runs.state import Progress, TrainState
from flax_attn.system.signals import StoppedError, stop_on_signals
from flax_attn.training import loop
from flax_attn.training.loop import fit
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.region_term import zero_sums
from flax_attn.training.sources import ImageExamples
from flax_attn.training.step import init_state, make_eval_step, make_train_step
from tests.helpers.networks import TINY

CLASSES = ("cat", "dog")
EPOCHS, BATCHES = 2, 3
STEPS = EPOCHS * BATCHES


@dataclass
class Bench:
    """A network compiled once, and the pieces that a run is made of."""

    config: Config
    train_step: Callable[..., Any]
    eval_step: Callable[..., Any]
    new_state: Callable[[], TrainState]
    train: ImageExamples
    val: ImageExamples

    @property
    def as_run(self) -> Run:
        return Run(self.config, CLASSES, "fingerprint", {})

    def run(
        self, workdir: Path, *, change: Callable[..., Any] = lambda *resume: resume, **options: Any
    ) -> None:
        """Starts or resumes a run; ``change`` alters what is resumed."""
        checkpoints = Checkpoints(workdir, keep=options.pop("keep", 2))
        zero = zero_sums(TASKS["multiclass"].sums.zero(2), self.config.train)
        state, progress = self.new_state(), Progress.start(1, BATCHES, zero)
        rows: list[Row] = []
        if checkpoints.latest is not None:
            earlier = Earlier(checkpoints.load_latest(), self.as_run, frozenset())
            state, progress, rows = change(*earlier.resume(state, progress))
        steps = (
            options.pop("train_step", self.train_step),
            options.pop("eval_step", self.eval_step),
        )
        config = self.config.updated(**{"save_every": 1, **options})
        with stop_on_signals(within=60) as stop, RunLog(workdir, rows) as log:
            fit(
                state,
                progress,
                steps=steps,
                examples=(self.train, self.val),
                config=config,
                classes=CLASSES,
                checkpoints=checkpoints,
                log=log,
                stop=stop,
            )


@pytest.fixture(scope="module")
def bench() -> Bench:
    """With all that is random or has a memory: augmentation, dropout, a schedule, momenta.

    Masks teach one of the maps, so that their sums are in the checkpoints, too.
    """
    config = make_config(
        {
            **TINY,
            "model": "attn_vgg",
            "dropout": 0.3,
            "flip": True,
            "crop_min_area": 0.5,
            "schedule": "cosine",
            "warmup_epochs": 1.0,
            "learning_rate": 0.05,
            "backbone_learning_rate": 0.01,
            "epochs": EPOCHS,
            "roi_weights": ("pool4=0.1",),
            "colour_jitter": 0.4,
            "random_erasing": 0.5,
            "clip_norm": 1.0,
            "ema": 0.5,
        }
    )
    dataset = open_dataset(config.data)
    structure, params, stats = functional.split(build_model(config.model, num_classes=2))
    tx = make_optimizer(config.train, steps_per_epoch=BATCHES)

    def new_state() -> TrainState:
        copies = jax.tree.map(jnp.copy, (params, stats))  # a step destroys what it is given
        return init_state(*copies, tx, config.train)

    train, val = (ImageExamples(dataset.splits[n], Sampler(4), 1) for n in ("train", "val"))
    train = replace(train, regions=read_region_masks(train.split))
    assert num_batches(len(train.labels), 4) == BATCHES
    train_step = make_train_step(structure, tx, config.train)
    return Bench(config, train_step, make_eval_step(structure), new_state, train, val)


@pytest.fixture(scope="module")
def whole(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption that has kept every step."""
    workdir = tmp_path_factory.mktemp("whole")
    bench.run(workdir, keep=100)
    return workdir


def digests(workdir: Path) -> dict[str, str]:
    """The SHA-256 of every leaf of the newest checkpoint, as its manifest has it."""
    info = Checkpoints(workdir, read_only=True).load_latest().info
    return {leaf.name: leaf.sha256 for record in info.files.values() for leaf in record.leaves}


def numbers(rows: Sequence[Row]) -> list[Any]:
    """Rows without what the clock decides."""
    timed = ("seconds", "images_per_second")
    return [
        {g: {k: v for k, v in row[g].items() if k not in timed} for g in ("train", "val")}
        | {"epoch": row["epoch"], "step": row["step"]}
        for row in rows
    ]


def cut_after(whole: Path, step: int, workdir: Path, *, judged: bool = True) -> None:
    """A run directory as it was when ``step`` had just been committed."""
    source = whole / "checkpoints" / str(step)
    shutil.copytree(source, workdir / "checkpoints" / str(step))
    if not judged:
        (workdir / "checkpoints" / str(step) / "judged.json").unlink(missing_ok=True)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_resuming_anywhere_equals_no_interruption(
    bench: Bench, whole: Path, tmp_path: Path, step: int
) -> None:
    """Byte for byte: parameters, statistics, optimizer state, step, metrics and the best."""
    cut_after(whole, step, tmp_path)
    bench.run(tmp_path)
    assert digests(tmp_path) == digests(whole)
    assert numbers(read_rows(tmp_path)) == numbers(read_rows(whole))


@pytest.mark.parametrize("step", [BATCHES, STEPS])
def test_a_missed_evaluation_runs_on_resume(
    bench: Bench, whole: Path, tmp_path: Path, step: int
) -> None:
    cut_after(whole, step, tmp_path, judged=False)
    bench.run(tmp_path)
    assert digests(tmp_path) == digests(whole)
    assert numbers(read_rows(tmp_path)) == numbers(read_rows(whole))
    assert Checkpoints(tmp_path).rows == read_rows(tmp_path)


def without_optimizer_state(state: TrainState, progress: Progress, rows: list[Row]) -> Any:
    def reset(leaf: jax.Array) -> jax.Array:  # moments alone: counts have no dimensions
        return jnp.zeros_like(leaf) if leaf.ndim else leaf

    return state._replace(opt_state=jax.tree.map(reset, state.opt_state)), progress, rows


def without_schedule(state: TrainState, progress: Progress, rows: list[Row]) -> Any:
    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def reset(node: Any) -> Any:
        return optax.ScaleByScheduleState(jnp.zeros_like(node.count)) if is_schedule(node) else node

    opt_state = jax.tree.map(reset, state.opt_state, is_leaf=is_schedule)
    return state._replace(opt_state=opt_state), progress, rows


def without_statistics(state: TrainState, progress: Progress, rows: list[Row]) -> Any:
    return state._replace(stats=jax.tree.map(jnp.ones_like, state.stats)), progress, rows


def without_averages(state: TrainState, progress: Progress, rows: list[Row]) -> Any:
    assert state.average is not None
    fresh = {path: {**state.params, **state.stats}[path] for path in state.average}
    return state._replace(average=jax.tree.map(jnp.copy, fresh)), progress, rows


def without_step(state: TrainState, progress: Progress, rows: list[Row]) -> Any:
    return state._replace(step=jnp.zeros_like(state.step)), progress, rows


def without_position(state: TrainState, progress: Progress, rows: list[Row]) -> Any:
    return state, progress._replace(batch=0), rows


@pytest.mark.parametrize(
    "change",
    [
        without_optimizer_state,
        without_schedule,
        without_statistics,
        without_step,
        without_averages,
        without_position,
    ],
)
def test_leaving_anything_out_would_be_noticed(
    bench: Bench, whole: Path, tmp_path: Path, change: Callable[..., Any]
) -> None:
    """What the tests above compare differs, not only in the number of the step."""
    cut_after(whole, 2, tmp_path)
    bench.run(tmp_path, change=change)
    expected = digests(whole)
    differing = {name for name, digest in digests(tmp_path).items() if digest != expected[name]}
    assert differing - {"state/step"}


def test_a_run_out_of_patience_stays_ended(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where it is killed between the save and the evaluation that ends it."""
    aucs = [0.6, 0.5, 0.5, 0.7]
    judge = loop.evaluate_examples

    def judged(*args: Any, **options: Any) -> Any:
        found = judge(*args, **options)
        epoch = len(Checkpoints(tmp_path).rows)
        return found._replace(metrics={**found.metrics, "roc_auc": aucs[epoch]})

    monkeypatch.setattr(loop, "evaluate_examples", judged)
    bench.run(tmp_path, epochs=4, patience=1, save_every=None)
    ended = digests(tmp_path)
    assert [row["epoch"] for row in read_rows(tmp_path)] == [1, 2]
    (tmp_path / "checkpoints" / str(2 * BATCHES) / "judged.json").unlink()
    for _ in range(2):
        caplog.clear()
        bench.run(tmp_path, epochs=4, patience=1, save_every=None)
        assert digests(tmp_path) == ended and len(read_rows(tmp_path)) == 2
        assert "stopped after epoch 2: no epoch since 1 had a better ROC AUC than" in caplog.text
    bench.run(tmp_path, epochs=4, save_every=None)
    assert len(read_rows(tmp_path)) == 4


def test_leaving_the_sums_out_would_be_noticed(bench: Bench, whole: Path, tmp_path: Path) -> None:
    def without_sums(state: TrainState, progress: Progress, rows: list[Row]) -> Any:
        return state, progress._replace(sums=jax.tree.map(jnp.zeros_like, progress.sums)), rows

    cut_after(whole, 2, tmp_path)
    bench.run(tmp_path, change=without_sums)
    assert digests(tmp_path) == digests(whole)  # they are zero again after the epoch
    assert numbers(read_rows(tmp_path))[0] != numbers(read_rows(whole))[0]


@pytest.mark.parametrize(("save_every", "saved"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 3, 5, 6])])
def test_checkpoints_inside_an_epoch(
    bench: Bench, tmp_path: Path, save_every: int, saved: list[int]
) -> None:
    bench.run(tmp_path, save_every=save_every, keep=100)
    assert Checkpoints(tmp_path).steps == saved


def spoiled(part: str, suffix: str) -> Callable[..., Any]:
    """Makes the last array under a name of a part of the state infinite in one place."""

    def change(state: TrainState, progress: Progress, rows: list[Row]) -> Any:
        leaves, structure = jax.tree_util.tree_flatten_with_path(getattr(state, part))
        place = max(i for i, (path, _) in enumerate(leaves) if suffix in jax.tree_util.keystr(path))
        arrays = [leaf for _, leaf in leaves]
        arrays[place] = arrays[place].at[(0,) * arrays[place].ndim].set(jnp.inf)
        return state._replace(**{part: jax.tree.unflatten(structure, arrays)}), progress, rows

    return change


@pytest.mark.parametrize("save_every", [1, None])
@pytest.mark.parametrize(
    ("part", "suffix", "cause"),
    [
        ("params", "classifier/kernel", "the loss is"),
        ("stats", "norm/mean", "a running statistic of a batch normalisation is"),
    ],
)
def test_numbers_that_are_not_finite(
    bench: Bench,
    whole: Path,
    tmp_path: Path,
    part: str,
    suffix: str,
    cause: str,
    save_every: int | None,
) -> None:
    """The step and its images are named, and the bad state is not saved."""
    cut_after(whole, 4, tmp_path)
    before = digests(tmp_path)
    with pytest.raises(NonFiniteError) as caught:
        bench.run(tmp_path, change=spoiled(part, suffix), save_every=save_every)
    assert str(caught.value).startswith(f"{cause} not finite in step 5, batch 2 of epoch 2, on '")
    index, _ = Sampler(4, shuffle=True).batches(10, 2)[1]
    names = ", ".join(repr(bench.train.split.names[i]) for i in index)
    assert f"on {names}: lower" in str(caught.value)
    assert Checkpoints(tmp_path).steps == [4]
    assert digests(tmp_path) == before


def test_a_gradient_that_is_not_finite(bench: Bench, whole: Path, tmp_path: Path) -> None:
    """As the step tells it (see tests/test_step.py)."""

    def overflowing(state: TrainState, examples: Any) -> Any:
        output = bench.train_step(state, examples)
        gradient = output.finite.at[1].set(output.state.step != 6)
        return output._replace(finite=gradient)

    cut_after(whole, 4, tmp_path)
    with pytest.raises(NonFiniteError, match="^the gradient is not finite in step 6, batch 3 of"):
        bench.run(tmp_path, train_step=overflowing, save_every=None)


@pytest.mark.parametrize("suffix", [".mu", ".nu"])
def test_an_optimizer_state_that_is_not_finite(
    bench: Bench, whole: Path, tmp_path: Path, suffix: str
) -> None:
    """Of an overflown second moment nothing else shows: its parameter stands still."""
    cut_after(whole, 4, tmp_path)
    with pytest.raises(NonFiniteError, match="optimizer's state is not finite after step 5"):
        bench.run(tmp_path, change=spoiled("opt_state", suffix))
    assert Checkpoints(tmp_path).steps == [4]


def after_calls(count: int, function: Callable[..., Any], event: Callable[[], None]) -> Any:
    """``function``, with ``event`` happening during its n-th call."""
    calls = iter(range(1, 1000))

    def called(*args: Any) -> Any:
        if next(calls) == count:
            event()
        return function(*args)

    return called


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_end_of_the_step(
    bench: Bench, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    step = after_calls(2, bench.train_step, lambda: os.kill(os.getpid(), number))
    with pytest.raises(StoppedError, match="checkpoint 2 is saved") as caught:
        bench.run(tmp_path, train_step=step, save_every=None)
    assert caught.value.exit_code == 128 + number
    assert Checkpoints(tmp_path).steps == [2]
    bench.run(tmp_path)
    assert digests(tmp_path) == digests(whole)
    assert numbers(read_rows(tmp_path)) == numbers(read_rows(whole))


def run_out_of_memory() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGTERM), StoppedError),
        (run_out_of_memory, MemoryError),
    ],
)
def test_what_is_evaluated_has_been_saved(
    bench: Bench,
    whole: Path,
    tmp_path: Path,
    event: Callable[[], None],
    error: type[BaseException],
) -> None:
    with pytest.raises(error):
        bench.run(tmp_path, eval_step=after_calls(1, bench.eval_step, event), save_every=None)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps == [BATCHES] and checkpoints.best is None
    bench.run(tmp_path)
    assert digests(tmp_path) == digests(whole)
    assert numbers(read_rows(tmp_path)) == numbers(read_rows(whole))


def test_an_epoch_in_another_order_starts_again(bench: Bench, whole: Path, tmp_path: Path) -> None:
    zero = zero_sums(TASKS["multiclass"].sums.zero(2), bench.config.train)
    places = {}
    for step, condition in ((2, "learning_rate"), (2, "batch_size"), (3, "batch_size")):
        folder = tmp_path / f"{step}-{condition}"
        cut_after(whole, step, folder, judged=False)
        loaded = Checkpoints(folder).load_latest()
        earlier = Earlier(loaded, bench.as_run, frozenset({condition}))
        _, progress, _ = earlier.resume(bench.new_state(), Progress.start(1, 7, zero))
        places[step, condition] = (progress.epoch, progress.batch, progress.batches)
    assert places == {
        (2, "learning_rate"): (1, 2, 3),
        (2, "batch_size"): (1, 0, 7),
        (3, "batch_size"): (1, 3, 3),
    }


def test_an_epoch_counts_the_time_that_its_last_steps_take(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step returns before the device has finished it: whoever reads a result waits."""
    clock = [0.0]

    def late(value: Any) -> int:
        clock[0] += isinstance(value, jax.Array)
        return int(value)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(loop, "int", late, raising=False)
    bench.run(tmp_path, save_every=None, epochs=1)
    (row,) = read_rows(tmp_path)
    assert row["train"]["images_per_second"] == len(bench.train.labels)
