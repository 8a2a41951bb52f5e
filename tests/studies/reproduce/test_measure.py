"""What networks are measured by: heads, parameters and operations."""

from __future__ import annotations

import numpy as np

from flax_attn.config import ModelConfig
from flax_attn.data.drawn.pets import DrawnPets
from flax_attn.data.masks import objects
from flax_attn.studies.reproduce import measure
from flax_attn.studies.reproduce.experiment_plan import make_plan

S, N, U = "supported", "not supported", "undecided"


def test_heads_are_on_the_animals() -> None:
    split = DrawnPets(seed=0, size=64, count=40, first_index=500_000)
    places = list(range(40))
    bodies, found = objects(split, places), measure.heads(split, places)
    assert bodies is not None and found is not None
    inside = (bodies & found).sum((1, 2)) / found.sum((1, 2))
    assert np.median(inside) > 0.9
    # Occluders and the picture's edge hide little of a head; elsewhere it would be mostly outside.
    assert (inside > 0.5).mean() > 0.95


def test_parameters_and_operations_are_counted() -> None:
    model = ModelConfig(widths=(2, 2, 4, 4, 4), depths=(1,) * 5, attn_features=3, hidden=5)
    dense = ModelConfig(
        model="vgg", widths=model.widths, depths=model.depths, attn_features=3, hidden=5
    )
    found = measure.count((model, dense), size=32)
    channels = list(zip((3, 2, 2, 4, 4), model.widths, strict=True))
    backbone = sum(9 * a * b + 3 * b for a, b in channels)
    gates = 2 * (4 * 3 + 4 * 3 + 3 + 1)
    assert found["parameters_attn_vgg"] == backbone + gates + (4 + 4 + 4) * 2 + 2
    layers = 4 * 49 * 5 + 5 + 5 * 5 + 5 + 5 * 2 + 2
    assert found["parameters_vgg"] == backbone + layers

    def products(side: int, a: int, b: int) -> int:
        """Of a convolution; a border pixel has fewer neighbours."""
        return 2 * a * b * (3 * side - 2) ** 2

    convolutions = sum(
        products(side, a, b) for side, (a, b) in zip((32, 16, 8, 4, 2), channels, strict=True)
    )
    for name in measure.NAMES:
        # Normalisation, pooling and the small layers above come on top.
        assert convolutions < found[f"operations_{name}"] < 1.6 * convolutions


def test_article_sizes() -> None:
    """torchvision's vgg16_bn with two classes has 134,277,186 parameters."""
    found = measure.count(make_plan({}, {}, full=True).article_models(), size=224)
    assert found["parameters_vgg"] == 134_277_186
    assert found["parameters_attn_vgg"] == 15_184_964
    assert 29.5e9 < found["operations_attn_vgg"] < found["operations_vgg"] < 31e9
