"""Cases of several pictures and metadata: from the network to page, pictures and tables."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flax_attn.config import Config, make_config
from flax_attn.data.metadata import CaseCells, CategoryScale, MetaScale
from flax_attn.errors import UsageError
from flax_attn.explain import explainer as explainer_module
from flax_attn.explain.cam import grad_cam
from flax_attn.explain.explain_command import _require_single_pictures
from flax_attn.explain.explain_run import explain
from flax_attn.explain.explained import Explained
from flax_attn.explain.explainer import Explainer, Request
from flax_attn.explain.forward import NetworkForward
from flax_attn.explain.maps_figure import draw_explained, is_explained
from flax_attn.explain.measures.faithfulness import Faithfulness
from flax_attn.explain.measures.summary import (
    CONTROL,
    measure,
    summary_lines,
    take_curves,
    with_control,
)
from flax_attn.explain.page import _table, write_page
from flax_attn.explain.photographs import Photographs, with_unknown
from flax_attn.figures import colour_table
from flax_attn.models import abstract_model, build_model, functional
from flax_attn.models.cases import maps_there_by_view
from flax_attn.runs.run_cases import CaseInputs
from tests.helpers.networks import TINY

N, CLASSES = 3, ("cat", "dog")
SETTINGS = {
    **TINY,
    "conv": "exact",  # nothing to compile but by XLA
    "gates": ("pool4",),
    "relation": ("interactive",),
    "view_merge": "attend",
    "view_names": ("first", "clinic"),
    "meta_features": 2,
}


class Shown(NamedTuple):
    config: Config
    network: NetworkForward
    explainer: Explainer
    photographs: Photographs
    found: list[Explained]
    out: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Three cases: the second one lacks its second picture; the first ones' objects are known."""
    config = make_config(SETTINGS)
    structure, shapes, of_stats = abstract_model(config.model, num_classes=2)
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.normal(0, 0.35, a.shape), a.dtype) for n, a in shapes.items()}
    stats = {n: jnp.ones(a.shape, a.dtype) for n, a in of_stats.items()}
    network = NetworkForward(structure, params, stats)
    masks = np.zeros((N, 2, 32, 32), bool)
    masks[:2, 0, 8:20, 4:24] = True
    present = np.array([[True, True], [True, False], [True, True]])
    photographs = Photographs(
        ["a.jpg|A/c.jpg", "b.jpg|", "d.jpg|D.jpg"],
        rng.integers(255, size=(N, 2, 32, 32, 3), dtype=np.uint8),
        np.array([0, 1, 1]),
        masks,
        CaseInputs(rng.normal(size=(N, 2)).astype(np.float32), present),
        CaseCells(("category:sex",), [("f",), ("",), ("<m>",)]),
    )
    explainer, out = Explainer(network, config, CLASSES), tmp_path_factory.mktemp("out")
    found = explain(
        explainer,
        photographs,
        Request(("grad_cam",), ("conv5",)),
        classes=CLASSES,
        title="cases",
        summary="three",
        scale="rank",
        batch_size=2,
        out=out,
    )
    return Shown(config, network, explainer, photographs, found, out)


def test_a_case_has_the_maps_and_weights_of_its_pictures(shown: Shown) -> None:
    images, cases = shown.photographs.images, shown.photographs.cases
    for i, item in enumerate(shown.found):
        twice = np.array([i, i])
        said = shown.explainer._judge(images[twice], np.zeros(2, np.int32), cases.take(twice))
        np.testing.assert_allclose(item.probabilities, said.probabilities[0], rtol=1e-5)
        assert [p is not None for p in item.pictures] == [True, i != 1]
        weights = np.asarray(said.attention["views"])[0, 0]
        network = shown.network.of_cases(*cases.take(twice))
        index = np.full(2, said.probabilities[0].argmax())
        cam = np.asarray(grad_cam(network, images[twice], index, "conv5"))[0]
        for view, (name, picture) in zip((0, 1), item.seen, strict=False):
            assert name == ("first", "clinic")[view]
            np.testing.assert_array_equal(picture.image, images[i, view])
            assert list(picture.maps) == ["Attention on pool4", "Grad-CAM on conv5"]
            expected = np.asarray(said.attention[f"{name} pool4"])[0]
            np.testing.assert_allclose(picture.maps["Attention on pool4"], expected, rtol=1e-5)
            np.testing.assert_allclose(picture.maps["Grad-CAM on conv5"], cam[view], rtol=1e-4)
            assert picture.weight == pytest.approx(weights[view], rel=1e-5)
            assert (picture.mask is not None) == (i < 2 and view == 0)
    first, second = shown.found[0], shown.found[1]
    assert sum(p.weight or 0 for _, p in first.seen) == pytest.approx(1)
    assert second.seen[0][1].weight == pytest.approx(1)
    assert first.cells == {"category:sex": "f"}


def read_page(out: Path) -> dict[str, Any]:
    text = (out / "index.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def test_the_page_shows_every_picture(shown: Shown) -> None:
    page = read_page(shown.out)
    assert [view["name"] for view in page["views"]] == ["first", "clinic"]
    assert page["views"][0]["measures"][0] == "pointing game" and not page["views"][1]["measures"]
    assert [m["name"] for m in page["maps"]] == ["Attention on pool4", "Grad-CAM on conv5"]
    for item, case in zip(shown.found, page["photographs"], strict=True):
        assert [p is None for p in case["pictures"]] == [p is None for p in item.pictures]
        assert all(all(p["maps"]) for p in case["pictures"] if p is not None)
    cells = [case["cells"] for case in page["photographs"]]
    assert cells == ["category:sex f", "category:sex not known", "category:sex <m>"]
    text = (shown.out / "index.html").read_text(encoding="utf-8")
    assert "<m>" not in text and "<caption>first: means" in text
    assert "over n photographs; 1 without a mask left out" in text


def test_the_pictures_have_a_row_for_each_view(shown: Shown) -> None:
    files = sorted(shown.out.glob("*.png"))
    assert [path.name for path in files] == ["001-a_c.png", "002-b.png", "003-d_D.png"]
    for path in files:
        with Image.open(path) as picture:
            # Three columns; two rows, the title and a line of metadata. A missing picture is said.
            assert picture.size == (690, 640 if path.name != "002-b.png" else 397)


def test_views_may_have_maps_of_other_names(shown: Shown, tmp_path: Path) -> None:
    """As under ``rotatory``: a map is shown where there is one, and nowhere else."""
    item = shown.found[0]
    first, clinic = (picture for _, picture in item.seen)
    renamed = {f"{name} after first": value for name, value in clinic.maps.items()}
    both = item._replace(pictures=(first, clinic._replace(maps=renamed)))
    names = [*first.maps, *renamed]
    ranges = dict.fromkeys(names, (0.0, 1.0))
    rest: Any = {"classes": CLASSES, "scale": "shared", "ranges": ranges}
    draw_explained(both, tmp_path / "a.png", **rest)
    assert is_explained(tmp_path / "a.png")
    colours = colour_table()
    write_page(tmp_path / "index.html", [both], title="", summary="", colours=colours, **rest)
    page = read_page(tmp_path)
    assert [kind["name"] for kind in page["maps"]] == names
    there = [[m is not None for m in p["maps"]] for p in page["photographs"][0]["pictures"]]
    assert there == [[True, True, False, False], [False, False, True, True]]


def test_measures_are_of_the_picture_that_has_the_mask(shown: Shown) -> None:
    with open(shown.out / "measures.csv", newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    assert header[:4] == ["name", "picture", "map", "pointing game"]
    maps = ["Attention on pool4", "Grad-CAM on conv5", "Centred Gaussian"]
    assert [row[:3] for row in rows] == [
        [name, "first", kind] for name in ("a.jpg|A/c.jpg", "b.jpg|") for kind in maps
    ]


def test_faithfulness_changes_one_picture_beside_the_others(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, photographs = shown.network, shown.photographs
    places, blank = np.array([0, 2]), np.zeros((2, 32, 32, 3), np.uint8)
    asked = []

    def take(predict: Any, image: Any, maps: Any, index: Any) -> Faithfulness:
        asked.append((image, np.asarray(predict(network.normalize(blank)))))
        return Faithfulness({}, {}, {})

    monkeypatch.setattr(explainer_module, "measure_faithfulness", take)
    seen = [shown.found[0], shown.found[2]]
    maps = {"x": np.zeros((2, 2, 2))}
    take_curves(shown.explainer, seen, maps, view=1, batch_size=2)
    ((image, probabilities),) = asked
    images = photographs.images[places]
    np.testing.assert_array_equal(image, network.normalize(images[:, 1]))
    images[:, 1] = blank
    beside = photographs.cases.take(places)
    expected = shown.explainer._judge(images, np.zeros(2, np.int32), beside).probabilities
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    assert np.abs(probabilities - seen[0].probabilities).max() > 1e-4


def test_a_map_that_a_missing_picture_asks_for_is_none() -> None:
    """Whatever the names of maps tell besides: the class, the head, the relation."""
    settings = {"relation": ("own", "rotatory"), "heads": 2, "per_class": True}
    model = make_config({**SETTINGS, "view_merge": "concat", **settings}).model
    present = np.array([[True, True], [True, False]])
    first, clinic = maps_there_by_view(model, CLASSES, present)
    assert len(first) == len(clinic) == 2 * 2 * 2  # relations, classes, heads
    assert {there.tolist()[1] for there in clinic.values()} == {False}
    for name, there in first.items():
        assert there.tolist() == [True, "after clinic" not in name], name
    assert sum("after clinic" in name for name in first) == 4


def test_maps_that_are_none_enter_no_mean(shown: Shown) -> None:
    """Of the first pictures the second one has no second map; the third case's was zeros."""
    (first, second, third) = (item.seen[0][1] for item in shown.found)
    values = first.maps["Attention on pool4"]
    mask = np.ones((32, 32), bool)
    pictures = [
        one._replace(maps={"a": values, **more}, mask=mask)
        for one, more in ((first, {"b": values}), (second, {}), (third, {"b": values}))
    ]
    maps = with_control(pictures)
    scores = np.arange(2.0)
    taken = Faithfulness(
        {"deletion": np.zeros(1)},
        {"deletion": scores[:, None]},
        dict.fromkeys(("deletion", "insertion", "road"), scores),
    ).spread([0, 2], 3)
    curves = {"a": taken, "b": taken, CONTROL: taken}
    found = measure(pictures, maps, curves)
    assert found is not None and found.without_map == {"b": 1}
    for title, of in found.values["b"].items():
        assert np.isnan(of[1]) and np.isfinite(of[[0, 2]]).all(), title
    assert np.isfinite(found.values["a"]["energy inside"]).all()
    assert "1 without the picture that it is due to left out of 'b'" in next(summary_lines(found))
    # Names of views come from a table's header.
    assert "<i>" not in _table(found._replace(without_map={"<i>": 1}), "")


def test_curves_are_taken_where_there_is_a_map(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def take(maps: Any, images: Any, index: Any, **rest: Any) -> Faithfulness:
        asked.append((len(maps), rest["cases"].present[:, 1].tolist()))
        return Faithfulness({}, {}, {"road": np.ones(len(maps))})

    monkeypatch.setattr(shown.explainer, "faithfulness", take)
    values = np.ones((3, 2, 2), np.float32)
    values[1] = np.nan
    found = take_curves(shown.explainer, shown.found, {"b": values}, batch_size=2)
    assert asked == [(2, [True, True])]
    np.testing.assert_array_equal(found["b"].scores["road"], [1, np.nan, 1])


def test_the_explained_case_lacks_the_map_that_its_missing_picture_asks_for() -> None:
    settings = {**SETTINGS, "relation": ("rotatory",), "view_merge": "concat"}
    config = make_config(settings)
    structure, params, stats = functional.split(build_model(config.model, num_classes=2))
    rng = np.random.default_rng(1)
    present = np.array([[True, True], [True, False]])
    photographs = Photographs(
        ["a|A", "b|"],
        rng.integers(255, size=(2, 2, 32, 32, 3), dtype=np.uint8),
        None,
        cases=CaseInputs(np.zeros((2, 2), np.float32), present),
    )
    explainer = Explainer(NetworkForward(structure, params, stats), config, CLASSES)
    whole, single = explainer.explain(photographs, Request((), ()), batch_size=2)
    assert whole.truth is None and whole.loss is None
    assert [list(p.maps) for _, p in whole.seen] == [
        ["Attention on pool4 after clinic"],
        ["Attention on pool4"],
    ]
    assert [list(p.maps) for _, p in single.seen] == [[]]


def test_photographs_by_themselves_are_no_case_of_several() -> None:
    run: Any = SimpleNamespace(config=make_config(SETTINGS))
    with pytest.raises(UsageError) as raised:
        _require_single_pictures(run)
    assert str(raised.value) == (
        "--images takes photographs by themselves, and a case of this run has the pictures "
        "'first', 'clinic': name them in a table, and give --dataset labelled_csv --data-dir "
        "FOLDER --split all"
    )


def test_metadata_of_photographs_are_not_known(caplog: pytest.LogCaptureFixture) -> None:
    metadata = MetaScale((CategoryScale("category:sex", ("f", "m")),))
    bare = Photographs(["a", "b"], np.zeros((2, 8, 8, 3), np.uint8), None)
    with caplog.at_level("WARNING"):
        found = with_unknown(bare, metadata)
    np.testing.assert_array_equal(found.cases.meta, np.zeros((2, 2)))
    assert found.cases.present is None and found.cells_of(1) == {"category:sex": ""}
    assert [r.message for r in caplog.records] == [
        "metadata of photographs are not known: category:sex count as empty cells"
    ]
