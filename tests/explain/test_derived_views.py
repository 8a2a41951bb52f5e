"""Views of single pictures: each map beside its own view, and the views' weights for programs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import make_config
from flax_attn.errors import UsageError
from flax_attn.explain.explainer import Explainer, Request
from flax_attn.explain.photographs import Photographs
from flax_attn.explain.trained_run import load
from flax_attn.models.derived import shown_views
from flax_attn.porting.export.export_run import export_run
from flax_attn.runs.directory import Run
from flax_attn.system import cli
from tests.helpers.networks import TINY
from tests.helpers.saved_runs import saved_run

SIDE, NAMES = 32, ["crop1-1", "crop1-2", "crop2-1", "crop2-2"]
SETTINGS = {
    **TINY,
    "conv": "exact",  # nothing to compile but by XLA
    "gates": ("pool4",),
    "views": "crops:2",
    "view_merge": "attend",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("derived")
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    (folder / "images").mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / "images" / f"{i}.png")
    row = {"train": {}, "val": {"loss": 1.0, "accuracy": 0.5, "roc_auc": 0.5}}
    saved_run(folder / "run", make_config(SETTINGS), {}, row=row)
    return folder / "run"


def test_prediction_has_a_map_for_each_view_and_their_weights(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = run.parent / "images"
    out = tmp_path / "table.csv"
    flags = ["--json", "--maps", "png", "--out", str(out)]
    assert cli.main(["predict", str(run), str(images), *flags]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = load(run).predict(sorted(images.iterdir()))
    assert found.weights is not None
    assert list(found.attention) == [f"{name} pool4" for name in NAMES]
    for line, weights in zip(said, found.weights, strict=True):
        assert list(line["views"]) == NAMES
        np.testing.assert_allclose(list(line["views"].values()), weights, atol=1e-5)
        assert sum(weights) == pytest.approx(1, abs=1e-5)
    with Image.open(next(iter(sorted((tmp_path / "table-maps").glob("*.png"))))) as picture:
        assert picture.size == (SIDE * (1 + len(NAMES)), SIDE)


def test_an_explanation_lays_maps_over_their_views(run: Path, tmp_path: Path) -> None:
    images, out = run.parent / "images", tmp_path / "out"
    flags = ["--methods", "grad_cam", "--out", str(out)]
    argv = ["explain", "--workdir", str(run), "--images", str(images), "--stages", "conv5"]
    assert cli.main([*argv, *flags, "--faithfulness"]) == 0
    with open(out / "views.csv", newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["name", *NAMES]
    expected = load(run).predict(sorted(images.iterdir())).weights
    assert expected is not None
    np.testing.assert_allclose(np.array([row[1:] for row in rows], float), expected, atol=1e-5)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert all(f'"name": "{name}"' in page or f'"name":"{name}"' in page for name in NAMES)


def test_pictures_of_an_explanation_are_the_views(run: Path) -> None:
    loaded = load(run)
    pixels = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    masks = np.zeros((3, SIDE, SIDE), bool)
    masks[0, :8, 24:] = True
    explainer = Explainer(loaded.network, loaded.config, loaded.classes)
    photographs = Photographs(["a", "b", "c"], pixels, None, masks)
    found = list(explainer.explain(photographs, Request((), ()), batch_size=2))
    views = shown_views("crops:2", pixels)
    for i, item in enumerate(found):
        assert item.views == tuple(NAMES) and len(item.seen) == len(NAMES)
        for view, (_, picture) in enumerate(item.seen):
            # Of another batch size; what lies halfway between two bytes may be rounded to either.
            apart = np.abs(picture.image.astype(int) - views[i, view])
            assert apart.max() <= 1 and (apart > 0).mean() < 0.01
            assert list(picture.maps) == ["Attention on pool4"]
            assert (picture.mask is not None) == (i == 0 and view == 1)


def test_the_page_of_an_export_is_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        export_run(
            Run.load(run),
            None,  # type: ignore[arg-type]
            workdir=run,
            out=tmp_path / "out",
            formats=["page"],
        )
    assert str(caught.value) == (
        "the page shows maps over the photograph, and this network has maps of its --views "
        "crops:2: leave page out of --export-formats"
    )
