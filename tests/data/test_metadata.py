"""What the cells of metadata become, and that the training part alone decides it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flax_attn.data.case_split import metadata_of
from flax_attn.data.metadata import (
    CaseCells,
    CategoryScale,
    MetaScale,
    NumberScale,
    measure_scale,
    parse_number,
)
from flax_attn.errors import DataError
from tests.helpers.case_tables import ROWS, open_cases, put_cases

COLUMNS = ("number:age", "category:sex")
TRAINING = CaseCells(COLUMNS, [("30", "m"), ("50", "f"), ("", "m"), ("40", ""), ("30", "é")])


def scale_of(cells: CaseCells = TRAINING) -> MetaScale:
    scale = measure_scale(cells)
    assert scale is not None
    return scale


def test_features_are_those_of_the_formulas() -> None:
    scale = scale_of()
    assert scale.features == (
        *("number:age", "number:age not known"),
        *("category:sex f", "category:sex m", "category:sex é"),
    )
    known = [30.0, 50.0, 40.0, 30.0]
    mean = sum(known) / 4
    deviation = math.sqrt(sum((x - mean) ** 2 for x in known) / 4)
    expected = np.zeros((5, 5))
    for row, (age, sex) in zip(expected, TRAINING.rows, strict=True):
        row[:2] = ((float(age) - mean) / deviation, 0) if age else (0, 1)
        row[2:] = [sex == value for value in ("f", "m", "é")]
    got = scale.encode(TRAINING)
    assert got.dtype == np.float32
    # Three roundings of float64 and one to float32, of values up to two deviations.
    np.testing.assert_allclose(got, expected, rtol=0, atol=2 * 2.0**-23)


def test_the_order_of_cases_decides_no_bit() -> None:
    rng = random.Random(0)
    cells = [(f"{rng.uniform(-1e6, 1e-3):.9g}", rng.choice("abc")) for _ in range(200)]
    one = scale_of(CaseCells(COLUMNS, cells))
    rng.shuffle(cells)
    assert scale_of(CaseCells(COLUMNS, cells)) == one


def test_columns_are_found_by_their_headers() -> None:
    """Another table may have them in another order, and others beside."""
    turned = CaseCells(
        ("category:site", *COLUMNS[::-1]), [("x", sex, age) for age, sex in TRAINING.rows]
    )
    np.testing.assert_array_equal(scale_of().encode(turned), scale_of().encode(TRAINING))


def test_what_is_not_known_or_was_never_seen_is_no_value() -> None:
    scale = scale_of()
    cells = CaseCells(COLUMNS, [("", ""), ("40", "other"), ("40", " m "), ("", "e\u0301")])
    values = scale.encode(cells)
    assert values[:, 1].tolist() == [1, 0, 0, 1]
    assert values[:, 2:].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    np.testing.assert_array_equal(scale.unknown(2), values[[0, 0]])
    assert scale.describe_unseen(cells) == "category:sex 'other' (1 case)"
    assert scale.describe_unseen(TRAINING) is None


def test_a_scale_is_plain_values_and_back() -> None:
    scale = scale_of()
    assert MetaScale.from_json(scale.to_json()) == scale
    np.testing.assert_array_equal(
        MetaScale.from_json(scale.to_json()).encode(TRAINING), scale.encode(TRAINING)
    )


@pytest.mark.parametrize(
    "values",
    [
        {"column": "number:age", "mean": 1.0, "deviation": 0.0},
        {"column": "number:age", "mean": math.nan, "deviation": 1.0},
        {"column": "number:age", "values": ["a"]},
        {"column": "category:sex", "values": []},
        {"column": "category:sex", "values": ["b", "a"]},
        {"column": "age", "values": ["a"]},
        {"mean": 1.0, "deviation": 1.0},
    ],
    ids=lambda value: " ".join(map(str, value.values())),
)
def test_a_damaged_scale_is_refused(values: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        MetaScale.from_json([values])


@pytest.mark.parametrize("part", ["val", "test"])
def test_rows_that_are_not_trained_on_decide_nothing(tmp_path: Path, part: str) -> None:
    """Neither numbers nor values of the others reach the scale."""
    rows = [row.replace(",val", f",{part}") if part == "test" else row for row in ROWS]
    rows += ["g.jpg,,44,f,cat,val"] if part == "test" else []
    scales = []
    for number, other in enumerate(("45,x", "-1e9,yet another")):
        root = put_cases(tmp_path / str(number), [row.replace("45,x", other) for row in rows])
        scales.append(scale_of(metadata_of(open_cases(root).splits["train"])))
    assert scales[0] == scales[1]
    assert scales[0].columns[1] == CategoryScale("category:sex", ("f", "m"))
    # Otherwise the test would hold of a scale that looks at nothing.
    changed = put_cases(tmp_path / "train", [row.replace("50,m", "51,m") for row in rows])
    assert scale_of(metadata_of(open_cases(changed).splits["train"])) != scales[0]


@pytest.mark.parametrize(
    "cell, number",
    {
        "": None,
        "  ": None,
        "41.5": 41.5,
        " -3 ": -3.0,
        "+1e3": 1000.0,
        ".5": 0.5,
        "2.": 2.0,
    }.items(),
)
def test_cells_that_are_numbers(cell: str, number: float | None) -> None:
    assert parse_number(cell) == number


@pytest.mark.parametrize(
    "cell",
    ["nan", "NaN", "inf", "-Infinity", "1e400", "1e31", "old", "1,5", "1_0", "٣", "0x1", "1 2"],
)
def test_cells_that_are_no_numbers(cell: str) -> None:
    with pytest.raises(ValueError, match="expected a number such as 41.5"):
        parse_number(cell)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no number at all": (
        lambda: measure_scale(CaseCells(("number:age",), [("",), (" ",)])),
        "column 'number:age' is empty in all of the training part: remove it",
    ),
    "no value at all": (
        lambda: measure_scale(CaseCells(("category:sex",), [("",)])),
        "column 'category:sex' is empty in all of the training part: remove it",
    ),
    # Whose rounded mean is another number.
    "one number": (
        lambda: measure_scale(CaseCells(("number:age",), [("0.1",)] * 3 + [("",)])),
        "column 'number:age' is 0.1 in all of the training part",
    ),
    "a column less": (
        lambda: scale_of().encode(CaseCells(("category:sex", "number:size"), [("m", "1")])),
        "the run reads metadata from 'number:age', 'category:sex', and 'number:age' is missing: "
        "the table has 'category:sex', 'number:size': add the column; cells may be empty",
    ),
    "no columns": (
        lambda: scale_of().encode(CaseCells((), [()])),
        "'number:age', 'category:sex' are missing: the table has none: add the columns",
    ),
    "a number far away": (
        lambda: MetaScale((NumberScale("number:age", 1.0, 1e-20),)).encode(
            CaseCells(("number:age",), [("1e30",)])
        ),
        "number:age is 1e+30, 1e+50 deviations from the mean of the training part, 1",
    ),
}


@pytest.mark.parametrize("act, words", REFUSED.values(), ids=REFUSED)
def test_metadata_that_cannot_be_used_is_refused_in_one_line(
    act: Callable[[], object], words: str
) -> None:
    with pytest.raises(DataError) as caught:
        act()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_no_columns_have_no_scale() -> None:
    assert measure_scale(CaseCells((), [()] * 3)) is None
