"""Tables with groups: what belongs together is on one side of a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data.dataset import Dataset, OpenRequest
from flax_attn.data.sets.labelled_csv import open_set
from flax_attn.errors import DataError


def open_rows(root: Path, header: str, rows: Sequence[str], **settings: object) -> Dataset:
    """Opens images of the numbers 0, 1, … beside a table with these rows after their names."""
    for i in range(len(rows)):
        if not (root / f"{i}.png").exists():
            Image.new("RGB", (9, 8), (i, 0, 0)).save(root / f"{i}.png")
    lines = [f"name,{header}", *(f"{i}.png,{row}" for i, row in enumerate(rows))]
    (root / "labels.csv").write_text("\n".join(lines))
    config = DataConfig(dataset="labelled_csv", data_dir=str(root), image_size=8, **settings)  # type: ignore[arg-type]
    return open_set(config, OpenRequest())


def sides(dataset: Dataset) -> dict[int, str]:
    """The split of each number."""
    return {int(name[:-4]): split for split, part in dataset.splits.items() for name in part.names}


@pytest.mark.parametrize("header", ["class,patient_id", "labels,patient_id"])
def test_a_patient_is_on_one_side(header: str, tmp_path: Path) -> None:
    """Of one class each and of several labels."""
    rng = np.random.default_rng(3)
    patients = [f"p{rng.integers(12)}" for _ in range(30)]
    several = header.startswith("labels")
    labels = ["cat|dog" if several and i == 0 else ("cat", "dog")[i % 2] for i in range(30)]
    rows = [f"{label},{patient}" for label, patient in zip(labels, patients, strict=True)]
    alone = sides(open_rows(tmp_path, header.split(",")[0], labels))
    found = sides(open_rows(tmp_path, header, rows))
    assert set(found.values()) == {"train", "val"}
    for patient in set(patients):
        assert len({found[i] for i, other in enumerate(patients) if other == patient}) == 1
    # Patients come apart where the table does not name them.
    assert any(
        len({alone[i] for i, other in enumerate(patients) if other == patient}) == 2
        for patient in set(patients)
    )


def test_a_copy_joins_the_groups_of_both(tmp_path: Path) -> None:
    rows = [
        f"{'cat' if i < 6 else 'dog'},{('a', 'b', 'c', 'd', 'e', 'f')[i // 2]}" for i in range(12)
    ]
    open_rows(tmp_path, "class,group", rows)
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    for val_fraction in (0.1, 0.3, 0.5, 0.7):
        found = sides(open_rows(tmp_path, "class,group", rows, val_fraction=val_fraction))
        assert found[0] == found[1] == found[2] == found[3]
        assert len(set(found.values())) == 2


def refusal(root: Path, header: str, rows: Sequence[str]) -> str:
    with pytest.raises(DataError) as caught:
        open_rows(root, header, rows)
    line = str(caught.value)
    assert caught.value.exit_code == 3 and "\n" not in line and "labels.csv" in line
    return line


def test_a_group_that_the_table_puts_on_two_sides_is_refused(tmp_path: Path) -> None:
    rows = ["cat,train,p1", "dog,train,p2", "cat,val,p1", "dog,val,p3"]
    line = refusal(tmp_path, "class,split,patient_id", rows)
    assert (
        "patient_id 'p1' is in train (line 2, '0.png') and in val (line 4, '2.png'): give" in line
    )
    both = refusal(tmp_path, "class,split,patient_id", [*rows, "cat,test,p2"])
    assert "and 1 more group on two sides" in both
    # The same two words in two columns are two groups.
    fine = ["cat,train,p1,", "dog,train,p2,", "cat,val,,p1", "dog,val,p3,p2"]
    found = sides(open_rows(tmp_path, "class,split,patient_id,lesion_id", fine))
    assert found == {0: "train", 1: "train", 2: "val", 3: "val"}


def test_groups_that_cannot_be_divided_are_refused(tmp_path: Path) -> None:
    line = refusal(tmp_path, "class,group", ["cat,a", "dog,a", "cat,a", "dog,a"])
    assert "'cat' cannot be divided" in line and "or a column 'split'" in line
    several = refusal(tmp_path, "labels,group", ["cat|dog,a", "dog,a", "cat,a", "dog,a"])
    assert "cannot be divided" in several and "or a column 'split'" in several
