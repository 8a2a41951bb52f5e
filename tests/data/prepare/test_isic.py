"""The challenges' own files become folders that the project reads, whole or not at all."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import DataConfig, make_config
from flax_attn.data import masks, open_dataset, open_split
from flax_attn.data.dataset import MaskedSplit
from flax_attn.data.prepare import class_folders, isic_parts
from flax_attn.system import cli
from flax_attn.training.choices import CHOICES
from tests.helpers.isic_files import (
    FEATURES,
    FEW,
    SIZE,
    folder_of,
    names_of,
    put_challenge,
    put_features,
    put_image,
    put_lesions,
    put_truth,
)

PARTS = {2016: ("train", "test"), 2017: ("train", "val", "test")}
Parts = dict[str, dict[str, str]]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Challenges of a few images."""
    for year, counts in FEW.items():
        challenge = isic_parts.CHALLENGES[year]._replace(counts=counts)
        monkeypatch.setitem(isic_parts.CHALLENGES, year, challenge)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Said:
    """Types ``flax-attn prepare isic`` and keeps what it prints."""

    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self._capsys = capsys

    def __call__(self, flags: str, code: int = 0) -> str:
        """Returns the one line of a command that must end with this code."""
        self._capsys.readouterr()
        assert cli.main(["prepare", "isic", "--source", "source", *flags.split()]) == code
        out, err = self._capsys.readouterr()
        line = err if code else out
        assert line.count("\n") == 1 and "Traceback" not in line, line
        return line.strip()


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)


def tree(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}


def expected_tree(parts: Parts, ending: str = "jpg", task: str = "melanoma") -> set[str]:
    return {
        f"{part}/{label_of(said, task)}/{name}.{ending}"
        for part, diagnoses in parts.items()
        for name, said in diagnoses.items()
    }


def label_of(diagnosis: str, task: str) -> str:
    return diagnosis if task == "diagnosis" or diagnosis == "melanoma" else "benign"


def opened(line: str) -> DataConfig:
    """The data that the command at the end of a line trains on, parsed as it stands there."""
    command = shlex.split(line.partition("train with: ")[2])
    assert command[:2] == ["flax-attn", "train"]
    parser = cli.Parser(prog="test")
    cli.add_settings(parser, CHOICES, "train")
    return make_config(vars(parser.parse_args([*command[2:], "--image-size", "32"]))).data


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("year", "header", "nested"),
    [(2016, False, False), (2016, True, True), (2017, True, False), (2017, False, True)],
    ids=["2016", "2016 nested, with header", "2017", "2017 nested, without header"],
)
def test_a_challenge_becomes_a_folder_that_is_read(
    year: int, header: bool, nested: bool, said: Said
) -> None:
    parts = put_challenge(Path("source"), year, header=header, nested=nested)
    line = said(f"--year {year} --out out")
    assert tree(Path("out")) == expected_tree(parts) and not Path("out_masks").exists()
    data = open_dataset(opened(line))
    assert data.classes == ("benign", "melanoma")  # the second is the positive one
    if year == 2017:
        assert {name: len(split.names) for name, split in data.splits.items()} == {
            part: len(parts[part]) for part in ("train", "val")
        }
    else:  # the validation images are drawn from the training part, not taken from the test part
        drawn = {Path(n).stem for split in data.splits.values() for n in split.names}
        assert set(data.splits) == {"train", "val"} and drawn == set(parts["train"])
    assert data.found.unread == {"test": len(parts["test"])}
    test = open_split(opened(line), "test", classes=data.classes)
    assert sorted(Path(name).stem for name in test.names) == sorted(parts["test"])
    for part in PARTS[year]:
        assert f"{part} {len(parts[part])} (benign " in line
    assert " of " not in line


@pytest.mark.usefixtures("few")
def test_the_three_diagnoses_of_2017_are_classes(said: Said) -> None:
    parts = put_challenge(Path("source"), 2017)
    line = said("--year 2017 --task diagnosis --out out")
    assert tree(Path("out")) == expected_tree(parts, task="diagnosis")
    assert open_dataset(opened(line)).classes == ("melanoma", "nevus", "seborrheic_keratosis")
    assert "train 9 (melanoma 3, nevus 4, seborrheic_keratosis 2)" in line
    refused = said("--year 2016 --task diagnosis --out other", 2)
    assert "2016 tells benign from malignant only" in refused


@pytest.mark.parametrize("year", [2016, 2017])
def test_the_official_counts_are_those_published(year: int, said: Said) -> None:
    """All images of the challenge, each a link to one tiny picture."""
    published = {
        2016: {"train": 900, "test": 379},
        2017: {"train": 2000, "val": 150, "test": 600},
    }[year]
    source = Path("source")
    source.mkdir()
    put_image(source / "one.jpg", 0)
    parts = names_of(isic_parts.CHALLENGES[year].counts)
    assert {part: len(found) for part, found in parts.items()} == published
    for part, found in parts.items():
        folder = folder_of(source, year, part, task=None)
        for name in found:
            os.link(source / "one.jpg", folder / f"{name}.jpg")
        put_truth(source, year, part, found, header=year == 2017)
    line = said(f"--year {year} --out out")
    for part, count in published.items():
        assert f"{part} {count} (" in line
    if year == 2017:
        assert "train 2000 (benign 1626, melanoma 374)" in line
    counts = Counter(path.split("/")[0] for path in tree(Path("out")))
    assert counts == published


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("year", [2016, 2017])
def test_lesion_masks_lie_beside_the_images(year: int, said: Said) -> None:
    parts = put_challenge(Path("source"), year)
    put_lesions(Path("source"), year, parts)
    line = said(f"--year {year} --out out --masks lesion")
    assert tree(Path("out_masks")) == expected_tree(parts, "png")
    assert f"; {sum(map(len, parts.values()))} masks in out_masks; " in line
    split = open_dataset(opened(line), masks=True).splits["train"]
    found = masks.objects(split, range(len(split.names)))
    assert found is not None and found.mean(axis=(1, 2)) == pytest.approx(0.5, abs=0.3)


@pytest.mark.usefixtures("few")
def test_feature_masks_are_unions_and_may_be_empty_or_not_known(said: Said) -> None:
    source = Path("source")
    parts = put_challenge(source, 2017)
    marked, empty, open_, bare, *rest = parts["train"]
    zeros = {name: [0] * 6 for name in FEATURES}
    for name in (*rest, *parts["val"], *parts["test"]):
        part = next(part for part, found in parts.items() if name in found)
        put_features(source, 2017, part, name, {**zeros, "streaks": [1] * 6})
    put_features(
        source,
        2017,
        "train",
        marked,
        {**zeros, "pigment_network": [1, 0, 0, 0, 0, 0], "milia_like_cyst": [0, 0, 0, 1, 0, 0]},
    )
    put_features(source, 2017, "train", empty, zeros)
    put_features(source, 2017, "train", open_, {**zeros, "streaks": None})
    line = said("--year 2017 --out out --masks features")
    assert "; 14 masks in out_masks (1 empty, 2 not known); " in line
    found = {path.stem: path for path in Path("out_masks").rglob("*.png")}
    assert found.keys() == {n for p in parts.values() for n in p} - {open_, bare}
    mask = np.asarray(Image.open(found[marked]))
    assert mask.shape == SIZE[::-1] and set(np.unique(mask)) == {0, 255}
    columns = np.arange(SIZE[0]) * 6 // SIZE[0]
    assert (mask == 255 * np.isin(columns, (0, 3))).all()
    assert not np.asarray(Image.open(found[empty])).any()
    split = open_dataset(opened(line), masks=True).splits["train"]
    assert isinstance(split, MaskedSplit)
    known = {Path(name).stem: split.masks(i) for i, name in enumerate(split.names)}
    assert known[open_] is None and known[bare] is None
    assert known[empty] is not None and not known[empty].any()


@pytest.mark.usefixtures("few")
def test_features_of_2016_are_two(said: Said) -> None:
    parts = put_challenge(Path("source"), 2016)
    first, *_ = parts["train"]
    marks = {"globules": [1, 0, 0, 0, 0, 0], "streaks": [0, 1, 0, 0, 0, 0]}
    put_features(Path("source"), 2016, "train", first, marks)
    assert "1 masks in out_masks (9 not known)" in said("--year 2016 --out out --masks features")
    (path,) = Path("out_masks").rglob("*.png")
    assert np.asarray(Image.open(path))[:, :4].all() and path.stem == first


def without_images(source: Path, parts: Parts) -> None:
    for path in sorted(folder_of(source, 2017, "train", task=None).glob("*.jpg"))[2:9]:
        path.unlink()


def without_row(source: Path, parts: Parts) -> None:
    kept = dict(list(parts["train"].items())[1:])
    put_truth(source, 2017, "train", kept, header=True)


def without_table(source: Path, parts: Parts) -> None:
    next(source.glob("*Test*.csv")).unlink()


def other_diagnosis(source: Path, parts: Parts) -> None:
    wrong = {**parts["train"], "ISIC_0000000": "nevus"}
    put_truth(source, 2017, "train", wrong, header=True)


def without_mask(source: Path, parts: Parts) -> None:
    next(source.rglob("ISIC_0000004_segmentation.png")).unlink()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("spoil", "flags", "words", "there"),
    [
        (
            without_images,
            "--task melanoma",
            ["train: 7 of 9 images missing: ISIC_0000002, ", "ISIC_0000006 and 2 more"],
            "",
        ),
        (
            without_row,
            "",
            ["train: the ground truth has 2 melanoma of 3, 2 seb", "no table names: ISIC_0000000"],
            "train 8 of 9 (benign 6, melanoma 2)",
        ),
        (
            without_table,
            "",
            ["test: no ground truth, expected ISIC-2017_Test_v2_Part3_GroundTruth.csv (rows ISIC_"],
            "test 0 of 4;",
        ),
        (other_diagnosis, "", ["2 melanoma of 3", "5 nevus of 4"], "(benign 7, melanoma 2)"),
        (
            without_mask,
            "--masks lesion",
            ["1 of 16 lesion masks missing: ISIC_0000004"],
            "15 masks in out_masks (1 not known)",
        ),
    ],
    ids=["images", "a row", "a table", "a diagnosis", "a mask"],
)
def test_what_is_missing_is_named_and_may_be_done_without(
    spoil: Callable[[Path, Parts], None], flags: str, words: list[str], there: str, said: Said
) -> None:
    source = Path("source")
    parts = put_challenge(source, 2017)
    put_lesions(source, 2017, parts)
    spoil(source, parts)
    line = said(f"--year 2017 --out out {flags}", 3)
    assert all(word in line for word in [*words, "'source' is not the whole set", "--partial"])
    assert sorted(os.listdir(".")) == ["source"]
    if there:
        line = said(f"--year 2017 --out out --partial {flags}")
        assert there in line
        assert open_dataset(opened(line)).classes == ("benign", "melanoma")
    else:  # of what is left one class only
        line = said(f"--year 2017 --out out --partial {flags}", 3)
        assert "the train part has none of class benign" in line
        assert sorted(os.listdir(".")) == ["source"]


def two_images(source: Path, parts: Parts) -> None:
    (source / "copies").mkdir()
    put_image(source / "copies/ISIC_0000003.jpg", 99)


def two_tables(source: Path, parts: Parts) -> None:
    put_truth(source, 2017, "train", {**parts["train"], "ISIC_0000003": "nevus"}, header=True)
    table = source / isic_parts.CHALLENGES[2017].tables["train"]
    (source / "other_Part3_train.csv").write_text(table.read_text())
    put_truth(source, 2017, "train", parts["train"], header=True)


def in_two_parts(source: Path, parts: Parts) -> None:
    moved = {**dict(list(parts["val"].items())[1:]), "ISIC_0000000": "melanoma"}
    put_truth(source, 2017, "val", moved, header=True)


def other_size(source: Path, parts: Parts) -> None:
    Image.new("L", (9, 9)).save(next(source.rglob("ISIC_0000002_segmentation.png")))


def damaged_mask(source: Path, parts: Parts) -> None:
    next(source.rglob("ISIC_0000002_segmentation.png")).write_bytes(b"no picture")


def no_masks(source: Path, parts: Parts) -> None:
    for path in source.rglob("*_segmentation.png"):
        path.unlink()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (two_images, "are both the image of ISIC_0000003 and differ"),
        (two_tables, "are both ground truth of one part and differ"),
        (in_two_parts, "ISIC_0000000 is in the ground truth of train and of val"),
        (other_size, "has 9x9 pixels, the image 12x8"),
        (damaged_mask, "ISIC_0000002_segmentation.png': cannot be read"),
        (no_masks, "has no mask of any of 16 images, expected ISIC_NUMBER_segmentation.png"),
    ],
    ids=lambda case: getattr(case, "__name__", None),
)
def test_what_cannot_be_right_is_refused_even_in_part(
    spoil: Callable[[Path, Parts], None], words: str, said: Said
) -> None:
    source = Path("source")
    parts = put_challenge(source, 2017)
    put_lesions(source, 2017, parts)
    spoil(source, parts)
    for flags in ("", "--partial"):
        assert words in said(f"--year 2017 --out out --masks lesion {flags}", 3)
        assert sorted(os.listdir(".")) == ["source"]


@pytest.mark.usefixtures("few")
def test_features_without_superpixels_are_refused(said: Said) -> None:
    parts = put_challenge(Path("source"), 2017)
    put_features(
        Path("source"), 2017, "train", next(iter(parts["train"])), dict.fromkeys(FEATURES, [0] * 6)
    )
    next(Path("source").rglob("*_superpixels.png")).unlink()
    line = said("--year 2017 --out out --masks features", 3)
    assert "no superpixels ISIC_0000000_superpixels.png for" in line


@pytest.mark.usefixtures("few")
def test_other_years_and_copies_beside_are_no_matter(said: Said) -> None:
    """Both years unpacked in one folder, files of a third, and what another task repeats."""
    source = Path("source")
    put_challenge(source, 2016)
    parts = put_challenge(source, 2017)
    for folder in ("ISIC2018_Task1-2_Training_Input", "again"):
        (source / folder).mkdir()
    put_image(source / "ISIC2018_Task1-2_Training_Input/ISIC_0000001.jpg", 7)
    shutil.copy(next(source.rglob("ISIC-2017*/ISIC_0000001.jpg")), source / "again")
    metadata = folder_of(source, 2017, "train", task=None) / "ISIC-2017_Training_Data_metadata.csv"
    metadata.write_text("image_id,age_approximate,sex\nISIC_0000000,55,female\n")
    said("--year 2017 --out out")
    assert tree(Path("out")) == expected_tree(parts)
    # What was written there before is found again, and is the same.
    said("--year 2017 --task diagnosis --out source/out")
    said("--year 2017 --out out2")
    assert tree(Path("out2")) == expected_tree(parts)
    said("--year 2016 --out out3")


@pytest.mark.usefixtures("few")
def test_images_are_linked_or_else_copied(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    put_challenge(Path("source"), 2017)
    said("--year 2017 --out linked")
    image = next(Path("source").rglob("ISIC_0000000.jpg"))
    assert os.path.samefile(image, next(Path("linked").rglob("ISIC_0000000.jpg")))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    said("--year 2017 --out copied")
    copy = next(Path("copied").rglob("ISIC_0000000.jpg"))
    assert copy.read_bytes() == image.read_bytes() and not os.path.samefile(image, copy)


@pytest.mark.usefixtures("few")
def test_nothing_is_left_of_what_fails(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    put_lesions(Path("source"), 2017, put_challenge(Path("source"), 2017))
    count: Iterator[int] = iter(range(99))
    put = class_folders.link_or_copy

    def full(source: Path, target: Path) -> None:
        if next(count) == 20:
            raise OSError(errno.ENOSPC, "no space")
        put(source, target)

    monkeypatch.setattr(class_folders, "link_or_copy", full)
    assert "no space left for out" in said("--year 2017 --out out --masks lesion", 7)
    assert sorted(os.listdir(".")) == ["source"]


@pytest.mark.usefixtures("few")
def test_places_and_flags_that_are_wrong_are_refused(said: Said) -> None:
    put_challenge(Path("source"), 2017)
    for name in ("used", "new_masks"):
        Path(name).mkdir()
        Path(name, "x").touch()
    assert "used holds something already" in said("--year 2017 --out used", 2)
    assert "new_masks holds something already" in said("--year 2017 --out new", 2)
    assert "isic needs --year, one of 2016, 2017" in said("--out out", 2)
    assert "no folder 'none'" in said("--year 2017 --out out --source none", 3)
    Path("empty").mkdir()
    line = said("--year 2017 --out out --source empty", 3)
    assert "train: no ground truth" in line and "test: no ground truth" in line
    line = said("--year 2017 --out out --source empty --partial", 3)
    assert "no training image in 'empty'" in line
