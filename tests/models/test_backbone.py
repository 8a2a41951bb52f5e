"""What holds of every backbone: named maps at falling resolution, and who takes their names."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import flax_attn as fa
from flax_attn.config import BACKBONES, FAMILIES, VGG_FAMILY, Config, ModelConfig
from flax_attn.errors import UsageError
from flax_attn.explain.explain_command import stages_of
from flax_attn.models import MODELS, build_model, functional
from flax_attn.models.backbone import Features
from flax_attn.models.calibrate import calibrate
from flax_attn.models.network import BUILDERS, channels

PACKAGE = Path(fa.__file__).parent
# A small network on a backbone of each family.
BACKBONE_SIZES: dict[str, dict[str, Any]] = {
    "vgg11_bn": {"widths": (2, 3, 4, 5, 6), "depths": (1, 1, 1, 1, 1)},
    "resnet18": {"widths": (2, 3, 4, 5), "depths": (1, 1, 2, 1)},
    "resnet50": {"widths": (2, 3, 4, 5), "depths": (1, 1, 1, 1)},
}
SIDE = 96


def config_of(name: str, **settings: Any) -> ModelConfig:
    return ModelConfig(backbone=name, attn_features=3, **BACKBONE_SIZES[name], **settings)


def test_a_backbone_of_every_family_is_looked_at() -> None:
    assert {BACKBONES[name].family.name for name in BACKBONE_SIZES} == FAMILIES.keys()
    assert BUILDERS.keys() == FAMILIES.keys()
    for family in FAMILIES.values():
        assert set(family.gates) <= set(family.gated) <= set(family.maps) - {family.guide}
        assert len(family.widths) == len(family.maps) == len(family.activations)


@pytest.mark.parametrize("name", BACKBONE_SIZES)
def test_maps_have_the_names_and_sizes_that_gates_expect(name: str) -> None:
    config, family = config_of(name), BACKBONES[name].family

    def run(image: jax.Array) -> Any:
        return build_model(config, num_classes=2).with_activations(image)

    output, activations = jax.eval_shape(run, np.zeros((2, SIDE, SIDE, 3), np.float32))
    shapes = {n: x.shape for n, x in output.features.items()}
    assert list(shapes) == list(family.maps) and list(activations) == list(family.activations)
    assert {n: shape[-1] for n, shape in shapes.items()} == channels(config)
    sides = [shape[1] for shape in shapes.values()]
    assert sides == sorted(sides, reverse=True) and sides[-1] == SIDE // 32
    assert {n: x.shape[1:] for n, x in output.attention.items()} == {
        gate: shapes[gate][1:3] for gate in family.gates
    }
    assert output.pooled.keys() == {family.guide, *family.gates}


@pytest.mark.parametrize("name", [n for n in BACKBONE_SIZES if BACKBONES[n].family != VGG_FAMILY])
@pytest.mark.parametrize("model", MODELS)
def test_every_head_stands_on_it_but_the_dense_one(name: str, model: str) -> None:
    config = config_of(name, model=model)
    build = MODELS[model]
    if model == "vgg":
        for refused in (
            lambda: fa.make_config({"model": "vgg", "backbone": name}),
            lambda: nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0))),
            lambda: nnx.eval_shape(lambda: build(replace(config, model="x"), rngs=nnx.Rngs(0))),
        ):
            with pytest.raises(UsageError, match=f"dense layers of a VGG, got --backbone {name}"):
                refused()
        return
    taps = build.taps(config)
    assert set(taps) <= set(BACKBONES[name].family.maps)

    def classify(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        network = build(config, num_classes=3, rngs=nnx.Rngs(0))
        features = network.features(image, train=False)
        return features.keep(*taps), network.classify(features.keep(*taps), train=False).logits

    kept, logits = jax.eval_shape(classify, np.zeros((2, 32, 32, 3), np.float32))
    assert logits.shape == (2, 3) and set(kept) == set(taps)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backbone": "resnet18", "gates": ("pool3",)}, "layer1, layer2, layer3 with --backbone r"),
        ({"gates": ("layer2",)}, "pool2, pool3, pool4 with --backbone vgg16_bn, got layer2"),
        ({"backbone": "resnet50", "gates": ("layer4",)}, "got layer4"),
        ({"backbone": "resnet18", "widths": (4,) * 5}, "--widths takes 4 positive numbers"),
        ({"backbone": "vgg11", "depths": (1,) * 4}, "--depths takes 5 positive numbers"),
        ({"backbone": "resnet18", "roi_weights": ("pool3=1",)}, "are: layer2, layer3"),
    ],
    ids=str,
)
def test_what_is_another_backbones_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fa.make_config({"dataset": "drawn_pets_scenes", **given})


def test_sizes_and_gates_follow_the_backbone_unless_they_are_given() -> None:
    resnet = ModelConfig(backbone="resnet18")
    assert ModelConfig().gates == VGG_FAMILY.gates and ModelConfig().widths == VGG_FAMILY.widths
    assert resnet.gates == ("layer2", "layer3") and resnet.widths == (64, 128, 256, 512)
    assert ModelConfig().replaced(backbone="resnet18") == resnet
    assert resnet.replaced(backbone="vgg16_bn") == ModelConfig()
    own = resnet.replaced(gates=("layer1",), depths=(1, 1, 1, 1))
    assert own.replaced(backbone="resnet50").gates == ("layer1",)
    assert own.replaced(backbone="resnet50").depths == (1, 1, 1, 1)
    config = Config(model=own)
    assert Config.from_json(config.to_json()) == config


def test_stages_to_explain_are_the_backbones() -> None:
    vgg, resnet = ModelConfig(), ModelConfig(backbone="resnet50")
    assert stages_of(None, vgg) == ("conv4", "conv5")
    assert stages_of(None, resnet) == ("layer3", "layer4")
    assert stages_of(["layer1"], resnet) == ["layer1"]
    with pytest.raises(UsageError, match="no conv5 in resnet50, the run's backbone; it has layer1"):
        stages_of(["layer4", "conv5"], resnet)


def test_features_are_a_tree_of_maps_by_name() -> None:
    maps = {"pool5": np.ones(1), "pool3": np.zeros(2)}
    features = Features(**maps)
    assert list(features) == ["pool3", "pool5"] and features.pool5 is maps["pool5"]
    doubled = jax.tree.map(lambda x: 2 * x, features)
    assert isinstance(doubled, Features) and doubled.pool5 == 2
    assert jax.tree.structure(features) == jax.tree.structure(
        Features(**dict(sorted(maps.items())))
    )
    for again in (copy.deepcopy(features), pickle.loads(pickle.dumps(features))):
        assert again.keys() == features.keys()
    assert list(features.keep("pool3")) == ["pool3"]
    for missing in (lambda: features.take("pool4"), lambda: features.keep("pool4")):
        with pytest.raises(ValueError, match="pool4 is not among these features: pool3, pool5"):
            missing()
    with pytest.raises(AttributeError, match="pool4"):
        _ = features.pool4


def test_there_is_nothing_to_calibrate_in_another_backbone() -> None:
    structure, *shapes = functional.abstract(
        lambda: fa.ResNet(**BACKBONE_SIZES["resnet18"], rngs=nnx.Rngs(0))
    )
    arrays = [{path: np.zeros(a.shape, a.dtype) for path, a in part.items()} for part in shapes]
    with pytest.raises(UsageError, match="calibration is of a VGG, got a ResNet"):
        calibrate(structure, *arrays, [np.zeros((1, 32, 32, 3), np.uint8)])


# Where those of one backbone are meant: the table, what is ported, the papers that are reproduced.
OF_ONE = (
    *("config/backbones.py", "porting/tables.py", "porting/port_command.py"),
    *("porting/resnets.py", "studies/reproduce"),
)


def test_names_of_maps_come_from_the_table() -> None:
    """None is written by hand in what a third backbone would have to change."""
    names = {n for f in FAMILIES.values() for n in (*f.maps, *f.activations)}
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place.startswith(OF_ONE):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        found += [f"{place}:{node.lineno}" for node in texts if node.value in names]
        parts = [
            p for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for p in node.values
        ]
        found += [
            f"{place}:{p.lineno}"
            for p in parts
            if isinstance(p, ast.Constant) and re.search(r"\b(pool|layer)$", str(p.value))
        ]
    assert found == []
