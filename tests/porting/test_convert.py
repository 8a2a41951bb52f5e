"""Arrays there and back bit for bit, strict reports, and what a network takes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flax_attn import models
from flax_attn.errors import WeightsError
from flax_attn.porting.convert import from_flax, load_into, to_flax
from flax_attn.porting.tables import TABLES
from tests.helpers.small_torch import (
    DEPTHS,
    NETWORKS,
    leaves,
    ported_arrays,
    same_bits,
    template,
    tensors_of,
    torch_attn_vgg,
    torch_vgg,
)


@pytest.mark.parametrize("layout", NETWORKS)
def test_round_trips_are_bit_identical(layout: str) -> None:
    table, network = TABLES[layout](DEPTHS), NETWORKS[layout]()
    tensors = tensors_of(network)
    arrays = to_flax(table, tensors, leaves(layout))
    back = from_flax(table, arrays)
    assert same_bits(back, tensors)
    assert same_bits(to_flax(table, back, leaves(layout)), arrays)
    fresh = NETWORKS[layout]()
    fresh.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()}, strict=True)


def test_backbone_alone_ignores_the_classifier() -> None:
    tensors = tensors_of(torch_vgg())
    arrays = to_flax(TABLES["backbone"](DEPTHS), tensors, leaves("backbone"))
    assert all(path.startswith("backbone/") for path in arrays)
    assert len(arrays) == 6 * sum(DEPTHS)


def test_one_report_names_every_problem() -> None:
    tensors = tensors_of(torch_attn_vgg())
    del tensors["cls.bias"]
    for i in range(7):
        tensors[f"extra{i}"] = np.zeros(1, np.float32)
    tensors["attn1.W_l.weight"] = tensors["attn1.W_l.weight"][:, :, 0, 0]
    tensors["attn2.W_g.weight"] = tensors["attn2.W_g.weight"].astype(np.float16)
    tensors["conv_block1.0.weight"][0, 0, 0, 0] = np.nan
    tensors["conv_block1.1.running_var"][2] = -1e-3
    with pytest.raises(WeightsError) as caught:
        to_flax(TABLES["attn_vgg"](DEPTHS), tensors, leaves("attn_vgg"), source="x.pth")
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
    network = torch_attn_vgg().to(getattr(torch, dtype))
    widened = {key: tensor.float().numpy() for key, tensor in network.state_dict().items()}
    if dtype == "bfloat16":
        import ml_dtypes

        tensors = {key: value.astype(ml_dtypes.bfloat16) for key, value in widened.items()}
    else:
        tensors = tensors_of(network)
    table, template = TABLES["attn_vgg"](DEPTHS), leaves("attn_vgg")
    with pytest.raises(WeightsError, match=f"not float32 .* is {dtype}.*--cast"):
        to_flax(table, tensors, template)
    expected = to_flax(table, widened, template)
    assert same_bits(to_flax(table, tensors, template, cast=True), expected)


def test_a_cast_out_of_range_and_integers_are_refused() -> None:
    tensors = tensors_of(torch_attn_vgg())
    tensors["cls.bias"] = np.array([1e300, 0, 0])
    tensors["attn1.phi.bias"] = np.array([1], np.int64)
    with pytest.raises(WeightsError, match="not float32 .attn1.phi.bias.*not finite .cls.bias"):
        to_flax(TABLES["attn_vgg"](DEPTHS), tensors, leaves("attn_vgg"), cast=True)


def test_misshapen_tensors_are_never_read() -> None:
    class Claim:
        shape, dtype = (10**6, 10**6), "float32"

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            raise AssertionError("was read")

    tensors = {**tensors_of(torch_attn_vgg()), "cls.weight": Claim(), "more": Claim()}
    with pytest.raises(WeightsError, match="misshapen .cls.weight.*unexpected .more"):
        to_flax(TABLES["attn_vgg"](DEPTHS), tensors, leaves("attn_vgg"))


def test_large_finite_values_pass() -> None:
    tensors = tensors_of(torch_attn_vgg())
    tensors["cls.weight"][:] = 3e38
    to_flax(TABLES["attn_vgg"](DEPTHS), tensors, leaves("attn_vgg"))


def test_tables_of_another_depth_do_not_fit_the_template() -> None:
    with pytest.raises(ValueError, match="table attn_vgg and template differ"):
        to_flax(TABLES["attn_vgg"]((2, 2, 3, 3, 3)), {}, leaves("attn_vgg"))


def test_from_flax_is_strict() -> None:
    arrays = ported_arrays("attn_vgg")
    del arrays["classifier/bias"]
    arrays["backbone/stages/9/x"] = arrays["classifier/kernel"]
    arrays["gates/pool3/score/phi"] = arrays["gates/pool3/score/phi"].astype(np.float64)
    with pytest.raises(WeightsError, match="1 not float32.*1 missing.*1 unexpected"):
        from_flax(TABLES["attn_vgg"](DEPTHS), arrays)


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("layout", ["torchvision", "backbone"])
def test_a_backbone_fills_any_network(name: str, layout: str) -> None:
    source = ported_arrays("torchvision")
    arrays = {p: a for p, a in source.items() if layout == "torchvision" or "backbone/" in p}
    params, stats = template(name, num_classes=2)
    loaded = load_into(arrays, params, stats)
    assert loaded.params.keys() == params.keys() and loaded.stats.keys() == stats.keys()
    head = {p for p in params if not p.startswith("backbone/")}
    if (name, layout) == ("vgg", "torchvision"):
        # Another number of classes: all but the last layer.
        head = {"dense/2/kernel", "dense/2/bias"}
    assert set(loaded.kept) == head
    for path, value in {**loaded.params, **loaded.stats}.items():
        expected = {**params, **stats}[path] if path in head else arrays[path]
        np.testing.assert_array_equal(value, expected)


def test_a_whole_network_loads_whole_and_strictly() -> None:
    arrays = ported_arrays("attn_vgg")
    params, stats = template("attn_vgg")
    loaded = load_into(arrays, params, stats)
    assert loaded.kept == []
    assert same_bits({**loaded.params, **loaded.stats}, arrays)
    assert loaded.new_classes is None


def test_the_last_layer_starts_anew_for_other_classes() -> None:
    arrays = ported_arrays("attn_vgg")
    params, stats = template("attn_vgg", num_classes=2)
    loaded = load_into(arrays, params, stats)
    assert loaded.kept == ["classifier/bias", "classifier/kernel"]
    assert loaded.new_classes == "3 classes there, 2 here: the last layer starts anew"
    for path, value in {**loaded.params, **loaded.stats}.items():
        expected = params if path in loaded.kept else arrays
        np.testing.assert_array_equal(value, expected[path])


@pytest.mark.parametrize("shape", [(2, 2), ()], ids=["matrix", "scalar"])
def test_a_bias_of_another_rank_is_no_other_number_of_classes(shape: tuple[int, ...]) -> None:
    arrays = {**ported_arrays("attn_vgg"), "classifier/bias": np.zeros(shape, np.float32)}
    with pytest.raises(WeightsError, match="misshapen .classifier/bias"):
        load_into(arrays, *template("attn_vgg"))


def test_a_backbone_of_other_sizes_is_refused() -> None:
    params, stats = template("vgg_gap")
    arrays = ported_arrays("torchvision")
    arrays["backbone/stages/4/layers/1/kernel"] = arrays.pop("backbone/stages/4/layers/0/kernel")
    arrays["backbone/stages/0/layers/0/bias"] = np.zeros(9, np.float32)
    arrays["backbone/stages/0/layers/0/norm/var"] *= -1
    with pytest.raises(WeightsError) as caught:
        load_into(arrays, params, stats, source="a.safetensors")
    for part in ("1 missing", "1 unexpected", "1 misshapen", "1 negative running variance"):
        assert part in str(caught.value)


def test_an_array_of_another_dtype_is_named() -> None:
    params, stats = template("vgg_gap")
    arrays = {p: a for p, a in ported_arrays("torchvision").items() if "backbone/" in p}
    path = "backbone/stages/1/layers/0/bias"
    arrays[path] = arrays[path].astype(np.float64)
    with pytest.raises(WeightsError, match=rf"1 of another dtype \({path} is float64, expected"):
        load_into(arrays, params, stats)
