"""What a grid varies: the combinations that are typed, and which of them are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from flax_attn.config import Config
from flax_attn.errors import UsageError
from flax_attn.studies.ablate import ablate_command as ablate
from flax_attn.studies.ablate.axes import AXES, Combination, take_grid
from flax_attn.studies.ablate.grid import check_grid
from flax_attn.system import cli
from tests.helpers.case_tables import put_cases
from tests.helpers.image_folders import put_image
from tests.helpers.networks import TINY, flags_of

TWO = Config().updated(view_names=("first", "clinic"))


def typed(**given: list[str]) -> dict[str, list[str]]:
    one = {axis.flag: list(axis.chosen[:1]) for axis in AXES.values()}
    return {**one, **given}


def test_every_axis_is_a_field_and_its_default_is_the_settings() -> None:
    assert tuple(AXES) == Combination._fields
    assert Combination("gate", "sigmoid").of(Config()) == Config()


def test_a_grid_has_every_combination_once() -> None:
    grid = take_grid(
        typed(
            scores=["gate", "dot", "gate"],
            relations=["own", "interactive+parallel"],
            view_merges=["concat", "attend"],
            queries=["default", "none", "guide+learned"],
        )
    )
    assert len(grid) == len(set(grid)) == 2 * 2 * 2 * 3
    model = grid[-1].of(TWO).model
    assert (model.score, model.relation) == ("dot", ("interactive", "parallel"))
    assert (model.query, model.view_merge) == (("guide", "learned"), "attend")
    assert {cell.of(TWO).model.query for cell in grid if cell.query == "default"} == {None}
    assert {cell.of(TWO).model.query for cell in grid if cell.query == "none"} == {("none",)}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"relation": "interactive"}, "--relations interactive needs cases of several pictures"),
        ({"view_merge": "attend"}, "--view-merges attend needs cases of several pictures"),
        ({"query": "meta"}, "--queries meta needs cases with metadata"),
        ({"score": "dot", "query": "none"}, "leaves --scores dot without anything"),
    ],
    ids=["relation", "view merge", "metadata", "score without a query"],
)
def test_a_combination_that_cannot_be_is_named_by_the_flags_of_the_command(
    given: dict[str, str], says: str
) -> None:
    grid = [Combination(**{"score": "gate", "norm": "sigmoid", **given})]
    with pytest.raises(UsageError) as refused:
        check_grid(grid, Config(), cases_known=True)
    assert says in str(refused.value)
    if "query" not in given:
        check_grid(grid, TWO, cases_known=True)


class Reached(Exception):
    """The command has come to its weights."""


@pytest.mark.parametrize("pictures", [1, 2])
def test_relations_need_a_table_of_cases_and_are_refused_before_weights_are_fetched(
    pictures: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "data"
    if pictures == 2:
        put_cases(root)
    else:
        rows = [f"{name}.jpg,{label}" for name, label in zip("abcd", ("x", "y") * 2, strict=True)]
        for number, row in enumerate(rows):
            put_image(root / row.split(",")[0], number)
        (root / "labels.csv").write_text("\n".join(["name,class", *rows]) + "\n")

    def reached(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(ablate, "resolve_initial", reached)
    monkeypatch.chdir(tmp_path)
    small = {**TINY, "freeze_backbone": True, "weights": "imagenet", "val_fraction": 0.5}
    places = ["--dataset", "labelled_csv", "--data-dir", str(root), "--out", "out"]
    argv = [*flags_of(small), *places, "--relations", "own", "parallel"]
    if pictures == 2:
        with pytest.raises(Reached):
            cli.run(ablate.main, argv)
        return
    assert cli.run(ablate.main, argv) == 2
    said = capsys.readouterr().err
    assert said == (
        "error: --relations parallel needs cases of several pictures, but here each has one: "
        "choose --relations own, or make views of it by --views\n"
    )
