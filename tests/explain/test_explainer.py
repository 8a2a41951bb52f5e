"""What is explained of networks of every kind, and what is said of it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.config import make_config
from flax_attn.errors import NonFiniteError
from flax_attn.explain.explained import outline
from flax_attn.explain.explainer import Explainer, Request
from flax_attn.explain.forward import NetworkForward
from flax_attn.explain.photographs import Photographs
from flax_attn.models import abstract_model
from tests.helpers.networks import TINY, UNGATED


@pytest.mark.parametrize("model", ["attn_vgg", "vgg_gap"])
def test_several_labels_heads_and_no_gates(model: str) -> None:
    gated = {**TINY, "heads": 2, "per_class": True} if model == "attn_vgg" else UNGATED
    config = make_config({**gated, "model": model, "task": "multilabel"})
    classes = ("cat", "dog", "tree")
    structure, shapes, of_stats = abstract_model(config.model, num_classes=3)
    rng = np.random.default_rng(0)
    # Of a scale that makes probabilities of neither 0 nor 1.
    params = {n: jnp.asarray(rng.normal(0, 0.35, a.shape), a.dtype) for n, a in shapes.items()}
    stats = {n: jnp.ones(a.shape, a.dtype) for n, a in of_stats.items()}
    network = NetworkForward(structure, params, stats)
    images = rng.integers(255, size=(3, 32, 32, 3), dtype=np.uint8)
    labels = np.array([[0, 1, 1], [0, 0, 0], [1, 1, 1]])
    photographs = Photographs(["a", "b", "c"], images, labels)
    request = Request(("input_gradients",), ("conv4", "conv5"), ())
    explainer = Explainer(network, config, classes)
    found = list(explainer.explain(photographs, request, batch_size=2))
    assert len({bool(said) for item in found for said in item.decided}) == 2
    ((_, picture),) = found[0].seen
    names = list(picture.maps)
    assert names[-1] == "Input gradients" and len(names) == (13 if model == "attn_vgg" else 1)
    if model == "attn_vgg":
        assert names[0] == "Attention on pool3 cat head 1"
    for item, label in zip(found, labels, strict=True):
        said = item.probabilities > 0.5
        certainty = np.where(said, item.probabilities, 1 - item.probabilities)
        assert item.confidence == pytest.approx(certainty.min())
        assert item.correct == (said == label).all()
    broken = {name: jnp.full_like(a, jnp.nan) for name, a in params.items()}
    explainer = Explainer(NetworkForward(structure, broken, stats), config, classes)
    with pytest.raises(NonFiniteError, match="'a'"):
        list(explainer.explain(photographs._replace(labels=None), request, batch_size=2))


def test_the_outline_is_white_inside_and_black_outside() -> None:
    mask = np.zeros((6, 7), bool)
    mask[2:5, 2:6] = True
    layer = outline(mask)
    white, black = (layer == 255).all(-1), (layer[..., :3] == 0).all(-1) & (layer[..., 3] == 255)
    inner = np.zeros_like(mask)
    inner[3, 3:5] = True
    np.testing.assert_array_equal(white, mask & ~inner)
    assert not (black & mask).any() and black[1, 2:6].all() and black.sum() == 14
    np.testing.assert_array_equal(layer[~white & ~black], 0)
