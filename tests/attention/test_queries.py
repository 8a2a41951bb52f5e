"""What may ask the gates of a network, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from flax_attn.attention import RELATIONS, check_asked
from flax_attn.attention.queries import (
    deeper_gates,
    every_pass,
    gate_name,
    gates_at,
    map_name,
    query_of,
)
from flax_attn.config import ModelConfig
from flax_attn.errors import UsageError
from flax_attn.models.network import channels

THREE = ("left", "centre", "right")

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    **{
        f"{name} of one picture": ({"relation": (name,)}, f"--relation {name} needs cases of sev")
        for name, relation in RELATIONS.items()
        if relation.views > 1
    },
    "attend to one picture": ({"view_merge": "attend"}, "--view-merge attend needs cases of sev"),
    "attend to unequal ones": (
        {"relation": ("rotatory",), "view_names": THREE, "view_merge": "attend"},
        "as many contexts of each view, but --relation rotatory",
    ),
    "unknown relation": ({"relation": ("cousins",)}, "--relation takes different ones of own, i"),
    "relation twice": ({"relation": ("own", "own")}, "--relation takes different ones of"),
    "no relation": ({"relation": ()}, "--relation takes different ones of"),
    "unknown query": ({"query": ("age",)}, "--query takes different ones of guide, none, learned"),
    "query twice": ({"query": ("guide", "guide")}, "got 'guide guide'"),
    "none and more": ({"query": ("none", "guide")}, "--query none excludes guide"),
    "nothing to compare with": (
        {"query": ("none",), "score": "dot"},
        "--query none leaves --score dot without anything",
    ),
    "via one gate": ({"levels": "via", "gates": ("pool3",)}, "--levels via needs two gates"),
    "no metadata to ask": ({"query": ("meta",)}, "--query meta needs cases with metadata"),
    "no metadata to classify": ({"meta_into": "classifier"}, "--meta-into classifier needs cases"),
    "metadata kept out": (
        {"query": ("meta",), "meta_into": "classifier", "meta_features": 2},
        "keeps metadata out of --query meta",
    ),
    "metadata left out": (
        {"query": ("guide",), "meta_into": "both", "meta_features": 2},
        "--meta-into both needs meta in --query guide",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_itself_is_refused(name: str) -> None:
    settings, said = REFUSED[name]
    with pytest.raises(UsageError) as refused:
        check_asked(ModelConfig(**settings))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_what_goes_together_is_taken() -> None:
    for settings in (
        {},
        {"query": ("none",)},
        {"query": ("none",), "score": "dot", "hops": 2},
        {"query": ("guide", "learned"), "levels": "via"},
        {"relation": tuple(RELATIONS), "view_names": THREE},
        {"relation": ("interactive",), "query": ("none",), "score": "dot", "view_names": THREE},
        {"relation": ("rotatory",), "view_names": THREE[:2], "view_merge": "attend"},
        {"query": ("meta",), "meta_into": "both", "meta_features": 1},
    ):
        check_asked(ModelConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("guide",)),
        ({"query": ("none",)}, ()),
        ({"query": ("learned",)}, ("learned",)),
        ({"meta_features": 2}, ("guide", "meta")),
        ({"meta_features": 2, "meta_into": "both"}, ("guide", "meta")),
        ({"meta_features": 2, "meta_into": "classifier"}, ("guide",)),
        ({"meta_features": 2, "query": ("guide",)}, ("guide",)),
    ],
    ids=str,
)
def test_metadata_ask_unless_something_else_is_said(settings: dict, expected: tuple) -> None:
    assert query_of(ModelConfig(**settings), "own") == expected


def test_a_relation_of_views_has_no_guide_unless_it_is_named() -> None:
    config = ModelConfig(relation=("interactive",), view_names=THREE)
    assert query_of(config, "interactive") == ()
    sources = gates_at("pool3", channels(config), config)
    assert sources["pool3_interactive_view2"] == {"others": 512}


def test_a_deeper_gate_asks_the_next() -> None:
    config = ModelConfig(gates=("pool2", "pool4", "pool3"), levels="via")
    assert list(deeper_gates(config).items()) == [
        ("pool4", None),
        ("pool3", "pool4"),
        ("pool2", "pool3"),
    ]
    assert gates_at("pool2", channels(config), config)["pool2"] == {"guide": 512, "deeper": 256}
    resnet = ModelConfig(backbone="resnet50", gates=("layer1", "layer3"), levels="via")
    assert list(deeper_gates(resnet).items()) == [("layer3", None), ("layer1", "layer3")]
    asked = gates_at("layer1", channels(resnet), resnet)
    assert asked == {"layer1": {"guide": 2048, "deeper": 1024}}
    # Apart they attend in the order in which they are named: the sums of gradients depend on it.
    apart = ModelConfig(gates=config.gates)
    assert list(deeper_gates(apart).items()) == [(tap, None) for tap in config.gates]


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_names_of_gates_and_maps(views: int, alike: bool) -> None:
    """Each kept pass has a map of its own; gates are shared by views that are alike."""
    names = tuple(n for n, r in RELATIONS.items() if r.views <= views)
    config = ModelConfig(relation=names, view_names=THREE[:views], views_alike=alike)
    passes = every_pass(config)
    maps = [map_name("pool3", name, look, config) for name, look in passes if look.kept]
    assert len(set(maps)) == len(maps)
    gates = {gate_name("pool3", name, look, config) for name, look in passes}
    if views == 1:
        assert maps == ["pool3"] and gates == {"pool3"}
    else:
        # One for each relation, and that of the target of a rotation.
        separate = 4 * views + 2 * (views - 1)
        assert len(gates) == (len(RELATIONS) + 1 if alike else separate)
