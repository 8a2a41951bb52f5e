"""What fits in memory decides how features are kept; a run that has decided stays with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flax_attn.config import Config
from flax_attn.data import Dataset
from flax_attn.data.fold_split import FoldSplit
from flax_attn.system.processes import Processes
from flax_attn.training.feature_storage import block_sizes, storage_of, with_feature_storage
from flax_attn.training.features import FeatureStorage

FULL = 1_304_576  # bytes of a photograph at 224 pixels, as float32


class Many:
    """A split of any number of images that nobody reads."""

    fingerprint = "many"

    def __init__(self, n: int) -> None:
        self.names, self.labels = [""] * n, np.zeros(n, np.int32)

    def image(self, index: int) -> np.ndarray:
        raise AssertionError(index)


def photographs(n: int = 1000) -> Dataset:
    return Dataset(("cat", "dog"), {"train": Many(n * 4 // 5), "val": Many(n - n * 4 // 5)})


def kept(memory: int, *, earlier: Config | None = None, **given: Any) -> tuple[str, str]:
    config = Config().updated(**given)
    found = with_feature_storage(config, photographs(), earlier=earlier, memory=memory)
    assert found.updated(kept_dtype="f32", kept_order="any") == config
    return found.train.kept_dtype, found.train.kept_order


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (2000 * FULL, ("f32", "any")),
        (2000 * FULL - 1, ("f16", "any")),
        (1001 * FULL, ("f16", "any")),
        (999 * FULL, ("f16", "blocks")),
    ],
)
def test_half_of_the_memory_decides(memory: int, expected: tuple[str, str]) -> None:
    assert kept(memory) == expected


def test_what_is_named_is_taken() -> None:
    assert kept(10 * FULL, feature_dtype="f32") == ("f32", "blocks")
    assert kept(10 * FULL, feature_dtype="u8", feature_order="any") == ("u8", "any")
    assert kept(9000 * FULL, feature_order="blocks") == ("f32", "blocks")
    assert kept(600 * FULL, feature_dtype="u8") == ("u8", "any")
    assert kept(10 * FULL, shuffle="pictures") == ("f16", "any")
    # Each of four crops has features of its own.
    assert kept(2000 * FULL, views="crops:2") == ("f16", "blocks")


def test_a_run_that_resumes_goes_on_as_it_began_on_any_machine() -> None:
    before = Config().updated(kept_dtype="f16", kept_order="blocks")
    assert kept(9000 * FULL, earlier=before) == ("f16", "blocks")
    assert kept(10 * FULL, earlier=Config()) == ("f32", "any")


def test_images_have_no_features_to_keep() -> None:
    config = Config().updated(freeze_backbone=False, kept_dtype="f16", kept_order="blocks")
    found = with_feature_storage(config, photographs(), memory=1)
    assert (found.train.kept_dtype, found.train.kept_order) == ("f32", "any")


def test_several_processes_do_as_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "first_says", lambda self, what, text: '["f16", "blocks"]')
    found = with_feature_storage(
        Config(), photographs(), processes=Processes(2, 1), memory=9000 * FULL
    )
    assert (found.train.kept_dtype, found.train.kept_order) == ("f16", "blocks")


def test_pictures_of_all_folds_count_once() -> None:
    whole = Many(1000)
    parts = {
        "train": FoldSplit(whole, np.arange(800)),
        "val": FoldSplit(whole, np.arange(800, 1000)),
    }
    dataset = Dataset(("cat", "dog"), parts)
    found = with_feature_storage(Config(), dataset, memory=2000 * FULL)
    assert found.train.kept_dtype == "f32"
    in_blocks = Config().updated(kept_order="blocks")
    # One folder for both parts.
    assert storage_of(in_blocks, parts["val"], trains=False) == FeatureStorage("f32", True)
    assert storage_of(in_blocks, Many(3), trains=False) == FeatureStorage("f32", False)


@pytest.mark.parametrize("batch", [1, 32, 100_000])
def test_buffers_are_whole_batches_of_whole_blocks(batch: int) -> None:
    sizes = block_sizes(Config().updated(batch_size=batch, kept_dtype="f16"))
    assert sizes.buffer % batch == 0 and sizes.buffer >= batch
    assert 1 <= sizes.block <= sizes.buffer
    if batch == 32:
        assert 200e6 < sizes.buffer * FULL / 2 < 300e6
