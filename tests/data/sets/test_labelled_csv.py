from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data import open_dataset, open_split
from flax_attn.data.batches import Sampler, batches
from flax_attn.data.check import find_problems
from flax_attn.data.dataset import Dataset, EncodedSplit, OpenRequest
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.sets.label_table import read_table
from flax_attn.data.sets.labelled_csv import open_set
from flax_attn.errors import DataError, UsageError


def put_images(root: Path, *names: str, first: int = 0) -> None:
    """Small images, each of a colour of its own."""
    for number, name in enumerate(names, start=first):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (number, 0, 255 - number)).save(root / name)


def put_table(root: Path, text: str | bytes, *, images: int = 6) -> Path:
    put_images(root, *(f"{i}.png" for i in range(images)))
    (root / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def open_all(
    root: Path,
    *,
    undivided: bool = False,
    classes: tuple[str, ...] | None = None,
    known: Sequence[ManifestRow] = (),
    **settings: object,
) -> Dataset:
    settings = {"image_size": 8, "val_fraction": 0.4, **settings}
    config = DataConfig(dataset="labelled_csv", data_dir=str(root), **settings)  # type: ignore[arg-type]
    return open_set(config, OpenRequest(undivided=undivided, classes=classes, known=known))


def rows(dataset: Dataset, *splits: str) -> dict[str, list[int]]:
    """The labels of each name, of all splits or of those named."""
    found = {}
    for split in [dataset.splits[name] for name in splits] or dataset.splits.values():
        found |= dict(zip(split.names, split.labels.tolist(), strict=True))
    return found


def reason(root: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        open_all(root, **options)
    message = str(caught.value)
    assert "\n" not in message and str(root) in message
    return message


COLUMNS = "name,dog,cat\n0.png,0,0\n3.png,1,1\n1.png,0,1\n2.png, 1 ,0\n"
LISTS = "name,labels\n0.png,\n3.png,cat|dog\n1.png,cat\n2.png, dog \n"


def test_columns_of_zeros_and_ones(tmp_path: Path) -> None:
    dataset = open_all(put_table(tmp_path, COLUMNS))
    assert dataset.classes == ("dog", "cat") and dataset.multilabel
    expected = {"0.png": [0, 0], "1.png": [0, 1], "2.png": [1, 0], "3.png": [1, 1]}
    assert rows(dataset) == expected
    for split in dataset.splits.values():
        assert split.labels.dtype == np.int32 and split.labels.shape == (len(split.names), 2)


def test_lists_of_labels(tmp_path: Path) -> None:
    dataset = open_all(put_table(tmp_path, LISTS))
    assert dataset.classes == ("cat", "dog") and dataset.multilabel
    expected = {"0.png": [0, 0], "1.png": [1, 0], "2.png": [0, 1], "3.png": [1, 1]}
    assert rows(dataset) == expected


def test_more_labels_than_an_integer_has_bits(tmp_path: Path) -> None:
    labels = [f"l{j:03d}" for j in range(100)]
    text = "\n".join(["name,labels", "0.png," + "|".join(labels), f"1.png,{labels[99]}"])
    found = rows(open_all(put_table(tmp_path, text)))
    assert found == {"0.png": [1] * 100, "1.png": [0] * 99 + [1]}


def test_column_of_splits_and_columns_in_any_order(tmp_path: Path) -> None:
    text = "cat,split,name\n1,train,0.png\n0,val,2.png\n1,val,1.png\n0,train,3.png\n"
    dataset = open_all(put_table(tmp_path, text))
    assert dataset.classes == ("cat",)
    assert rows(dataset, "train") == {"0.png": [1], "3.png": [0]}
    assert rows(dataset, "val") == {"1.png": [1], "2.png": [0]}
    assert list(dataset.splits["val"].names) == ["1.png", "2.png"]


def test_other_words_for_the_splits(tmp_path: Path) -> None:
    text = "name,cat,subset\n0.png,1,Training\n1.png,0,VALID\n2.png,1,validation\n3.png,0,dev\n"
    dataset = open_all(put_table(tmp_path, text))
    assert dataset.classes == ("cat",) and list(rows(dataset, "train")) == ["0.png"]
    assert list(rows(dataset, "val")) == ["1.png", "2.png", "3.png"]


def test_classes_are_divided_each_by_itself(tmp_path: Path) -> None:
    """Also the rare ones, which a division of all images together may miss."""
    put_images(tmp_path, *(f"{i}.png" for i in range(22)))
    text = "name,class\n" + "".join(f"{i}.png,{'rare' if i < 2 else 'cat'}\n" for i in range(22))
    dataset = open_all(put_table(tmp_path, text, images=0), val_fraction=0.2)
    assert not dataset.multilabel and dataset.classes == ("cat", "rare")
    for name, counts in {"train": [16, 1], "val": [4, 1]}.items():
        labels = dataset.splits[name].labels
        assert labels.ndim == 1 and np.bincount(labels).tolist() == counts


def test_classes_asked_for_in_another_form_of_unicode(tmp_path: Path) -> None:
    composed, decomposed = (normalize(form, "café") for form in ("NFC", "NFD"))
    put_table(tmp_path, f"name,class\n0.png,{composed}\n1.png,thé\n")
    wanted = (decomposed, "thé", "eau")
    dataset = open_all(tmp_path, undivided=True, classes=wanted)
    assert dataset.classes == wanted
    assert dataset.splits["all"].labels.tolist() == [0, 1]


def many(root: Path, n: int = 20) -> str:
    put_images(root, *(f"{i}.png" for i in range(n)))
    return "name,a\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(n))


def test_split_follows_the_content_alone(tmp_path: Path) -> None:
    text = many(tmp_path)
    dataset = open_all(put_table(tmp_path, text))
    val = rows(dataset, "val")
    assert len(val) == 8 and not val.keys() & rows(dataset, "train").keys()
    assert {name: [int(name[:-4]) % 2] for name in rows(dataset)} == rows(dataset)
    header, *lines = text.splitlines()
    shuffled = open_all(put_table(tmp_path, "\n".join([header, *reversed(lines)])))
    assert rows(shuffled, "val") == val
    assert shuffled.splits["val"].fingerprint == dataset.splits["val"].fingerprint
    # A copy goes where its original is, whatever its labels.
    copy = (tmp_path / next(iter(val))).read_bytes()
    (tmp_path / "copy.png").write_bytes(copy)
    copied = open_all(put_table(tmp_path, text + "copy.png,0\n"))
    assert rows(copied, "val").keys() == val.keys() | {"copy.png"}


def test_undivided(tmp_path: Path) -> None:
    one = open_all(put_table(tmp_path, "name,cat,split\n0.png,1,val\n"), undivided=True)
    assert list(one.splits) == ["all"] and rows(one) == {"0.png": [1]}


def test_fingerprint_follows_labels_content_and_decoding(tmp_path: Path) -> None:
    def fingerprint(text: str = COLUMNS, **options: object) -> str:
        dataset = open_all(put_table(tmp_path, text), undivided=True, **options)
        return dataset.splits["all"].fingerprint

    found = [fingerprint(), fingerprint(image_size=16), fingerprint(COLUMNS.replace("dog", "fox"))]
    found.append(fingerprint(COLUMNS.replace("0.png,0,0", "0.png,0,1")))
    assert len(set(found)) == 4 and found[0] == fingerprint()
    put_images(tmp_path, "0.png", first=99)
    changed = open_all(tmp_path, undivided=True).splits["all"].fingerprint
    assert changed not in found


def test_image_is_that_of_its_name(tmp_path: Path) -> None:
    put_images(tmp_path, "more/photo, one.png", first=77)
    dataset = open_all(put_table(tmp_path, 'name,a\n"more/photo, one.png",1\n0.png,0\n'))
    for split in dataset.splits.values():
        for i, name in enumerate(split.names):
            assert split.image(i)[0, 0, 0] == (77 if "more" in name else 0)


@pytest.mark.parametrize(
    "text",
    [
        COLUMNS.encode("utf-8-sig"),
        COLUMNS.replace("\n", "\r\n"),
        COLUMNS.replace("\n", "\r"),
        COLUMNS.rstrip(),
        "\n" + COLUMNS.replace("\n", "\n\n") + ",,\n",
        COLUMNS.replace("1.png", "./1.png"),
        COLUMNS.replace("name,dog,cat", " name , dog ,cat"),
    ],
    ids=["BOM", "CRLF", "CR", "no last newline", "blank lines", "./", "spaces"],
)
def test_spellings_of_the_same_table(text: str | bytes, tmp_path: Path) -> None:
    expected = rows(open_all(put_table(tmp_path, COLUMNS)))
    assert rows(open_all(put_table(tmp_path, text))) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,a\n0.png,1\nnone.png,0\n", "line 3: no file 'none.png' in .*: correct the name"),
        ("name,a\n0.png,1\n,0\n", "line 3: no file ''"),
        ("name,a\n0.png,1\n0\x00.png,0\n", "line 3: a NUL byte"),
        (f"name,a\n{'x' * 5000},1\n", "line 2: no file 'xxx"),
        ("name,a,b\n0.png,1,0\n1.png,0,2\n", "line 3: 'b' is '2': expected 0 or 1"),
        ("name,a\n0.png,\n", "line 2: 'a' is '': expected 0 or 1"),
        (
            "name,a\n0.png,1\n1.png,0\n./0.png,0\n",
            "line 4: '0.png' is in line 2 too, with other labels: remove",
        ),
        ("name,a\n../0.png,1\n", r"line 2: '\.\./0.png' leads out of the folder"),
        ("name,a\nx/../../0.png,1\n", "line 2: .* leads out of the folder"),
        ("name,a\n/etc/hosts,1\n", "line 2: '/etc/hosts' leads out of the folder"),
        ("name,a\n0.png,1,1\n", "line 2: 3 cells, but 2 columns"),
        ("name,a,b\n0.png,1\n", "line 2: 2 cells, but 3 columns"),
        ("name,a\n0.png,1\n\n\n1.png,5\n", "line 5: 'a' is '5'"),
        ('name,a\n"0.png,1\n', "line 2: unexpected end of data: close every quote"),
        (b"name,a\n0.png,1\n\xff.png,0\n", "line 3: not UTF-8: save the table as UTF-8"),
        (b"\xef\xbb\xbf\n\nname,a\n\xff", "line 4: not UTF-8"),
        (
            b"",
            "labels.csv': empty, 0 bytes: expected a table with a column of",
        ),
        ("\n\n", r"the header is \[\]: expected one with a column"),
        ("what,a\n0.png,1\n", r"the header is \['what', 'a'\]: expected one with"),
        ("name:a\n0.png:1\n", r"the header is \['name:a'\]: expected one with"),
        ("name\n0.png\n", r"the header is \['name'\]"),
        ("name,split\n0.png,val\n", r"the header is \['name', 'split'\]"),
        ("name,a,\n0.png,1,1\n", r"the header is \['name', 'a', ''\]"),
        ("name,a,b,a\n0.png,1,1,1\n", r"columns \['a'\] are there twice: rename"),
        ("name,a\n", "no rows below the header"),
        ("name,labels\n0.png,a\n1.png,a||b\n", r"line 3: empty label in 'a\|\|b'"),
        ("name,labels\n0.png,\n1.png,\n", "no row has a label"),
        ("name,a,split\n0.png,1,train\n1.png,0,seen\n", "line 3: split is 'seen': expected train"),
        ("name,a,split\n0.png,1,train\n", "no row of split 'val': expected both"),
        ("name,a,split\n0.png,1,val\n", "no row of split 'train': expected both"),
        ("name,a\n0.png,1\n", r"1 distinct image\(s\): a split needs at least 2"),
    ],
)
def test_unusable_tables(text: str | bytes, message: str, tmp_path: Path) -> None:
    found = reason(put_table(tmp_path, text, images=2))
    assert "labels.csv" in found and re.search(message, found), found


def test_no_table(tmp_path: Path) -> None:
    assert "labels.csv': No such file" in reason(tmp_path)
    (tmp_path / "train.csv").write_text("name,class\n")
    assert "rename the table to labels.csv: there is train.csv" in reason(tmp_path)
    os.mkfifo(tmp_path / "labels.csv")
    assert "not a regular file but a FIFO" in reason(tmp_path)


def test_val_fraction_is_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="val_fraction is 1.5"):
        open_all(put_table(tmp_path, COLUMNS), val_fraction=1.5)


def test_labels_in_the_order_asked_for(tmp_path: Path) -> None:
    expected = {"0.png": [0, 0], "1.png": [1, 0], "2.png": [0, 1], "3.png": [1, 1]}
    dataset = open_all(put_table(tmp_path, COLUMNS), classes=("cat", "dog"))
    assert dataset.classes == ("cat", "dog") and rows(dataset) == expected
    message = reason(tmp_path, classes=("cat", "wolf"))
    assert "missing ['wolf'], unexpected ['dog']" in message
    # A table of lists need not name every label; one of columns must, or 0 would be a guess.
    put_table(tmp_path, LISTS)
    dataset = open_all(tmp_path, classes=("ape", "cat", "dog"))
    assert rows(dataset) == {name: [0, *labels] for name, labels in expected.items()}
    assert "missing [], unexpected ['dog']" in reason(tmp_path, classes=("ape", "cat"))


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as lost+found: rows that name a whole path need no listing."""

    def refuse(folder: Path) -> Iterator[Path]:
        raise DataError(f"cannot list folder '{folder}/lost+found'")

    monkeypatch.setattr("flax_attn.data.sets.table_names.image_files", refuse)
    put_table(tmp_path, COLUMNS)
    assert len(rows(open_all(tmp_path))) == 4
    assert "lost+found" in "".join(read_table(tmp_path / "labels.csv").passed_over)
    put_table(tmp_path, COLUMNS.replace("0.png", "0"))
    assert "no file '0' in" in (line := reason(tmp_path)) and "lost+found" in line


def test_a_lost_image_is_still_found_by_its_stem(tmp_path: Path) -> None:
    put_table(tmp_path, "name,class\n0,cat\n1,dog\n2,cat\n3,dog\n")
    row = ManifestRow("2.png", 0, "f" * 64)
    (tmp_path / "2.png").unlink()
    dataset = open_all(tmp_path, undivided=True, known=[row])
    assert isinstance(split := dataset.splits["all"], EncodedSplit) and row in split.rows
    assert "no file '2'" in reason(tmp_path, undivided=True)


def test_preflight_names_unusable_files(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    names = ["folder.png", "loop.png", "text.png"]
    text = "name,a\n0.png,1\n1.png,0\n" + "".join(f"{name},1\n" for name in names)
    dataset = open_all(put_table(tmp_path, text), undivided=True)
    problems = find_problems(dataset.splits["all"]).values()
    assert [error.name for error in problems] == [f"{tmp_path}/{name}" for name in names]


def test_batches_and_configuration(tmp_path: Path) -> None:
    put_table(tmp_path, COLUMNS)
    config = DataConfig(
        dataset="labelled_csv", data_dir=str(tmp_path), image_size=32, val_fraction=0.25
    )
    data = open_dataset(config)
    assert [len(data.splits[name].names) for name in ("train", "val")] == [3, 1]
    # The labels in the order of another run, and all images without dividing them.
    whole = open_split(config, "all", classes=("cat", "dog"))
    (batch,) = batches(whole, Sampler(4, shuffle=True))
    assert batch.label.tolist() == whole.labels[batch.index].tolist()
    assert whole.labels.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    put_table(tmp_path, "name,cat\n0.png,1\n")
    assert len(open_split(config, "all", classes=["cat"]).labels) == 1
    with pytest.raises(DataError, match="unexpected"):
        open_split(config, "val", classes=["dog"])


def test_rows_of_a_test_part_wait_for_a_request(tmp_path: Path) -> None:
    """With rows of val they are a split of their own, without they validate."""
    rows = [f"{i}.png,{'cat' if i % 2 else 'dog'}" for i in range(6)]
    for i in range(6):
        Image.new("RGB", (9, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    config = DataConfig(dataset="labelled_csv", data_dir=str(tmp_path), image_size=8)

    def names(*splits: str, test: bool = False) -> dict[str, list[str]]:
        lines = [f"{row},{split}" for row, split in zip(rows, splits, strict=True)]
        (tmp_path / "labels.csv").write_text("\n".join(["name,class,split", *lines]))
        dataset = open_set(config, OpenRequest(test=test))
        unread.append(dict(dataset.found.unread))
        return {name: list(split.names) for name, split in dataset.splits.items()}

    unread: list[dict[str, int]] = []
    parts = ("train", "train", "val", "val", "test", "test")
    train, val, rest = (["0.png", "1.png"], ["2.png", "3.png"], ["4.png", "5.png"])
    assert names(*parts) == {"train": train, "val": val}
    assert names(*parts, test=True) == {"train": train, "val": val, "test": rest}
    assert names(*parts[:2], *parts[:2], *parts[4:]) == {"train": train + val, "val": rest}
    assert unread == [{"test": 2}, {}, {}]
