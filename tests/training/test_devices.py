"""Batches shared by devices and by processes: the same training as on one device."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flax_attn.config import TrainConfig, make_config
from flax_attn.data import open_dataset
from flax_attn.data.batches import Sampler
from flax_attn.errors import UsageError
from flax_attn.models import build_model, functional
from flax_attn.models.functional import Arrays
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.log import read_rows
from flax_attn.system import cli
from flax_attn.system.meeting import AUTO, Meeting
from flax_attn.system.processes import ALONE, Processes
from flax_attn.system.signals import Stop
from flax_attn.training.devices import ONE, devices_for
from flax_attn.training.multihost import SharedStop, refuse_quarantine, shared_conditions
from flax_attn.training.start import Initial
from flax_attn.training.trainer import train
from tests.helpers import scaled_process
from tests.helpers.bounds import COARSE, assert_within, chain, fan_in, rounding
from tests.helpers.faulty_runs import copy_programs

ROOT = Path(__file__).parents[2]
GROUPS = ("train", "val")


@dataclass(frozen=True)
class Runs:
    """A run on one device, and others beside it that share its compiled programs."""

    folder: Path

    @property
    def one(self) -> Path:
        return self.folder / "one"

    def start(self, name: str, *flags: str, devices: int = 1) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
            f"--xla_force_host_platform_device_count={devices}",
        }
        command = [sys.executable, "-m", "tests.helpers.scaled_process"]
        with open(self.folder / f"{name}.err", "w") as err:
            return subprocess.Popen(
                [*command, "--workdir", str(self.folder / name), *flags],
                stdout=subprocess.DEVNULL,
                stderr=err,
                text=True,
                env=environment,
            )

    def pair(self, name: str, *flags: Sequence[str]) -> list[subprocess.Popen[str]]:
        """Two processes; ``flags`` are those of each."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        meeting = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id"]
        names = [name, f"{name}-other"]
        return [
            self.start(names[i], *meeting, str(i), *(flags[i] if flags else ())) for i in (0, 1)
        ]

    def error(self, name: str) -> str:
        text = (self.folder / f"{name}.err").read_text()
        return text[text.rfind("error: ") :].strip()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("scaled"))
    assert cli.run(scaled_process.main, ["--workdir", str(runs.one)]) == 0
    copy_programs(runs.folder / "cache")
    return runs


@pytest.fixture(scope="module")
def loss_bound(runs: Runs) -> np.ndarray:
    """What rounding may change in ``losses_of``.

    Measured by runs that begin with weights moved: the moves stay, and add up over the steps.
    """
    config, _ = scaled_process.parse(["--image-cache", str(runs.folder / "images")])
    dataset = open_dataset(config.data)
    (_, *arrays) = functional.split(build_model(config.model, num_classes=2))
    folders = (runs.folder / f"moved-{i}" for i in count())

    def losses(params: Arrays, stats: Arrays) -> np.ndarray:
        initial = Initial(lambda *_: jax.tree.map(np.float32, (params, stats)), {})
        folder = next(folders)
        train(config, dataset, initial, workdir=folder, draw=False)
        return losses_of(folder)

    _, bound = rounding(losses, *arrays, terms=fan_in, coarse=COARSE, draws=2)
    return 2 * bound  # both runs round


def losses_of(folder: Path) -> np.ndarray:
    """The losses of an epoch and its region term, [epochs, groups + 1]."""
    return np.array(
        [
            [*(row[group]["loss"] for group in GROUPS), row["train"]["region_pool4"]]
            for row in read_rows(folder)
        ]
    )


def wait(processes: Sequence[subprocess.Popen[str]]) -> list[int]:
    return [process.wait(timeout=240) for process in processes]


def assert_same_training(found: Path, wanted: Path, loss_bound: np.ndarray) -> None:
    assert_within(losses_of(found), losses_of(wanted), loss_bound)
    rows = list(zip(read_rows(found), read_rows(wanted), strict=True))
    assert [row["step"] for row, _ in rows] == [4, 8, 12]
    for row, other in rows:
        for group in GROUPS:
            got, expected = row[group], other[group]
            for name in {"accuracy", "precision", "recall", "count"} & expected.keys():
                assert got[name] == expected[name], name


def assert_same_features(found: Path, wanted: Path) -> None:
    with np.load(found) as got, np.load(wanted) as expected:
        assert set(got) == set(expected) == {"pool4", "pool5"}
        for name in expected:
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(got[name], expected[name], atol=chain(5, 72) * scale)


def test_eight_devices_train_as_one(runs: Runs, loss_bound: np.ndarray) -> None:
    assert wait([runs.start("eight", devices=8)]) == [0], runs.error("eight")
    assert_same_training(runs.folder / "eight", runs.one, loss_bound)
    assert_same_features(runs.folder / "eight-0.npz", runs.folder / "one-0.npz")


def test_two_processes_train_as_one(runs: Runs, loss_bound: np.ndarray) -> None:
    two = runs.folder / "two"
    assert wait(runs.pair("two")) == [0, 0], runs.error("two")
    assert_same_training(two, runs.one, loss_bound)
    assert Checkpoints(two, read_only=True).latest == 12
    assert not (runs.folder / "two-other").exists()  # the one that writes nothing
    for name in ("two-0.npz", "two-other-1.npz"):
        assert_same_features(runs.folder / name, runs.folder / "one-0.npz")


@pytest.mark.faults
def test_two_processes_stop_together_and_go_on(runs: Runs, loss_bound: np.ndarray) -> None:
    """A signal to the one that writes nothing stops both, after the same step."""
    stopped = runs.folder / "stopped"
    pair = runs.pair("stopped")
    try:
        while not read_rows(stopped) and all(process.poll() is None for process in pair):
            time.sleep(0.02)
        pair[1].send_signal(signal.SIGTERM)
        assert wait(pair) == [143, 143], runs.error("stopped")
    finally:
        for process in pair:
            process.kill()
    assert len(read_rows(stopped)) < 3
    assert "is saved" in runs.error("stopped-other")
    assert wait(runs.pair("stopped")) == [0, 0], runs.error("stopped")
    assert_same_training(stopped, runs.one, loss_bound)


@pytest.mark.faults
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_other(runs: Runs, lost: int) -> None:
    """Killed: the other ends by itself; JAX aborts it when the first is gone."""
    name = f"lost-{lost}"
    pair = runs.pair(name)
    try:
        while not read_rows(runs.folder / name) and all(p.poll() is None for p in pair):
            time.sleep(0.02)
        pair[lost].kill()
        expected = [-signal.SIGKILL, -signal.SIGABRT] if lost == 0 else [9, -signal.SIGKILL]
        assert wait(pair) == expected
    finally:
        for process in pair:
            process.kill()
    assert Checkpoints(runs.folder / name, read_only=True).load_latest().info.step >= 4


def test_a_process_that_fails_ends_the_others(runs: Runs) -> None:
    assert wait(runs.pair("odd", (), ("--seed", "1"))) == [2, 2]
    for name in ("odd", "odd-other"):
        assert "process 1 differs from process 0 (seed is 1, there 0)" in runs.error(name)


def devices_of(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", lambda: [*jax.local_devices()] * count)
    monkeypatch.setattr(jax, "local_device_count", lambda: count)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"batch_size": 12}, "8 devices"),
        ({"batch_size": 8, "accumulate": 2}, "multiple of 16"),
        ({"batch_size": 9, "devices": 9}, "there are 8"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    settings: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices_of(8, monkeypatch)
    with pytest.raises(UsageError, match=named):
        devices_for(TrainConfig(**settings))


def test_one_device_has_no_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices_for(TrainConfig(batch_size=7)) is ONE
    devices_of(8, monkeypatch)
    assert devices_for(TrainConfig(batch_size=7, devices=1)) is ONE
    batch = np.arange(4)
    assert ONE.share(batch) is batch and ONE.whole(batch) is batch and ONE.part == (0, 1)


def test_parts_of_batches_make_up_the_batches() -> None:
    samplers = [
        Sampler(6, seed=3, shuffle=True, part=part) for part in ((0, 1), (0, 3), (1, 3), (2, 3))
    ]
    whole, *parts = [sampler.batches(20, 2, start=1) for sampler in samplers]
    for batch, *pieces in zip(whole, *parts, strict=True):
        for array, *own in zip(batch, *pieces, strict=True):
            np.testing.assert_array_equal(np.concatenate(own), array)


def test_a_signal_is_known_when_all_agree() -> None:
    class Pair(Processes):
        def gather(self, numbers: np.ndarray) -> np.ndarray:
            return np.stack([numbers, np.array([theirs.signal or 0, 5])])

    mine, theirs = Stop(), Stop()
    for here in (mine, theirs):
        mine.signal = theirs.signal = None
        stop = SharedStop(mine, Pair(count=2))
        assert stop.agree(3) == 8 and not stop.requested
        here.signal = signal.SIGTERM
        assert not stop.requested  # not all know yet
        stop.agree(3)
        assert stop.signal == signal.SIGTERM


def test_alone_nothing_is_asked() -> None:
    tree = {"a": np.arange(3)}
    assert ALONE.from_first(tree) is tree
    assert ALONE.first_says("name", "text") == "text"
    assert ALONE.gather(np.array([4])).tolist() == [[4]]


def test_settings_of_a_process_are_its_own() -> None:
    one, other = (
        shared_conditions(make_config({"workers": n, "workdir": str(n)}), ("a",), "images")
        for n in (1, 2)
    )
    assert one == other
    assert one != shared_conditions(make_config({"epochs": 3}), ("a",), "images")


def test_several_processes_keep_no_quarantine() -> None:
    config = make_config({"on_bad_image": "quarantine"})
    refuse_quarantine(config, ALONE)
    with pytest.raises(UsageError, match="--on-bad-image fail"):
        refuse_quarantine(config, Processes(2, 0))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--coordinator a:1", "--num-processes"),
        ("--coordinator a --num-processes 2 --process-id 0", "host:port"),
        ("--coordinator a:99999 --num-processes 2 --process-id 0", "host:port"),
        ("--coordinator a:1 --num-processes 1 --process-id 0", "--num-processes"),
        ("--coordinator a:1 --num-processes 2 --process-id 2", "--process-id"),
        ("--coordinator auto --num-processes 2", "drop --num-processes"),
        ("--coordinator auto --process-id 0", "drop --num-processes"),
    ],
)
def test_meetings_that_make_no_sense(flags: str, named: str) -> None:
    parse: Callable[[Sequence[str]], Any] = parsed_meeting
    with pytest.raises(UsageError, match=named):
        parse(flags.split())


def parsed_meeting(argv: Sequence[str]) -> Meeting | None:
    parser = cli.Parser()
    cli.add_meeting(parser)
    return cli.take_meeting(vars(parser.parse_args(argv)))


def test_meetings() -> None:
    assert parsed_meeting([]) is None
    flags = "--coordinator h:80 --num-processes 4 --process-id 3".split()
    assert parsed_meeting(flags) == Meeting("h:80", 4, 3)
    assert parsed_meeting(["--coordinator", "auto"]) == Meeting(AUTO)
