"""Features are computed once, and examples made of them are right."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.config import TrainConfig
from flax_attn.data.batches import Sampler
from flax_attn.data.epoch_order import BlockOrder
from flax_attn.errors import DataError, DiskFullError, UsageError
from flax_attn.models.backbone import Features
from flax_attn.system.output import MARK
from flax_attn.training import feature_examples
from flax_attn.training.feature_format import pack, to_arrays
from flax_attn.training.feature_reading import read_rows, take
from flax_attn.training.features import (
    AS_COMPUTED,
    FeatureStorage,
    FrozenFeatures,
    cache_key,
    frozen_features,
)
from flax_attn.training.sources import (
    FeatureExamples,
    batch_names,
    sampler_of_training,
    steps_per_epoch,
)

N = 6
TAPS = ("pool4", "pool5")


class Drawn:
    names = [f"{i}" for i in range(N)]
    labels = np.arange(N, dtype=np.int32) % 2
    fingerprint = "drawn"

    def image(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)


class Step:
    """Counts the batches whose features are computed."""

    calls = 0

    def __call__(self, image: np.ndarray) -> Features:
        self.calls += 1
        wide = image.astype(np.float32) / 3
        return Features(pool4=wide[:, ::2, ::2], pool5=wide[:, ::4, ::4])


def features(
    folder: Path, step: Step, storage: FeatureStorage = AS_COMPUTED, key: str = "key"
) -> FrozenFeatures:
    return frozen_features(
        Drawn(),
        step,
        key=key,
        taps=TAPS,
        folder=folder,
        batch_size=4,
        workers=1,
        progress=lambda items, total: items,
        storage=storage,
    )


def assert_right(found: FrozenFeatures) -> None:
    whole = Step()(np.stack([Drawn().image(i) for i in range(N)]))
    assert sorted(found.maps) == sorted(TAPS) and found.present.all()
    for name, maps in found.maps.items():
        np.testing.assert_array_equal(maps, getattr(whole, name))


def test_features_are_computed_once(tmp_path: Path) -> None:
    step = Step()
    for _ in range(3):
        assert_right(features(tmp_path, step))
    assert step.calls == 2
    assert sorted(os.listdir(tmp_path)) == [MARK, "key"]
    assert sorted(os.listdir(tmp_path / "key")) == ["pool4.npy", "pool5.npy"]


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda folder: cut(folder / "pool5.npy"),
    "empty": lambda folder: os.truncate(folder / "pool5.npy", 0),
    "header": lambda folder: (folder / "pool4.npy").write_bytes(b"x" * 1000),
    "one gone": lambda folder: (folder / "pool4.npy").unlink(),
    "of others": lambda folder: np.save(folder / "pool4.npy", np.zeros((N - 1, 4), np.float32)),
    "half": lambda folder: np.save(folder / "pool4.npy", np.zeros((N, 4), np.float16)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_features_are_computed_anew(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    features(tmp_path, Step())
    DAMAGE[damage](tmp_path / "key")
    for calls in (2, 0):
        step = Step()
        assert_right(features(tmp_path, step))
        assert step.calls == calls
    (record,) = caplog.records
    assert "damaged" in record.getMessage() and "\n" not in record.getMessage()


def test_no_space_is_found_out_before_the_second_batch(tmp_path: Path) -> None:
    step = Step()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(DiskFullError, match="--feature-cache"):
            features(tmp_path, step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert step.calls == 1 and os.listdir(tmp_path) == [MARK]


def test_space_is_taken_before_it_is_written_to(tmp_path: Path) -> None:
    """A write to a mapped file that finds no space ends the process."""
    taken: list[int] = []

    class Looking(Step):
        def __call__(self, image: np.ndarray) -> Features:
            if self.calls:
                taken.extend(p.stat().st_blocks * 512 for p in tmp_path.glob("*/pool4.npy"))
            small = super().__call__(image)
            return Features(**{**small, "pool4": np.zeros((len(image), 100, 100, 3), np.float32)})

    features(tmp_path, Looking())
    assert taken and min(taken) >= N * 100 * 100 * 3 * 4


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write features .*choose another"):
        features(tmp_path / "file" / "features", Step())


def test_an_interrupted_computation_leaves_nothing(tmp_path: Path) -> None:
    class Failing(Step):
        def __call__(self, image: np.ndarray) -> Features:
            if self.calls:
                raise KeyboardInterrupt
            return super().__call__(image)

    with pytest.raises(KeyboardInterrupt):
        features(tmp_path, Failing())
    assert os.listdir(tmp_path) == [MARK]


KEPT = [
    FeatureStorage("f32", True),
    FeatureStorage("f16"),
    FeatureStorage("f16", True),
    FeatureStorage("u8", True),
]


@pytest.mark.parametrize("storage", KEPT, ids=str)
def test_features_are_kept_in_their_format_and_order(
    storage: FeatureStorage, tmp_path: Path
) -> None:
    step = Step()
    whole = Step()(np.stack([Drawn().image(i) for i in range(N)]))
    packed = to_arrays(
        pack(Features(**{n: jnp.asarray(x) for n, x in whole.items()}), storage.dtype)
    )
    for _ in range(2):
        found = features(tmp_path, step, storage)
        assert found.maps.keys() == packed.keys() and found.present.all()
        for name, array in packed.items():
            np.testing.assert_array_equal(found.maps[name][found.rows], array)
    assert step.calls == 2
    assert np.array_equal(found.rows, np.arange(N)) != storage.at_random
    assert sorted(found.rows.tolist()) == list(range(N))


@pytest.mark.parametrize("storage", KEPT, ids=str)
def test_features_of_another_format_or_order_are_others(storage: FeatureStorage) -> None:
    params = {"backbone/kernel": np.ones(3, np.float32)}
    keys = {cache_key(Drawn(), params, {}, TAPS, storage=each) for each in (*KEPT, AS_COMPUTED)}
    assert len(keys) == len(KEPT) + 1
    assert cache_key(Drawn(), params, {}, TAPS, storage=AS_COMPUTED) == cache_key(
        Drawn(), params, {}, TAPS
    )


def test_a_lost_image_is_missed_in_its_row(tmp_path: Path) -> None:
    class Losing(Drawn):
        def read(self, index: int) -> tuple[np.ndarray, int]:
            return (self.image(4), 4) if index == 3 else (self.image(index), index)

    found = frozen_features(
        Losing(),
        Step(),
        key="key",
        taps=TAPS,
        folder=tmp_path,
        batch_size=4,
        workers=1,
        progress=lambda items, total: items,
        storage=FeatureStorage("f16", True),
    )
    assert np.flatnonzero(~found.present[found.rows]).tolist() == [3]
    # The files are gone, and the maps are read all the same.
    assert os.listdir(tmp_path) == [MARK]
    rows = np.sort(found.rows[[0, 1]])
    np.testing.assert_array_equal(read_rows(found.maps["pool4"], rows), found.maps["pool4"][rows])


# Examples


def source(n: int = 11, batch_size: int = 4) -> FeatureExamples:
    rng = np.random.default_rng(0)
    maps = {
        "pool3": rng.random((n, 4, 4, 3), np.float32),
        "pool5": rng.random((n, 1, 1, 5), np.float32),
    }
    labels, present = np.arange(n) % 3, np.arange(n) != 2
    return FeatureExamples(maps, labels, Sampler(batch_size), present, [f"{i}" for i in range(n)])


@pytest.mark.parametrize("start", [0, 1, 3])
def test_examples_are_what_their_places_say(start: int) -> None:
    examples = source()
    expected = Sampler(4, seed=5, shuffle=True).batches(11, 2, start=start)
    # All are kept before any is looked at: none may share its memory with another.
    found = list(examples.epoch(2, seed=5, shuffle=True, start=start))
    assert len(found) == len(expected)
    for batch, (index, mask) in zip(found, expected, strict=True):
        assert batch.inputs.keys() == examples.maps.keys()
        for name, maps in examples.maps.items():
            np.testing.assert_array_equal(getattr(batch.inputs, name), maps[index])
        np.testing.assert_array_equal(batch.label, examples.labels[index])
        assert batch.label.dtype == np.int32
        np.testing.assert_array_equal(batch.mask, mask & (index != 2))


@pytest.mark.parametrize("start", [0, 1, 5])
def test_repeats_are_of_the_epoch_that_all_count(start: int) -> None:
    """Labels 0 and 1 have four examples, 2 has three, of which one has no maps."""
    config = TrainConfig(batch_size=4, oversample="balanced", seed=5)
    sampler = sampler_of_training(config, source().labels)
    examples = replace(source(), sampler=sampler)
    assert sampler.num_batches(11) == steps_per_epoch(examples) == 3
    config = replace(config, oversample="3")
    sampler = sampler_of_training(config, source().labels)
    examples = replace(source(), sampler=sampler)
    assert sampler.num_batches(11) == steps_per_epoch(examples) == 5  # of 4 + 4 + 3 x 3
    found = list(examples.epoch(2, seed=5, shuffle=True, start=start))
    expected = sampler.batches(11, 2, start=start)
    assert len(found) == len(expected) == 5 - start
    for number, (batch, (index, mask)) in enumerate(zip(found, expected, strict=True), start + 1):
        np.testing.assert_array_equal(batch.inputs.pool3, examples.maps["pool3"][index])
        np.testing.assert_array_equal(batch.label, examples.labels[index])
        np.testing.assert_array_equal(batch.mask, mask & (index != 2))
        assert batch_names(examples, 2, number, seed=5) == [f"{i}" for i in index[mask]]


def in_blocks(examples: FeatureExamples, folder: Path, buffer: int) -> FeatureExamples:
    """The same examples in files, in another order, to be read in blocks."""
    n = len(examples.labels)
    rows = np.random.default_rng(2).permutation(n)
    maps = {}
    for name, array in examples.maps.items():
        moved = np.empty_like(array)
        moved[rows] = array
        np.save(folder / f"{name}.npy", moved)
        maps[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    present = np.empty_like(examples.present)
    present[rows] = examples.present
    order = BlockOrder(rows, max(buffer // 4, 1), buffer)
    sampler = replace(examples.sampler, random_order=order)
    return replace(examples, maps=maps, present=present, places=rows, sampler=sampler)


@pytest.mark.parametrize("buffer", [4, 8, 12, 400])
@pytest.mark.parametrize("start", [0, 1, 2, 5, 6])
def test_an_epoch_in_blocks_has_the_examples_of_its_order(
    start: int, buffer: int, tmp_path: Path
) -> None:
    plain = source(23)
    examples = in_blocks(plain, tmp_path, buffer)
    sampler = Sampler(4, 5, True, random_order=examples.sampler.random_order)
    expected = sampler.batches(23, 2, start=start)
    found = list(examples.epoch(2, seed=5, shuffle=True, start=start))
    assert len(found) == len(expected) == 6 - start
    for number, (batch, (index, mask)) in enumerate(zip(found, expected, strict=True), start + 1):
        for name, maps in plain.maps.items():
            np.testing.assert_array_equal(getattr(batch.inputs, name), maps[index])
        np.testing.assert_array_equal(batch.label, plain.labels[index])
        np.testing.assert_array_equal(batch.mask, mask & (index != 2))
        assert batch_names(examples, 2, number, seed=5) == [f"{i}" for i in index[mask]]


def test_an_epoch_in_blocks_without_shuffling_is_in_order(tmp_path: Path) -> None:
    plain = source(23)
    found = in_blocks(plain, tmp_path, 8).epoch(1, seed=0, shuffle=False)
    got = np.concatenate([batch.inputs.pool3 for batch in found])[:23]
    np.testing.assert_array_equal(got, plain.maps["pool3"])


@pytest.mark.parametrize("start", [0, 1])
def test_an_epoch_in_blocks_holds_two_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    """While one is used the next is read, and no other; each whole, but for what was shown."""
    examples, reads = in_blocks(source(64), tmp_path, 8), []

    def counting(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
        reads.append(len(rows))
        return read_rows(array, rows)

    monkeypatch.setattr(feature_examples, "read_rows", counting)
    epoch = examples.epoch(1, seed=0, shuffle=True, start=start)
    next(epoch)
    assert len(reads) <= 2 * len(examples.maps)
    list(epoch)
    first = 8 - 4 * start
    assert reads == len(examples.maps) * [first] + 7 * len(examples.maps) * [8]


def test_files_that_are_cut_while_they_are_read_are_named(tmp_path: Path) -> None:
    examples = in_blocks(source(23), tmp_path, 8)
    os.truncate(tmp_path / "pool5.npy", 200)
    with pytest.raises(DataError, match="pool5.npy' has been cut short: delete its folder"):
        list(examples.epoch(1, seed=0, shuffle=True))


@pytest.mark.parametrize("rows", [[], [0], [10], [0, 1, 2, 7, 9, 10], list(range(11))])
def test_rows_are_read_from_a_file_as_they_are_gathered(rows: list[int], tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((11, 3, 5)).astype(np.float16)
    np.save(tmp_path / "x.npy", array)
    index = np.array(rows, np.int64)
    for stored in (array, np.load(tmp_path / "x.npy", mmap_mode="r")):
        found = read_rows(stored, index)
        np.testing.assert_array_equal(found, array[index])
        assert found.dtype == array.dtype
        assert not rows or found.ctypes.data % 64 == 0


def test_examples_stop_early() -> None:
    for _ in source(100).epoch(1, seed=0, shuffle=True):
        break
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64])
@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 5, 5, 3)])
def test_rows_are_taken_into_aligned_memory_of_their_own(
    dtype: type, shape: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
    index = np.array([6, 0, 0, 3])
    for _ in range(5):
        rows = take(array, index)
        assert rows.ctypes.data % 64 == 0 and rows.dtype == dtype and rows.flags.c_contiguous
        np.testing.assert_array_equal(rows, array[index])
        assert not np.shares_memory(rows, array)
