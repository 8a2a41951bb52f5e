"""A network that makes its views itself is the network of cases with these views."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.config import ModelConfig, parse_views
from flax_attn.models import build_model, functional
from flax_attn.models.calibrate import calibrate
from flax_attn.models.derived import derive_views, place_of_map, shown_masks, shown_views
from flax_attn.ops.images import standardize
from tests.helpers.networks import TINY


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


def config_of(**settings: Any) -> ModelConfig:
    small = {name: TINY[name] for name in ("widths", "depths", "attn_features")}
    return replace(ModelConfig(), conv="exact", gates=("pool4",), **small, **settings)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        pytest.param("scales:2", {"relation": ("interactive",)}, id="views alike share a gate"),
        pytest.param("rgb,edges", {"view_merge": "attend"}, id="named ones have their own"),
        pytest.param("lab", {}, id="a single view"),
    ],
)
def test_it_says_what_the_network_of_such_cases_says(
    images: np.ndarray, text: str, options: dict[str, Any]
) -> None:
    derived = parse_views(text)
    model = build_model(config_of(views=text, **options), num_classes=2)
    names = derived.names if len(derived.names) > 1 else ()
    case = config_of(view_names=names, views_alike=derived.alike, **options)
    other = build_model(case, num_classes=2)
    (_, params, _), (_, expected, _) = functional.split(model), functional.split(other)
    assert {n: a.shape for n, a in params.items()} == {n: a.shape for n, a in expected.items()}
    assert any("view2" in name for name in params) == (len(names) > 1 and not derived.alike)
    cut = standardize(derive_views(images, derived))
    said = model(model.normalize(images), train=False)
    of_cases = other(cut if names else cut[:, 0], train=False)
    np.testing.assert_allclose(said.logits, of_cases.logits, rtol=1e-5, atol=1e-6)
    assert said.attention.keys() == of_cases.attention.keys()


def test_views_that_are_there_already_are_not_made_again(images: np.ndarray) -> None:
    model = build_model(config_of(views="scales:2"), num_classes=2)
    twice = np.stack([images, images], axis=1)
    np.testing.assert_array_equal(
        np.asarray(model.normalize(twice))[:, 1], np.asarray(model.backbone.normalize(images))
    )
    with pytest.raises(TypeError):
        model.normalize(jnp.zeros((1, 32, 32, 3)))  # type: ignore[arg-type]


def test_what_is_shown_are_the_views_in_bytes(images: np.ndarray) -> None:
    exact = np.asarray(derive_views(images, parse_views("crops:2")))
    shown = shown_views("crops:2", images)
    assert shown.dtype == np.uint8 and np.abs(shown - exact).max() <= 0.5 + 1e-3
    assert shown_views(None, images) is images
    mask = np.zeros((1, 32, 32), bool)
    mask[0, :8, 24:] = True
    (found,) = shown_masks("crops:2", mask)
    # A window of 2 / 3 of the side: 8 pixels become 12, at its far corner.
    expected = [found[view].sum() for view in range(4)]
    assert expected[0] == 0 and expected[2:] == [0, 0] and found[1][:12, 20:].all()
    assert expected[1] == 12 * 12


@pytest.mark.parametrize(
    ("text", "name", "place"),
    [("crops:2", "crop2-1 pool3 cat", 2), ("rgb,lab", "lab pool4 head 2", 1)]
    + [("lab", "pool4", 0), (None, "pool3", 0)],
)
def test_a_map_is_of_the_view_that_its_name_begins_with(
    text: str | None, name: str, place: int
) -> None:
    assert place_of_map(text, name) == place


def test_calibration_is_on_the_views(images: np.ndarray) -> None:
    model = build_model(config_of(views="scales:2"), num_classes=2)
    plain = build_model(config_of(), num_classes=2)
    structure, params, stats = functional.split(model)
    of_views = calibrate(structure, params, stats, [images])
    # The views as images of their own; bytes, as calibration takes them.
    shown = shown_views("scales:2", images).reshape(-1, 32, 32, 3)
    backbone = {n: a for n, a in params.items() if n.startswith("backbone")}
    structure, others, stats = functional.split(plain)
    expected = calibrate(structure, {**others, **backbone}, stats, [shown])
    for name, array in expected[1].items():
        # Half a grey value more or less at a pixel, of deviations near 60.
        np.testing.assert_allclose(of_views[1][name], array, rtol=0.02, atol=0.02, err_msg=name)
