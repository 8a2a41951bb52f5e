"""Cases of several pictures: a flat list of images, each handled once, and what a case shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data import Quarantine, Sampler, Split, batches, manifest, open_split
from flax_attn.data.case_split import metadata_of, presence_of
from flax_attn.data.dataset import form_of, photographs_of
from flax_attn.data.quarantine import read_entries
from flax_attn.data.views import Subset, concatenate, uncut
from flax_attn.errors import DataError
from tests.helpers.case_tables import HEADER, ROWS, open_cases, put_cases
from tests.helpers.image_folders import put_image


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts how often each file is decoded."""
    counts: Counter[str] = Counter()
    decode = manifest.decode

    def counted(source: Path, **options: object) -> object:
        counts[source.name] += 1
        return decode(source, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "decode", counted)
        yield counts


def flat_images(split: Split) -> dict[str, np.ndarray]:
    flat, _ = photographs_of(split)
    return {name: flat.image(i) for i, name in enumerate(flat.names)}


def test_a_case_shows_the_pictures_of_its_row(tmp_path: Path) -> None:
    dataset = open_cases(put_cases(tmp_path))
    assert dataset.classes == ("cat", "dog")
    for name, split in dataset.splits.items():
        rows = [row.split(",") for row in ROWS if row.endswith(name)]
        assert form_of(split).views == ("first", "clinic")
        assert list(split.names) == [f"{row[0]}|{row[1]}" for row in rows]
        assert [dataset.classes[i] for i in split.labels] == [row[4] for row in rows]
        assert metadata_of(split).rows == [tuple(row[2:4]) for row in rows]
        images, present = flat_images(split), presence_of(split)
        assert present is not None and present.tolist() == [[True, bool(row[1])] for row in rows]
        for i, row in enumerate(rows):
            # A picture that is missing is the first one again, under a mask.
            expected = [images[row[0]], images[row[1] or row[0]]]
            np.testing.assert_array_equal(split.image(i), expected)


def test_batches_have_an_axis_for_the_pictures(tmp_path: Path) -> None:
    split = open_cases(put_cases(tmp_path)).splits["train"]
    found = list(batches(split, Sampler(3, seed=1, shuffle=True)))
    assert [batch.image.shape for batch in found] == [(3, 2, 32, 32, 3)] * 2
    assert [batch.mask.tolist() for batch in found] == [[True] * 3, [True, False, False]]
    for batch in found:
        for image, index in zip(batch.image, batch.index, strict=True):
            np.testing.assert_array_equal(image, split.image(int(index)))


def test_a_picture_of_several_cases_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = put_cases(tmp_path / "data")
    with counting(monkeypatch) as counts:
        dataset = open_cases(root)
    assert set(counts.values()) == {1} and counts["E.jpg"] == 1
    flat, places = photographs_of(dataset.splits["val"])
    assert list(flat.names) == ["E.jpg", "e.jpg", "f.jpg"]
    assert places.tolist() == [[1, 0], [2, 0]]


def test_metadata_alone_leave_images_as_they_are(tmp_path: Path) -> None:
    """Features of a frozen backbone are found whatever a cell says; the run's images are others."""
    rows = [f"{i}.jpg,{30 + i},{'cat' if i % 2 else 'dog'}" for i in range(6)]
    with_age = open_cases(put_cases(tmp_path / "a", rows, "name,number:age,class"))
    plain_rows = [",".join(row.split(",")[::2]) for row in rows]
    plain = open_cases(put_cases(tmp_path / "b", plain_rows, "name,class"))
    changed = open_cases(
        put_cases(
            tmp_path / "c", [row.replace("30,", "31,") for row in rows], "name,number:age,class"
        )
    )
    for name in ("train", "val"):
        one, other, third = (d.splits[name] for d in (with_age, plain, changed))
        assert list(one.names) == list(other.names)
        assert one.image(0).shape == (32, 32, 3) and presence_of(one) is None
        assert photographs_of(one)[0].fingerprint == other.fingerprint != one.fingerprint
        assert photographs_of(third)[0].fingerprint == other.fingerprint
    assert with_age.splits["train"].fingerprint != changed.splits["train"].fingerprint or (
        with_age.splits["val"].fingerprint != changed.splits["val"].fingerprint
    )
    assert photographs_of(plain.splits["train"])[0] is plain.splits["train"]


# Splitting


def shared(root: Path) -> list[str]:
    """Cases that hang together: by a picture (0, 1), by a copy (1, 2), by a group (2, 3)."""
    rows = [f"{i}.jpg,{i}b.jpg,,{'cat' if i % 2 else 'dog'}" for i in range(14)]
    rows[1] = "1.jpg,0b.jpg,,cat"
    rows[2] = "2.jpg,2b.jpg,p,dog"
    rows[3] = "3.jpg,3b.jpg,p,cat"
    put_cases(root, rows, "name,name:x,group:patient,class")
    (root / "2b.jpg").write_bytes((root / "1.jpg").read_bytes())
    return rows


def test_cases_that_share_a_picture_or_a_group_stay_together(tmp_path: Path) -> None:
    for share in (0.15, 0.3, 0.5, 0.7):
        shared(tmp_path)
        dataset = open_cases(tmp_path, val_fraction=share)
        side = {
            case.split("|")[0]: name
            for name, split in dataset.splits.items()
            for case in split.names
        }
        assert len(side) == 14 and len({side[f"{i}.jpg"] for i in range(4)}) == 1
        digests = [
            {manifest.digest_file(tmp_path / name) for name in photographs_of(split)[0].names}
            for split in dataset.splits.values()
        ]
        assert not digests[0] & digests[1]


def test_one_picture_on_two_sides_of_a_given_split_is_refused(tmp_path: Path) -> None:
    rows = [*ROWS[:-1], "f.jpg,A.jpg,45,x,dog,val"]
    with pytest.raises(DataError) as caught:
        open_cases(put_cases(tmp_path, rows))
    assert str(caught.value) == (
        f"'{tmp_path}/labels.csv': picture 'A.jpg' is in train (line 2, 'a.jpg') and in val "
        "(line 7, 'f.jpg'): give a group one split, or remove the column 'split'"
    )


# Pictures that cannot be used


def test_a_picture_that_cannot_be_decoded_is_no_missing_one(tmp_path: Path) -> None:
    root = put_cases(tmp_path)
    (root / "C.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="1 unusable image.*C.jpg"):
        open_cases(root)
    train = open_cases(root, Quarantine("quarantine")).splits["train"]
    assert list(train.names) == ["a.jpg|A.jpg", "b.jpg|", "d.jpg|D.jpg"]
    present = presence_of(train)
    assert present is not None and present[:, 1].tolist() == [True, False, True]
    assert [row[0] for row in metadata_of(train).rows] == ["30", "50", "40"]


def test_a_class_without_a_whole_case_is_refused(tmp_path: Path) -> None:
    root = put_cases(tmp_path)
    for name in ("A.jpg", "C.jpg"):
        (root / name).write_bytes(b"no image")
    with pytest.raises(DataError, match="no whole case of class 'cat' is left of 'train'"):
        open_cases(root, Quarantine("quarantine"))


def test_a_class_that_a_shared_picture_belongs_to_is_left(tmp_path: Path) -> None:
    """Both of a picture's cases count, whichever class the first of them has."""
    rows = ("a.jpg,A.jpg,cat,train", "b.jpg,B.jpg,cat,train", "c.jpg,C.jpg,dog,train",
            "a.jpg,C.jpg,dog,train", "a.jpg,B.jpg,dog,train", "d.jpg,D.jpg,cat,val",
            "f.jpg,E.jpg,dog,val")  # fmt: skip
    root = put_cases(tmp_path, rows, "name,name:clinic,class,split")
    (root / "C.jpg").write_bytes(b"no image")
    (root / "c.jpg").write_bytes(b"no image")
    train = open_cases(root, Quarantine("quarantine")).splits["train"]
    found = dict(zip(train.names, train.labels.tolist(), strict=True))
    assert found == {"a.jpg|A.jpg": 0, "b.jpg|B.jpg": 0, "a.jpg|B.jpg": 1}


def test_a_lost_picture_sets_the_case_aside_under_another_of_its_labels(tmp_path: Path) -> None:
    root = put_cases(tmp_path / "data")
    quarantine = Quarantine("quarantine")
    train = open_cases(root, quarantine).splits["train"]
    quarantine.keep_in(tmp_path / "quarantine.json")
    (root / "A.jpg").unlink()
    (batch,) = batches(train, Sampler(4))
    assert batch.index.tolist() == [2, 1, 2, 3] and batch.mask.tolist() == [False, True, True, True]
    np.testing.assert_array_equal(batch.image[0], batch.image[2])
    assert [entry.path for entry in read_entries(tmp_path / "quarantine.json")] == ["A.jpg"]
    (root / "C.jpg").unlink()
    (batch,) = batches(train, Sampler(4))
    assert batch.index.tolist() == [1, 1, 3, 3]  # no other case of their class is whole


def test_a_view_that_no_training_case_has_is_refused(tmp_path: Path) -> None:
    rows = [",".join([row.split(",")[0], "", *row.split(",")[2:]]) for row in ROWS[:4]]
    with pytest.raises(DataError) as caught:
        open_cases(put_cases(tmp_path, [*rows, *ROWS[4:]]))
    assert str(caught.value) == (
        "no training case has a picture 'clinic': fill cells of its column, or remove the column"
    )


# Views of splits of cases


def test_parts_and_joins_of_cases_are_cases(tmp_path: Path) -> None:
    dataset = open_cases(put_cases(tmp_path), crop_margin=8)
    train, val = dataset.splits["train"], dataset.splits["val"]
    assert train.image(0).shape == (2, 32, 32, 3) and uncut(train).image(0).shape == (2, 40, 40, 3)
    part = Subset(train, np.array([3, 1]))
    both = concatenate([part, val])
    assert form_of(both) == form_of(train)
    assert metadata_of(both).rows == [
        *(metadata_of(train).rows[i] for i in (3, 1)),
        *metadata_of(val).rows,
    ]
    flat, places = photographs_of(both)
    assert places.tolist() == [[2, 0], [1, -1], [4, 3], [5, 3]]
    for i, row in enumerate(places.tolist()):
        expected = [flat.image(place if place >= 0 else row[0]) for place in row]
        np.testing.assert_array_equal(both.image(i), expected)


def test_all_cases_can_be_looked_at_at_once(tmp_path: Path) -> None:
    root = put_cases(tmp_path)
    dataset = open_cases(root)
    config = DataConfig(dataset="labelled_csv", data_dir=str(root), image_size=32)
    whole = open_split(config, "all", classes=dataset.classes)
    assert len(whole.labels) == len(ROWS) and form_of(whole).columns == tuple(
        HEADER.split(",")[2:4]
    )


def test_pictures_are_of_their_own_pixels(tmp_path: Path) -> None:
    """The fixture would hide a mix-up if two pictures were alike."""
    root = put_cases(tmp_path)
    put_image(root / "spare.jpg", 99)
    pixels = {Image.open(file).tobytes() for file in root.glob("*.jpg")}
    assert len(pixels) == len(list(root.glob("*.jpg")))
