"""The table of data sets decides alone: what opens one, what it needs, and what it keeps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import DATASETS, DataConfig, DatasetEntry, make_config
from flax_attn.data import Quarantine, Sampler, batches, open_dataset, open_split
from flax_attn.data.dataset import Dataset, MaskedSplit, OpenRequest
from flax_attn.data.drawn.pets import DrawnPets
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.quarantine import QuarantinedImage
from flax_attn.errors import DataError, UsageError


@pytest.mark.parametrize("name", DATASETS)
def test_every_row_names_a_module_that_opens_it(name: str) -> None:
    assert callable(import_module(DATASETS[name].module).open_set)


@pytest.mark.parametrize("name", [name for name in DATASETS if name.startswith("drawn")])
def test_drawn_pictures_have_masks_of_their_own(name: str) -> None:
    config = DataConfig(dataset=name, image_size=32, train_count=2, val_count=2)
    for split in open_dataset(config).splits.values():
        assert isinstance(split, MaskedSplit) and split.masks(0) is not None
    assert DATASETS[name].masks == "own"


def test_a_row_is_all_that_a_new_data_set_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[OpenRequest] = []

    def open_set(config: DataConfig, request: OpenRequest) -> Dataset:
        asked.append(request)
        split = DrawnPets(seed=5, size=config.image_size, count=3)
        splits = {"all": split} if request.undivided else {"train": split, "val": split}
        return Dataset(request.classes or ("a", "b"), splits)

    monkeypatch.setitem(sys.modules, "of_the_test", SimpleNamespace(open_set=open_set))
    entry = DatasetEntry("of_the_test", "files", "a folder", {"image_size": 64, "epochs": 7})
    monkeypatch.setitem(DATASETS, "made_up", entry)
    with pytest.raises(UsageError, match="--dataset made_up needs --data-dir, a folder"):
        make_config({"dataset": "made_up"})
    config = make_config({"dataset": "made_up", "data_dir": "x", "mask_dir": "y"})
    assert (config.data.image_size, config.train.epochs) == (64, 7)
    dataset = open_dataset(config.data, masks=True)
    assert dataset.classes == ("a", "b") and dataset.splits["val"].image(2).shape == (64, 64, 3)
    assert len(open_split(config.data, "all", classes=("b", "a")).names) == 3
    assert asked == [
        OpenRequest(known=[], masks=True),
        OpenRequest(known=[], undivided=True, classes=("b", "a")),
    ]


def test_settings_a_data_set_cannot_follow_are_refused(tmp_path: Path) -> None:
    """Also without a command line, whether or not masks are wanted."""
    for masks in (False, True):
        with pytest.raises(UsageError, match="--mask-dir goes with --dataset folder"):
            open_dataset(DataConfig(mask_dir=str(tmp_path)), masks=masks)
    with pytest.raises(UsageError, match="needs --data-dir"):
        open_split(DataConfig(dataset="labelled_csv"), "val", classes=("a",))
    with pytest.raises(UsageError, match="unknown --dataset 'photos': choose from drawn_pets, "):
        open_dataset(DataConfig(dataset="photos"))


# Of each kind whose images are files: what it needs beside them, and its classes.
FILES = {
    "folder": ("cat/{}.png", "dog/{}.png"),
    "labelled_csv": ("a{}.png", "b{}.png"),
}


def test_every_set_of_files_is_tried_below() -> None:
    """A set that forgets ``OpenRequest.known`` loses images on a resume."""
    assert FILES.keys() == {name for name, entry in DATASETS.items() if entry.data_dir is not None}


def put_files(root: Path, dataset: str, *, n: int = 10) -> DataConfig:
    paths = [pattern.format(i) for pattern in FILES[dataset] for i in range(n)]
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 36), (number, 0, 255 - number)).save(root / path)
    if dataset == "labelled_csv":
        lines = (f"{path},{i % 2},{int(i < n)}\n" for i, path in enumerate(paths))
        (root / "labels.csv").write_text("name,cat,dog\n" + "".join(lines))
    return DataConfig(dataset=dataset, data_dir=str(root), image_size=32, on_bad_image="quarantine")


def rows_of(config: DataConfig, split: str) -> Sequence[ManifestRow]:
    dataset = import_module(DATASETS[config.dataset].module).open_set(config, OpenRequest())
    return dataset.splits[split].rows


def prints(dataset: Dataset) -> dict[str, tuple[list[str], list, str]]:
    return {
        name: (list(split.names), split.labels.tolist(), split.fingerprint)
        for name, split in dataset.splits.items()
    }


@pytest.mark.parametrize("fate", ["gone", "other content", "unusable"])
@pytest.mark.parametrize("dataset", FILES)
def test_a_resumed_run_keeps_the_rows_it_set_aside(dataset: str, fate: str, tmp_path: Path) -> None:
    config = put_files(tmp_path, dataset)
    first = open_dataset(config)
    before = prints(first)
    # Lost during the run, one of each split.
    for name in ("train", "val"):
        lost = tmp_path / first.splits[name].names[1]
        if fate == "other content":
            Image.new("RGB", (40, 36), "white").save(lost)
        elif fate == "unusable":
            lost.write_bytes(b"")
        else:
            lost.unlink()
        list(batches(first.splits[name], Sampler(4, shuffle=True)))
    entries = first.quarantine.entries
    assert [entry.found for entry in entries] == ["run", "run"]

    resumed = open_dataset(config, Quarantine("quarantine", earlier=entries))
    assert prints(resumed) == before and resumed.quarantine.entries == entries
    for split in resumed.splits.values():
        shown = [i for b in batches(split, Sampler(4)) for i in b.index[b.mask]]
        assert len(shown) == len(split.names) - 1


@pytest.mark.parametrize("dataset", FILES)
def test_an_evaluation_leaves_out_what_the_run_set_aside(dataset: str, tmp_path: Path) -> None:
    config = put_files(tmp_path, dataset)
    first = open_dataset(config)
    row = rows_of(config, "train")[2]
    name = row.path
    entry = QuarantinedImage("train", *row, "start", "gone")
    (tmp_path / name).unlink()
    quarantine = Quarantine("quarantine", earlier=[entry])
    whole = open_split(config, "all", classes=first.classes, quarantine=quarantine)
    assert len(whole.names) == 19 and name not in whole.names
    assert quarantine.entries == [replace(entry, split="all")]


def test_a_row_that_left_the_table_is_not_used(tmp_path: Path) -> None:
    """The table says which images there are; a run that had more finds another fingerprint."""
    config = put_files(tmp_path, "labelled_csv")
    first = open_dataset(config)
    row = rows_of(config, "train")[0]
    name = row.path
    entry = QuarantinedImage("train", *row, "run", "gone")
    table = tmp_path / "labels.csv"
    left = [line for line in table.read_text().splitlines() if not line.startswith(f"{name},")]
    table.write_text("\n".join(left))
    again = open_dataset(config, Quarantine("quarantine", earlier=[entry]))
    assert not any(name in split.names for split in again.splits.values())
    assert prints(again) != prints(first)


def test_classes_of_another_run_are_refused() -> None:
    config = DataConfig(image_size=32, train_count=2, val_count=2)
    with pytest.raises(DataError, match="trained on the classes dog, cat, the data set has cat"):
        open_split(config, "val", classes=("dog", "cat"))
    split = open_split(config, "val", classes=("cat", "dog"))
    assert np.asarray(split.labels).shape == (2,)


@pytest.mark.parametrize("dataset", FILES)
def test_the_limit_on_the_size_of_images_is_that_of_the_setting(
    dataset: str, tmp_path: Path
) -> None:
    """Of every set of files, and whatever was looked at under another limit before."""
    config = replace(put_files(tmp_path / "data", dataset), on_bad_image="fail")
    large = tmp_path / "data" / FILES[dataset][0].format(0)
    Image.new("RGB", (1500, 1000)).save(large)
    for limit in (1, 2, 1):
        limited = replace(config, max_megapixels=limit)
        if limit == 2:
            found = open_dataset(limited, cache=tmp_path / "seen")
            assert sum(len(split.names) for split in found.splits.values()) == 20
            continue
        with pytest.raises(DataError, match="1500x1000: more than 1 megapixels: .*--max-megapix"):
            open_dataset(limited, cache=tmp_path / "seen")
