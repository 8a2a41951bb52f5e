"""Weights of PyTorch put into networks of Flax, and back, from files and from memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import load_file, save_file

from flax_attn import porting
from flax_attn.errors import WeightsError
from flax_attn.models import MODELS, Network, abstract_model, functional
from flax_attn.models.vgg import VGG
from flax_attn.porting import load_torch, save_torch, write_ported
from flax_attn.porting.architecture import detect_layout
from flax_attn.porting.ported_files import FIELDS
from tests.helpers.small_torch import (
    ARRAYS,
    DEPTHS,
    MODEL_OF,
    NETWORKS,
    WIDTHS,
    leaves,
    ported_arrays,
    same_bits,
    small_config,
    tensors_of,
    torch_attn_vgg,
    torch_vgg,
)

BACKBONE_ARRAYS = 6 * sum(DEPTHS)


def network(model: str = "attn_vgg", num_classes: int = 3, **settings: object) -> Network:
    """A network of ours whose arrays are all 7: cheap, and none is what a file holds."""
    config = replace(small_config(model), **settings)
    structure, params, stats = abstract_model(config, num_classes=num_classes)
    params, stats = (
        {path: jnp.full(leaf.shape, 7, leaf.dtype) for path, leaf in arrays.items()}
        for arrays in (params, stats)
    )
    return functional.merge(structure, params, stats)


def arrays_of(model: nnx.Module) -> dict[str, np.ndarray]:
    _, params, stats = functional.split(model)
    return {path: np.asarray(array) for path, array in {**params, **stats}.items()}


def is_untouched(model: nnx.Module) -> bool:
    return all((array == 7).all() for array in arrays_of(model).values())


def expected_backbone(layout: str) -> dict[str, np.ndarray]:
    return {p: a for p, a in ported_arrays(layout).items() if p.startswith("backbone/")}


@pytest.mark.parametrize("layout", NETWORKS)
@pytest.mark.parametrize(
    "kind", ["a.pth", "a.pt", "a.ckpt", "weights", "a.safetensors", "tensors", "arrays", "wrapped"]
)
def test_a_whole_network_is_filled_bit_for_bit(layout: str, kind: str, tmp_path: Path) -> None:
    state = dict(NETWORKS[layout]().state_dict())
    source: object = {"tensors": state, "wrapped": {"state_dict": state}}.get(kind)
    if kind == "arrays":
        source = {key: tensor.numpy() for key, tensor in state.items()}
    if source is None:
        source = tmp_path / kind
        (save_file if kind == "a.safetensors" else torch.save)(state, source)
    model = network(MODEL_OF.get(layout, layout))
    assert load_torch(source, into=model) == []
    assert same_bits(arrays_of(model), ported_arrays(layout))


@pytest.mark.parametrize("layout", NETWORKS)
def test_the_filled_network_computes_what_pytorchs_does(layout: str) -> None:
    theirs, ours = NETWORKS[layout](), network(MODEL_OF.get(layout, layout))
    load_torch(theirs.state_dict(), into=ours)
    image = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        said = theirs(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
    logits = said if layout == "torchvision" else said.logits
    np.testing.assert_allclose(ours(image, train=False).logits, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layout", NETWORKS)
def test_any_network_takes_the_backbone(model: str, layout: str) -> None:
    ours = network(model)
    kept = load_torch(NETWORKS[layout]().state_dict(), into=ours)
    if model == MODEL_OF.get(layout, layout):
        assert kept == []
        return
    found = arrays_of(ours)
    assert kept == sorted(path for path in found if not path.startswith("backbone/"))
    assert same_bits({p: a for p, a in found.items() if p not in kept}, expected_backbone(layout))
    assert all((found[path] == 7).all() for path in kept)


def test_a_module_of_ones_own_takes_the_backbone() -> None:
    class Mine(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.backbone = VGG(widths=WIDTHS, depths=DEPTHS, rngs=rngs)
            self.head = nnx.Param(jnp.ones(3))

    model = Mine(nnx.Rngs(0))
    assert load_torch(torch_vgg().state_dict(), into=model) == ["head"]
    assert same_bits(
        {p: a for p, a in arrays_of(model).items() if p != "head"}, expected_backbone("torchvision")
    )


@pytest.mark.parametrize("layout", NETWORKS)
def test_a_backbone_alone_is_filled(layout: str) -> None:
    backbone = VGG(widths=WIDTHS, depths=DEPTHS, rngs=nnx.Rngs(0))
    assert load_torch(NETWORKS[layout]().state_dict(), into=backbone) == []
    found = {f"backbone/{path}": array for path, array in arrays_of(backbone).items()}
    assert same_bits(found, expected_backbone(layout))


def test_the_last_layer_of_vgg16_bn_is_kept_for_other_classes() -> None:
    model = network("vgg", num_classes=2)
    assert load_torch(torch_vgg().state_dict(), into=model) == ["dense/2/bias", "dense/2/kernel"]
    expected = ported_arrays("torchvision")["dense/0/kernel"]
    np.testing.assert_array_equal(arrays_of(model)["dense/0/kernel"], expected)


def test_the_backbone_alone_can_be_asked_for() -> None:
    model = network("vgg")
    kept = load_torch(torch_vgg().state_dict(), into=model, layout="backbone")
    assert kept == sorted(path for path in leaves("torchvision") if "backbone/" not in path)


def test_the_backbone_of_an_attn_vgg_fills_a_vgg() -> None:
    model = network("vgg")
    kept = load_torch(torch_attn_vgg().state_dict(), into=model, layout="backbone")
    found = arrays_of(model)
    assert kept and all((found.pop(path) == 7).all() for path in kept)
    assert same_bits(found, expected_backbone("attn_vgg"))


@pytest.mark.parametrize("entry", [None, "model", "ema"])
def test_one_of_several_networks_is_chosen(entry: str | None, tmp_path: Path) -> None:
    states = {name: dict(torch_attn_vgg().state_dict()) for name in ("ema", "model")}
    states["ema"]["cls.bias"] = states["ema"]["cls.bias"] + 1
    torch.save(states, tmp_path / "a.pth")
    for source in (states, tmp_path / "a.pth"):
        model = network()
        assert load_torch(source, into=model, entry=entry) == []
        expected = states[entry or "model"]["cls.bias"].numpy()
        np.testing.assert_array_equal(arrays_of(model)["classifier/bias"], expected)


def test_gates_of_another_kind_are_kept() -> None:
    model = network(score="dot")
    kept = load_torch(torch_attn_vgg().state_dict(), into=model)
    assert kept and all("backbone/" not in path for path in kept)


def test_every_problem_is_in_one_error_and_nothing_changes() -> None:
    state = tensors_of(torch_attn_vgg())
    del state["cls.bias"], state["conv_block1.0.weight"]
    state["more"] = np.zeros(1, np.float32)
    state["attn1.W_l.weight"] = state["attn1.W_l.weight"][:2]
    state["cls.weight"][0, 0] = np.nan
    model = network()
    with pytest.raises(WeightsError) as caught:
        load_torch(state, into=model)
    for part in (
        "the mapping does not fit the layout attn_vgg: ",
        "2 missing (conv_block1.0.weight, cls.bias)",
        "1 unexpected (more)",
        "1 misshapen (attn1.W_l.weight is [2, 6, 1, 1], expected [5, 6, 1, 1])",
        "1 not finite (cls.weight)",
    ):
        assert part in str(caught.value), caught.value
    assert is_untouched(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (3, 4, 6, 5, 8)}, "misshapen .*conv_block5.0.weight is .7, 5, 3, 3., expected"),
        ({"depths": (1, 1, 1, 1, 1)}, "unexpected .*conv_block2.3.bias"),
        ({"depths": (2, 2, 1, 2, 1)}, "missing .*conv_block1.3.weight"),
        ({"attn_features": 4}, "misshapen .*attn1.W_l.weight is .5, 6, 1, 1., expected .4, 6"),
        ({"heads": 2}, "4 without counterpart there .gates/pool3/score/phi is .2, 5."),
    ],
    ids=["widths", "fewer layers", "more layers", "attn_features", "heads"],
)
def test_a_network_of_other_sizes_is_refused(settings: dict[str, object], message: str) -> None:
    model = network(**settings)
    with pytest.raises(WeightsError, match=message):
        load_torch(torch_attn_vgg().state_dict(), into=model)
    assert is_untouched(model)


def test_the_classifier_is_kept_for_other_classes_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    model = network(num_classes=2)
    kept = load_torch(torch_attn_vgg().state_dict(), into=model)
    assert kept == ["classifier/bias", "classifier/kernel"]
    assert "(3 classes there, 2 here: the last layer starts anew)" in caplog.text
    found, expected = arrays_of(model), ported_arrays("attn_vgg")
    assert all((found.pop(path) == 7).all() for path in kept)
    assert same_bits(found, {p: a for p, a in expected.items() if p not in kept})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_cast_only_when_asked(dtype: torch.dtype) -> None:
    state = torch_attn_vgg().to(dtype).state_dict()
    model = network()
    with pytest.raises(WeightsError, match=f"{ARRAYS} not float32 .*cast=True"):
        load_torch(state, into=model)
    assert is_untouched(model)
    load_torch(state, into=model, cast=True)
    bias = state["cls.bias"].float().numpy()
    np.testing.assert_array_equal(arrays_of(model)["classifier/bias"], bias)
    assert arrays_of(model)["classifier/bias"].dtype == np.float32


def test_tensors_that_train_are_read() -> None:
    """Parameters ask for gradients; buffers complete them."""
    theirs, model = torch_attn_vgg(), network()
    state = {**dict(theirs.named_parameters()), **dict(theirs.named_buffers())}
    assert load_torch(state, into=model) == []
    with torch.no_grad():
        theirs.cls.bias.zero_()
    expected = ported_arrays("attn_vgg")["classifier/bias"]
    np.testing.assert_array_equal(arrays_of(model)["classifier/bias"], expected)


def test_tensors_without_dense_values_are_refused() -> None:
    state = dict(torch_attn_vgg().state_dict())
    state["cls.weight"] = state["cls.weight"].to_sparse()
    state["cls.bias"] = torch.empty(3, device="meta")
    with pytest.raises(WeightsError, match=r"1 sparse \(cls.weight\); 1 without values \(cls.bias"):
        load_torch(state, into=network())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "the mapping is no state dict: it holds nothing"),
        ({"optimizer": {}, "epoch": 3}, "the mapping is no state dict: it holds optimizer, epoch"),
        ({"layer1.weight": np.zeros(3, np.float32)}, "the mapping is neither a VGG of"),
        ("a.npz", "cannot read a.npz: no such file"),
        ("none.pth", "cannot read none.pth: no such file"),
        ("none.safetensors", "cannot read none.safetensors: no such file"),
    ],
)
def test_other_sources_are_refused(source: object, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load_torch(source, into=network("vgg_gap"))


def test_a_ported_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    metadata: dict[str, object] = dict.fromkeys(FIELDS, "")
    write_ported(path, {"a": np.zeros(3, np.float32)}, metadata)
    with pytest.raises(WeightsError, match="is ported already"):
        load_torch(path, into=network("vgg_gap"))


@pytest.mark.parametrize(
    "build", [lambda *sizes: nnx.Linear(*sizes, rngs=nnx.Rngs(0)), torch.nn.Linear]
)
def test_modules_without_a_vgg_are_refused(
    build: Callable[[int, int], nnx.Module], tmp_path: Path
) -> None:
    module = build(2, 3)
    with pytest.raises(TypeError, match="into must be a network with a VGG .*got Linear"):
        load_torch(tmp_path / "none.pth", into=module)
    with pytest.raises(TypeError, match="model must be a network with a VGG .*got Linear"):
        save_torch(module, tmp_path / "a.pth")


def test_layouts_and_endings_are_checked(tmp_path: Path) -> None:
    model = network("vgg_gap")
    message = "layout must be auto, torchvision, timm, attn_vgg, backbone, got 'resnet'"
    with pytest.raises(ValueError, match=message):
        load_torch({}, into=model, layout="resnet")
    with pytest.raises(ValueError, match=message):
        save_torch(model, tmp_path / "a.pth", layout="resnet")
    with pytest.raises(ValueError, match="path must end in .pth, .pt, .safetensors, got .*a.npz"):
        save_torch(model, tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


def test_arrays_stay_on_the_device_of_those_they_replace() -> None:
    device = jax.devices()[-1]
    model = network()
    nnx.update(model, jax.device_put(nnx.state(model), device))
    load_torch(torch_attn_vgg().state_dict(), into=model)
    _, params, stats = functional.split(model)
    assert all(a.committed and a.devices() == {device} for a in {**params, **stats}.values())


@pytest.mark.parametrize("suffix", ["pth", "pt", "safetensors"])
@pytest.mark.parametrize("layout", NETWORKS)
def test_saved_and_loaded_by_pytorch(layout: str, suffix: str, tmp_path: Path) -> None:
    theirs, path = NETWORKS[layout](), tmp_path / f"a.{suffix}"
    ours = network(MODEL_OF.get(layout, layout))
    load_torch(theirs.state_dict(), into=ours)
    save_torch(ours, path)
    if suffix == "safetensors":
        state = load_file(path)
    else:
        state = torch.load(path, weights_only=True)
    assert same_bits({k: t.numpy() for k, t in state.items()}, tensors_of(theirs))
    again = network(MODEL_OF.get(layout, layout))
    assert load_torch(path, into=again) == []
    assert same_bits(arrays_of(again), arrays_of(ours))


def test_a_network_without_a_layout_saves_its_backbone(tmp_path: Path) -> None:
    ours, path = network("vgg_gap"), tmp_path / "a.safetensors"
    with pytest.raises(WeightsError, match='GapVGG has no counterpart among .*layout="backbone"'):
        save_torch(ours, path)
    with pytest.raises(WeightsError, match="do not fit the layout torchvision: .*6 missing"):
        save_torch(ours, path, layout="torchvision")
    assert not path.exists()
    save_torch(ours, path, layout="backbone")
    other = network("vgg")
    kept = load_torch(path, into=other)
    assert len(kept) == 6 and len(arrays_of(other)) == BACKBONE_ARRAYS + 6


def test_gates_that_pytorch_has_not_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="without counterpart there .gates/pool3/score/phi"):
        save_torch(network(heads=2), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_both_stand_at_the_front_door() -> None:
    assert {"load_torch", "save_torch"} <= set(porting.__all__)
    assert all(hasattr(porting, name) for name in porting.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        porting.nothing  # noqa: B018


def test_layout_is_found_by_the_keys() -> None:
    def keys(*names: str) -> dict[str, np.ndarray]:
        return {name: np.zeros(1) for name in names}

    assert detect_layout(keys("conv_block1.0.weight"), "x") == "attn_vgg"
    assert detect_layout(keys("features.0.weight"), "x") == "backbone"
    assert detect_layout(keys("features.0.weight", "classifier.0.bias"), "x") == "torchvision"
    with pytest.raises(WeightsError, match="its keys are layer1.0.weight…"):
        detect_layout(keys("layer1.0.weight"), "x")
