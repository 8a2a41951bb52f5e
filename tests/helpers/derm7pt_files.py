"""The release of the seven-point checklist set in small, with tiny pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.helpers.image_folders import put_image

# As in the release; the criteria and what the authors noted are not read.
HEADER = (
    "case_num,diagnosis,seven_point_score,pigment_network,streaks,pigmentation,"
    "regression_structures,dots_and_globules,blue_whitish_veil,vascular_structures,"
    "level_of_diagnostic_difficulty,elevation,location,sex,management,clinic,derm,case_id,notes"
)
# Diagnosis, elevation, location, sex, clinical and dermoscopic photograph; cases count from 1.
CASES = (
    ("basal cell carcinoma", "nodular", "abdomen", "female", "NEL/NEL025.JPG", "NEL/Nel026.jpg"),
    ("blue nevus", "palpable", "head neck", "male", "NEL/NEL027.JPG", "NEL/Nel028.jpg"),
    ("melanoma (in situ)", "flat", "back", "female", "Gzl/gzl01.jpg", "Gzl/gzl02.jpg"),
    ("melanoma metastasis", "flat", "", "male", "Gzl/gzl03.jpg", "Gzl/gzl04.jpg"),
    ("vascular lesion", "flat", "acral", "female", "", "Gzl/gzl06.jpg"),
    ("seborrheic keratosis", "palpable", "chest", "male", "FAL/Fal01.jpg", "FAL/Fal02.jpg"),
    ("melanoma", "nodular", "back", "male", "FAL/Fal03.jpg", "FAL/Fal04.jpg"),
    ("clark nevus", "flat", "back", "female", "FAL/Fal05.jpg", "FAL/Fal06.jpg"),
)
FILES = {"train": "train_indexes.csv", "val": "valid_indexes.csv", "test": "test_indexes.csv"}
# Numbers of rows, from 0.
PARTS = {"train": (2, 0, 1, 4), "val": (3, 5), "test": (6, 7)}


def put_release(
    root: Path,
    cases: Sequence[Sequence[str]] = CASES,
    parts: Mapping[str, Sequence[int]] = PARTS,
    *,
    images: bool = True,
) -> Path:
    """Writes the tables, and each photograph that they name where ``images``."""
    rows = [
        f"{number},{diagnosis},1,absent,absent,absent,absent,absent,absent,absent,low,{elevation},"
        f"{location},{sex},excision,{clinic},{derm},,"
        for number, (diagnosis, elevation, location, sex, clinic, derm) in enumerate(cases, 1)
    ]
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta/meta.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    for part, indexes in parts.items():
        text = "\n".join(["indexes", *map(str, indexes)]) + "\n"
        (root / "meta" / FILES[part]).write_text(text)
    if images:
        names = [name for case in cases for name in case[4:] if name]
        for number, name in enumerate(names):
            put_image(root / "images" / name, number)
    return root
