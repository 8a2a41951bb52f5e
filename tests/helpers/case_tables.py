"""Folders with a table of cases: some pictures each, and metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flax_attn.config import DataConfig
from flax_attn.data import Dataset, Quarantine, open_dataset
from tests.helpers.image_folders import put_image

# A photograph of each case, and for most a second one; the last two cases share theirs.
HEADER = "name,name:clinic,number:age,category:sex,class,split"
ROWS = (
    "a.jpg,A.jpg,30,f,cat,train",
    "b.jpg,,50,m,dog,train",
    "c.jpg,C.jpg,,f,cat,train",
    "d.jpg,D.jpg,40,,dog,train",
    "e.jpg,E.jpg,35,m,cat,val",
    "f.jpg,E.jpg,45,x,dog,val",
)


def put_cases(root: Path, rows: Sequence[str] = ROWS, header: str = HEADER) -> Path:
    """Writes the table, and every picture that it names, each of other pixels."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    names = {cell for row in rows for cell in row.split(",") if cell.endswith(".jpg")}
    for number, name in enumerate(sorted(names)):
        put_image(root / name, number)
    return root


def open_cases(root: Path, quarantine: Quarantine | None = None, **settings: object) -> Dataset:
    config = DataConfig(
        **{  # type: ignore[arg-type]
            "dataset": "labelled_csv",
            "data_dir": str(root),
            "image_size": 32,
            "val_fraction": 0.4,
            **settings,
        }
    )
    return open_dataset(config, quarantine)
