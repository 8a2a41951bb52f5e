"""Porting: tables, both directions bit for bit, strict reports, files, loading."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from torchvision.models import vgg16_bn
from torchvision.models.vgg import VGG, make_layers

from flax_attn import models as model
from flax_attn.config import ModelConfig
from flax_attn.errors import WeightsError
from flax_attn.models import baselines, build_model, functional
from flax_attn.models.functional import Arrays
from flax_attn.porting import (
    TABLES,
    load_into,
    read_ported,
    tables,
    to_flax,
    to_torch,
    unwrap,
    vgg16_bn_table,
    write_ported,
)
from flax_attn.porting.transforms import dense_after_grid
from tests.helpers.bounds import assert_within, fan_in, rounding
from tests.helpers.parity import randomize
from tests.helpers.torch_attn_vgg import TorchAttnVGG

WIDTHS, DEPTHS = (3, 4, 6, 5, 7), (1, 2, 1, 2, 1)
TINY = ModelConfig(widths=WIDTHS, depths=DEPTHS, attn_features=5, hidden=11)
METADATA = {
    "source": "a test",
    "source_sha256": "0" * 64,
    "layout": "attn_vgg",
    "batch_norm": "trained",
    "widths": WIDTHS,
    "depths": DEPTHS,
}


def _torch_vgg(num_classes: int = 3) -> nn.Module:
    plan: list[str | int] = []
    for width, depth in zip(WIDTHS, DEPTHS, strict=True):
        plan += [width] * depth + ["M"]
    # torchvision's class fixes the sizes of the dense layers: make them nowhere, then smaller.
    with torch.device("meta"):
        network = VGG(nn.Sequential(), num_classes=num_classes, init_weights=False)
    network.features = make_layers(plan, batch_norm=True)
    network.classifier[0] = nn.Linear(WIDTHS[-1] * 49, TINY.hidden)
    network.classifier[3] = nn.Linear(TINY.hidden, TINY.hidden)
    network.classifier[6] = nn.Linear(TINY.hidden, num_classes)
    return randomize(network, seed=1)


def _torch_attn_vgg(num_classes: int = 3) -> nn.Module:
    network = TorchAttnVGG(
        num_classes, widths=WIDTHS, depths=DEPTHS, attn_features=TINY.attn_features
    )
    return randomize(network, seed=2)


NETWORKS = {"vgg16_bn": _torch_vgg, "attn_vgg": _torch_attn_vgg}


def _tensors(network: nn.Module) -> dict[str, np.ndarray]:
    return {key: tensor.numpy().copy() for key, tensor in network.state_dict().items()}


@cache
def _template(name: str = "attn_vgg", num_classes: int = 3) -> tuple[Arrays, Arrays]:
    config = ModelConfig(
        model=name, widths=WIDTHS, depths=DEPTHS, attn_features=TINY.attn_features, hidden=11
    )
    _, params, stats = functional.split(build_model(config, num_classes=num_classes))
    return params, stats


def _leaves(layout: str) -> Arrays:
    params, stats = _template("vgg16_bn" if layout == "backbone" else layout)
    leaves = {**params, **stats}
    keep = "backbone/" if layout == "backbone" else ""
    return {path: leaf for path, leaf in leaves.items() if path.startswith(keep)}


def _port(layout: str) -> dict[str, np.ndarray]:
    return to_flax(TABLES[layout](DEPTHS), _tensors(NETWORKS[layout]()), _leaves(layout))


def _same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[k].shape == b[k].shape and a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes()
        for k in a
    )


@pytest.mark.parametrize("layout", NETWORKS)
def test_round_trips_are_bit_identical(layout: str) -> None:
    table, network = TABLES[layout](DEPTHS), NETWORKS[layout]()
    tensors = _tensors(network)
    arrays = to_flax(table, tensors, _leaves(layout))
    back = to_torch(table, arrays)
    assert _same_bits(back, tensors)
    assert _same_bits(to_flax(table, back, _leaves(layout)), arrays)
    fresh = NETWORKS[layout]()
    fresh.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()}, strict=True)


@pytest.mark.parametrize("layout", NETWORKS)
def test_logits_are_those_of_pytorch(layout: str) -> None:
    network = NETWORKS[layout]()
    arrays = _port(layout)
    params, stats = _template(layout)
    config = ModelConfig(model=layout, widths=WIDTHS, depths=DEPTHS, attn_features=5, hidden=11)
    structure, _, _ = functional.abstract(lambda: build_model(config, num_classes=3))
    image = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)

    @jax.jit
    def logits(arrays: Mapping[str, Any], image: Any) -> jax.Array:
        parts = ({p: arrays[p] for p in part} for part in (params, stats))
        return functional.merge(structure, *parts)(image, train=False).logits

    with torch.no_grad():
        output = network(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
    theirs = output if layout == "vgg16_bn" else output.logits
    with jax.enable_x64(True):
        _, bound = rounding(logits, arrays, image, terms=fan_in, whole=True)
    assert_within(logits(arrays, image), theirs.numpy(), 2 * bound, whole=True)


def test_keys_are_those_of_torchvision_in_full_size() -> None:
    table = vgg16_bn_table((2, 2, 3, 3, 3))
    with torch.device("meta"):
        state = vgg16_bn(weights=None).state_dict()
    assert table.entries.keys() | table.counters == state.keys()
    params, stats = functional.abstract(
        lambda: build_model(ModelConfig(model="vgg16_bn"), num_classes=1000)
    )[1:]
    for key, (path, transform) in table.entries.items():
        leaf = {**params, **stats}[path]
        assert transform.torch_shape(leaf.shape) == tuple(state[key].shape), key


def test_dense_grid_is_the_models() -> None:
    assert tables.DENSE_GRID == baselines.DENSE_GRID


def test_dense_layer_after_a_grid_reads_the_same_map() -> None:
    rng = np.random.default_rng(0)
    chw, weight = rng.normal(size=(5, 7, 7)), rng.normal(size=(2, 245))
    kernel = dense_after_grid(7).to_flax(weight)
    np.testing.assert_allclose(chw.transpose(1, 2, 0).ravel() @ kernel, weight @ chw.ravel())


def test_backbone_alone_ignores_the_classifier() -> None:
    tensors = _tensors(_torch_vgg())
    arrays = to_flax(TABLES["backbone"](DEPTHS), tensors, _leaves("backbone"))
    assert all(path.startswith("backbone/") for path in arrays)
    assert len(arrays) == 6 * sum(DEPTHS)


def test_known_wrappers_are_removed() -> None:
    tensors = _tensors(_torch_attn_vgg())
    parallel = {f"module.{key}": value for key, value in tensors.items()}
    for wrapped in (parallel, {"state_dict": parallel, "epoch": 3}, {"model": tensors}):
        assert _same_bits(unwrap(wrapped), tensors)
    with pytest.raises(WeightsError, match="no state dict: it holds state, param_groups"):
        unwrap({"state": {}, "param_groups": []})
    with pytest.raises(WeightsError, match="no state dict"):
        unwrap({})
    endless: dict[str, object] = {}
    endless["state_dict"] = endless
    with pytest.raises(WeightsError, match="no state dict: it holds state_dict"):
        unwrap(endless)


def test_one_report_names_every_problem() -> None:
    tensors = _tensors(_torch_attn_vgg())
    del tensors["cls.bias"]
    for i in range(7):
        tensors[f"extra{i}"] = np.zeros(1, np.float32)
    tensors["attn1.W_l.weight"] = tensors["attn1.W_l.weight"][:, :, 0, 0]
    tensors["attn2.W_g.weight"] = tensors["attn2.W_g.weight"].astype(np.float16)
    tensors["conv_block1.0.weight"][0, 0, 0, 0] = np.nan
    tensors["conv_block1.1.running_var"][2] = -1e-3
    with pytest.raises(WeightsError) as caught:
        to_flax(TABLES["attn_vgg"](DEPTHS), tensors, _leaves("attn_vgg"), source="x.pth")
    message = str(caught.value)
    assert message.startswith("x.pth does not fit the layout attn_vgg: ")
    for part in (
        "1 missing (cls.bias)",
        "7 unexpected (extra",
        "and 2 more)",
        "1 misshapen (attn1.W_l.weight is [5, 6], expected [5, 6, 1, 1])",
        "1 not float32 (attn2.W_g.weight is float16)",
        "1 not finite (conv_block1.0.weight)",
        "1 negative running variance (conv_block1.1.running_var)",
    ):
        assert part in message, message
    assert "\n" not in message


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_floats_need_cast(dtype: str) -> None:
    network = _torch_attn_vgg().to(getattr(torch, dtype))
    widened = {key: tensor.float().numpy() for key, tensor in network.state_dict().items()}
    if dtype == "bfloat16":
        import ml_dtypes

        tensors = {key: value.astype(ml_dtypes.bfloat16) for key, value in widened.items()}
    else:
        tensors = _tensors(network)
    table, template = TABLES["attn_vgg"](DEPTHS), _leaves("attn_vgg")
    with pytest.raises(WeightsError, match=f"not float32 .* is {dtype}.*--cast"):
        to_flax(table, tensors, template)
    expected = to_flax(table, widened, template)
    assert _same_bits(to_flax(table, tensors, template, cast=True), expected)


def test_a_cast_out_of_range_and_integers_are_refused() -> None:
    tensors = _tensors(_torch_attn_vgg())
    tensors["cls.bias"] = np.array([1e300, 0, 0])
    tensors["attn1.phi.bias"] = np.array([1], np.int64)
    with pytest.raises(WeightsError, match="not float32 .attn1.phi.bias.*not finite .cls.bias"):
        to_flax(TABLES["attn_vgg"](DEPTHS), tensors, _leaves("attn_vgg"), cast=True)


def test_misshapen_tensors_are_never_read() -> None:
    class Claim:
        shape, dtype = (10**6, 10**6), "float32"

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            raise AssertionError("was read")

    tensors = {**_tensors(_torch_attn_vgg()), "cls.weight": Claim(), "more": Claim()}
    with pytest.raises(WeightsError, match="misshapen .cls.weight.*unexpected .more"):
        to_flax(TABLES["attn_vgg"](DEPTHS), tensors, _leaves("attn_vgg"))


def test_large_finite_values_pass() -> None:
    tensors = _tensors(_torch_attn_vgg())
    tensors["cls.weight"][:] = 3e38
    to_flax(TABLES["attn_vgg"](DEPTHS), tensors, _leaves("attn_vgg"))


def test_to_torch_is_strict() -> None:
    arrays = _port("attn_vgg")
    del arrays["classifier/bias"]
    arrays["backbone/stages/9/x"] = arrays["classifier/kernel"]
    arrays["gates/pool3/score/phi"] = arrays["gates/pool3/score/phi"].astype(np.float64)
    with pytest.raises(WeightsError, match="1 not float32.*1 missing.*1 unexpected"):
        to_torch(TABLES["attn_vgg"](DEPTHS), arrays)


def test_file_round_trip(tmp_path: Path) -> None:
    arrays, path = _port("attn_vgg"), tmp_path / "a.safetensors"
    write_ported(path, arrays, METADATA)
    read, metadata = read_ported(path)
    assert _same_bits(read, arrays)
    assert metadata == METADATA | {
        "format": "flax_attn",
        "widths": list(WIDTHS),
        "depths": list(DEPTHS),
    }
    before = path.read_bytes()
    write_ported(path, dict(reversed(arrays.items())), metadata)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_ported(path, _port("attn_vgg"), METADATA)
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    # Header, first and last array; bit 7 makes the header invalid text, bit 0 mostly does not.
    positions = [0, 8, 40, 8 + header // 2, 8 + header, len(content) - 1]
    for position in positions:
        for bit in (0, 7):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(WeightsError, match="a.safetensors"):
                read_ported(path)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    for content in (b"", b"<html>not found</html>", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="no safetensors file"):
            read_ported(path)
    save_file({"a": np.zeros(3, np.float32)}, path)
    with pytest.raises(WeightsError, match="flax-attn port"):
        read_ported(path)
    with pytest.raises(WeightsError, match="no such file"):
        read_ported(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        read_ported(tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(WeightsError, match="cannot write"):
        write_ported(target, _port("attn_vgg"), METADATA)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(ValueError, match="missing: batch_norm"):
        write_ported(tmp_path / "b", {}, {k: v for k, v in METADATA.items() if k != "batch_norm"})


@pytest.mark.parametrize("name", model.MODELS)
@pytest.mark.parametrize("layout", ["vgg16_bn", "backbone"])
def test_a_backbone_fills_any_network(name: str, layout: str) -> None:
    source = _port("vgg16_bn")
    arrays = {p: a for p, a in source.items() if layout == "vgg16_bn" or "backbone/" in p}
    params, stats = _template(name, num_classes=2)
    loaded = load_into(arrays, params, stats)
    assert loaded.params.keys() == params.keys() and loaded.stats.keys() == stats.keys()
    head = {p for p in params if not p.startswith("backbone/")}
    if (name, layout) == ("vgg16_bn", "vgg16_bn"):
        # Another number of classes: all but the last layer.
        head = {"dense/2/kernel", "dense/2/bias"}
    assert set(loaded.kept) == head
    for path, value in {**loaded.params, **loaded.stats}.items():
        expected = {**params, **stats}[path] if path in head else arrays[path]
        np.testing.assert_array_equal(value, expected)


def test_a_whole_network_loads_whole_and_strictly() -> None:
    arrays = _port("attn_vgg")
    params, stats = _template("attn_vgg")
    loaded = load_into(arrays, params, stats)
    assert loaded.kept == []
    assert _same_bits({**loaded.params, **loaded.stats}, arrays)
    with pytest.raises(WeightsError, match="They tell 3 classes apart, the data set has 2"):
        load_into(arrays, *_template("attn_vgg", num_classes=2))


def test_a_backbone_of_other_sizes_is_refused() -> None:
    params, stats = _template("vgg16_bn_gap")
    arrays = _port("vgg16_bn")
    arrays["backbone/stages/4/layers/1/kernel"] = arrays.pop("backbone/stages/4/layers/0/kernel")
    arrays["backbone/stages/0/layers/0/bias"] = np.zeros(9, np.float32)
    arrays["backbone/stages/0/layers/0/norm/var"] *= -1
    with pytest.raises(WeightsError) as caught:
        load_into(arrays, params, stats, source="a.safetensors")
    for part in ("1 missing", "1 unexpected", "1 misshapen", "1 negative running variance"):
        assert part in str(caught.value)


def test_tables_of_another_depth_do_not_fit_the_template() -> None:
    with pytest.raises(ValueError, match="table attn_vgg and template differ"):
        to_flax(TABLES["attn_vgg"]((2, 2, 3, 3, 3)), {}, _leaves("attn_vgg"))


def test_porting_imports_neither_torch_nor_jax() -> None:
    code = "import sys, flax_attn.porting; print('torch' in sys.modules, 'jax' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_every_parameter_has_a_place() -> None:
    """The tables cover the networks: no array of ours is outside them."""
    for layout in TABLES:
        paths = {entry.path for entry in TABLES[layout](DEPTHS).entries.values()}
        assert paths == _leaves(layout).keys()
    assert isinstance(build_model(TINY, num_classes=2), nnx.Module)
