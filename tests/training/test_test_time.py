"""Test-time augmentation: a network's answers under each symmetry, brought back and averaged."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.config import Config
from flax_attn.errors import UsageError
from flax_attn.models import build_model, functional
from flax_attn.models.backbone import Features
from flax_attn.models.tasks import TASKS
from flax_attn.training.step import Examples, make_eval_step
from flax_attn.training.test_time import TTA, average_under, parse_tta, require_unmoved
from tests.helpers.bounds import chain

# Two programs of the same network, and a mean of up to eight.
CLOSE = {"atol": chain(5, 72), "rtol": chain(5, 72)}
RNG = np.random.default_rng(0)
NAMES = ("pool3", "clinic pool3")


def by_hand(image: np.ndarray, flipped: bool, turns: int) -> np.ndarray:
    return np.rot90(image[..., ::-1, :] if flipped else image, turns, axes=(-3, -2))


def back_by_hand(maps: np.ndarray, flipped: bool, turns: int) -> np.ndarray:
    turned = np.rot90(maps, -turns, axes=(-2, -1))
    return turned[..., ::-1] if flipped else turned


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits.astype(float))
    return odds / odds.sum(-1, keepdims=True)


def pixels(image: Any, numbers: Any = jnp) -> tuple[Any, dict[str, Any]]:
    """A network without weights: rows and columns weigh differently, so that symmetries matter."""
    weights = np.arange(16.0, dtype=np.float32).reshape(4, 4) / 100
    brightness = image.mean(-1) * 2
    seen = brightness.reshape(len(image), -1, 4, 4) * weights
    shares = (seen, seen[..., :2], -seen[..., 1, :])
    logits = numbers.stack([share.reshape(len(image), -1).sum(1) for share in shares], -1)
    maps = {name: seen[:, view] for view, name in enumerate(NAMES[: seen.shape[1]])}
    return logits, maps | {"views": brightness.reshape(len(image), 1, -1)[..., :2]}


@pytest.mark.parametrize(
    ("tta", "task", "views"),
    [
        ("flips", "multiclass", ()),
        ("turns", "multilabel", (2,)),
        ("flips,turns", "multiclass", (2,)),
    ],
    ids=["classes of pictures", "labels of cases of two", "classes of cases of two"],
)
def test_it_is_the_mean_of_probabilities_and_of_maps_brought_back(
    tta: str, views: tuple[int, ...], task: str
) -> None:
    image = RNG.random((3, *views, 4, 4, 3), np.float32)
    under = parse_tta(tta)
    logits, maps = jax.jit(lambda x: average_under(under, pixels, x, TASKS[task]))(image)
    each = [pixels(by_hand(image, *symmetry), np) for symmetry in under]
    of = softmax if task == "multiclass" else lambda z: 1 / (1 + np.exp(-z.astype(float)))
    expected = np.mean([of(np.asarray(z)) for z, _ in each], axis=0)
    assert np.ptp([of(np.asarray(z)) for z, _ in each], axis=0).max() > 0.01
    np.testing.assert_allclose(of(np.asarray(logits)), expected, **CLOSE)
    for name in maps.keys() - {"views"}:
        found = [
            back_by_hand(np.asarray(m[name]), *s) for (_, m), s in zip(each, under, strict=True)
        ]
        np.testing.assert_allclose(maps[name], np.mean(found, axis=0), **CLOSE)
    weights = np.mean([m["views"] for _, m in each], axis=0)
    np.testing.assert_allclose(maps["views"], weights, **CLOSE)


def test_confident_views_keep_finite_logits() -> None:
    logits = jnp.array([[[200.0, -200.0]], [[180.0, -180.0]]])
    for task in TASKS.values():
        joined = np.asarray(jax.jit(task.average)(logits))
        assert np.isfinite(joined).all() and joined[0, 0] > joined[0, 1] + 100


def test_a_network_says_the_same_of_an_image_however_it_lies(tiny: Config) -> None:
    """Over all eight symmetries; its maps move as the image does."""
    model = tiny.updated(conv="exact", gates=("pool4",)).model
    structure, params, stats = functional.split(build_model(model, num_classes=2))
    image = RNG.integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
    labels, both = np.array([0, 1], np.int32), np.ones(2, bool)
    step = make_eval_step(structure, under=parse_tta("flips,turns"))
    sums, said = step(params, stats, Examples(image, labels, both))
    moved = np.ascontiguousarray(by_hand(image, True, 1))
    _, turned = step(params, stats, Examples(moved, labels, both))
    np.testing.assert_allclose(turned.probabilities, said.probabilities, **CLOSE)
    np.testing.assert_allclose(jax.nn.softmax(said.logits), said.probabilities, **CLOSE)
    for name, maps in said.attention.items():
        back = back_by_hand(np.asarray(turned.attention[name]), True, 1)
        np.testing.assert_allclose(back, maps, **CLOSE)
        assert np.abs(np.asarray(turned.attention[name]) - maps).max() > 1e-3
    # The loss is that of the mean.
    expected = -np.log(np.asarray(said.probabilities)[[0, 1], labels])
    np.testing.assert_allclose(said.loss, expected, **CLOSE)
    assert float(sums.loss) == pytest.approx(expected.sum(), rel=CLOSE["rtol"])


def test_features_have_no_symmetries() -> None:
    with pytest.raises(ValueError, match="symmetries are of images"):
        average_under(parse_tta("flips"), pixels, Features(), TASKS["multiclass"])


@pytest.mark.parametrize("given", ["rotations", "", "flips;turns", "flips,"])
def test_other_names_are_refused(given: str) -> None:
    with pytest.raises(UsageError, match=r"^tta: got .*, expected one of flips, or turns"):
        parse_tta(given)


def test_names_in_any_order() -> None:
    assert parse_tta("turns, flips") == parse_tta("flips,turns")
    assert [len(parse_tta(setting)) for setting in (None, *TTA)] == [0, 2, 4, 8]


def test_symmetries_that_move_views_are_refused() -> None:
    for given, views in (("flips", "scales:2"), ("turns", "rgb,edges"), (None, "crops:2")):
        require_unmoved(given, views)
    with pytest.raises(UsageError) as caught:
        require_unmoved("flips", "crops:2")
    assert str(caught.value) == (
        "--tta flips would move the views of --views crops:2 to each other's places: drop it"
    )
