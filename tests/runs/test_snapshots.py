"""Light snapshots: what training changes, kept after chosen epochs."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from flax_attn.config import Config, validate
from flax_attn.errors import CheckpointError, UsageError
from flax_attn.models import abstract_model, build_model, functional
from flax_attn.models.functional import Arrays
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.directory import Run
from flax_attn.runs.snapshots import load_snapshot, save_snapshot, snapshot_epochs, snapshot_path
from flax_attn.system import cli
from flax_attn.training import train_command

SMALL = (
    "--widths 4 4 8 8 8 --depths 1 1 1 1 1 --attn-features 8 --image-size 32 --train-count 8 "
    "--val-count 6 --batch-size 4 --weights none --no-freeze-backbone"
).split()


@pytest.fixture
def arrays(tiny: Config) -> tuple[Arrays, Arrays]:
    _, params, stats = functional.split(build_model(tiny.model, num_classes=2))
    return params, stats


def moved(arrays: Arrays) -> Arrays:
    return {name: a + 1 for name, a in arrays.items()}


def assert_equal(one: Arrays, two: Arrays) -> None:
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(two[name]), err_msg=name)


def test_whole_network_comes_back(tmp_path: Path, arrays: tuple[Arrays, Arrays]) -> None:
    params, stats = arrays
    save_snapshot(tmp_path, 3, moved(params), moved(stats), freeze_backbone=False)
    got = load_snapshot(tmp_path, 3, params, stats, freeze_backbone=False)
    assert_equal(got[0], moved(params))
    assert_equal(got[1], moved(stats))
    assert snapshot_epochs(tmp_path) == [3]


def test_frozen_backbone_is_in_no_snapshot(tmp_path: Path, arrays: tuple[Arrays, Arrays]) -> None:
    params, stats = arrays
    save_snapshot(tmp_path, 1, moved(params), moved(stats), freeze_backbone=True)
    got_params, got_stats = load_snapshot(tmp_path, 1, params, stats, freeze_backbone=True)
    assert_equal(got_stats, stats)
    for name in params:
        want = params[name] if name.startswith("backbone/") else params[name] + 1
        np.testing.assert_array_equal(np.asarray(got_params[name]), np.asarray(want))
    whole = sum(a.nbytes for a in (*params.values(), *stats.values()))
    assert snapshot_path(tmp_path, 1).stat().st_size < whole


@pytest.mark.parametrize("place", [0.5, 0.999])
def test_a_flipped_bit_is_found(
    tmp_path: Path, arrays: tuple[Arrays, Arrays], place: float
) -> None:
    save_snapshot(tmp_path, 1, *arrays, freeze_backbone=False)
    path = snapshot_path(tmp_path, 1)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_snapshot(tmp_path, 1, *arrays, freeze_backbone=False)


def test_another_network_is_refused(
    tmp_path: Path, arrays: tuple[Arrays, Arrays], tiny: Config
) -> None:
    save_snapshot(tmp_path, 1, *arrays, freeze_backbone=False)
    wider = tiny.updated(attn_features=16).model
    _, params, stats = functional.split(build_model(wider, num_classes=2))
    with pytest.raises(CheckpointError, match="another network.*gates/"):
        load_snapshot(tmp_path, 1, params, stats, freeze_backbone=False)
    with pytest.raises(CheckpointError, match="another network"):
        load_snapshot(tmp_path, 1, *arrays, freeze_backbone=True)


def test_a_missing_epoch_names_those_there_are(
    tmp_path: Path, arrays: tuple[Arrays, Arrays]
) -> None:
    for epoch in (10, 2):
        save_snapshot(tmp_path, epoch, *arrays, freeze_backbone=False)
    with pytest.raises(CheckpointError, match=r"epoch 5 .*there are: 2, 10.*--snapshot-epochs 5"):
        load_snapshot(tmp_path, 5, *arrays, freeze_backbone=False)


def test_nothing_half_written_stays(
    tmp_path: Path, arrays: tuple[Arrays, Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(CheckpointError, match="snapshot of epoch 1"):
        save_snapshot(tmp_path, 1, *arrays, freeze_backbone=False)
    assert not list((tmp_path / "snapshots").iterdir())


def test_epochs_count_from_one(tiny: Config) -> None:
    with pytest.raises(UsageError, match="--snapshot-epochs count from 1, got 0"):
        validate(tiny.updated(snapshot_epochs=(0, 2)))


def test_training_keeps_the_state_of_each_epoch_and_draws_them(tmp_path: Path) -> None:
    flags = ["--epochs", "3", "--snapshot-epochs", "1", "3", "--keep-checkpoints", "3"]
    assert cli.run(train_command.main, [*SMALL, *flags, "--workdir", str(tmp_path)]) == 0
    assert snapshot_epochs(tmp_path) == [1, 3]
    _, params, stats = abstract_model(Run.load(tmp_path).config.model, num_classes=2)
    kept = Checkpoints(tmp_path)
    assert kept.steps == [2, 4, 6]
    at_epoch = {}
    for epoch in (3, 1):  # the newest first, as the newest that is there is loaded
        params, stats = at_epoch[epoch] = kept.load_latest().model(params, stats)
        for step in kept.steps[epoch - 2 :]:
            shutil.rmtree(kept.folder / str(step))
    for epoch in (1, 3):
        found = load_snapshot(tmp_path, epoch, *at_epoch[4 - epoch], freeze_backbone=False)
        for got, want in zip(found, at_epoch[epoch], strict=True):
            assert_equal(got, want)
    first, last = (jax.tree.leaves(at_epoch[epoch]) for epoch in (1, 3))
    assert any(not np.array_equal(a, b) for a, b in zip(first, last, strict=True))
    with Image.open(tmp_path / "epochs.png") as picture:
        assert picture.width > 600
    with Image.open(tmp_path / "epochs.webp") as animation:
        assert animation.n_frames == 2
