"""State dicts within what training scripts save around them: which is taken, and what is said."""

from __future__ import annotations

import logging
from argparse import Namespace
from itertools import pairwise

import numpy as np
import pytest

from flax_attn.errors import WeightsError
from flax_attn.porting.wrappers import ENTRIES, PREFIXES, unwrap
from tests.helpers.small_torch import same_bits, tensors_of, torch_attn_vgg


def network(value: float) -> dict[str, np.ndarray]:
    """Names that are enough to be known."""
    return {"conv_block1.0.weight": np.full(2, value, "f4"), "cls.bias": np.full(1, value, "f4")}


def taken(checkpoint: dict[str, object], **options: str) -> float:
    """Which of several networks was taken, by its value; its names must be a network's own."""
    found = unwrap(checkpoint, **options)
    assert found.keys() == network(0).keys()
    return float(found["cls.bias"][0])


def test_known_wrappers_are_removed() -> None:
    tensors = tensors_of(torch_attn_vgg())
    parallel = {f"module.{key}": value for key, value in tensors.items()}
    for wrapped in (parallel, {"state_dict": parallel, "epoch": 3}, {"model": tensors}):
        assert same_bits(unwrap(wrapped), tensors)
    with pytest.raises(WeightsError, match="no state dict: it holds state, param_groups"):
        unwrap({"state": {}, "param_groups": []})
    for empty in ({}, {"total_ops": np.zeros(1), "features.total_ops": np.zeros(1)}):
        with pytest.raises(WeightsError, match="no state dict"):
            unwrap(empty)
    endless: dict[str, object] = {}
    endless["state_dict"] = endless
    with pytest.raises(WeightsError, match="no state dict: it holds state_dict"):
        unwrap(endless)


@pytest.mark.parametrize(("first", "second"), list(pairwise(ENTRIES)))
def test_of_two_entries_the_first_of_the_list_is_taken_and_said(
    first: str, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    both = {second: network(2), first: network(1)}
    assert taken(both) == 1
    assert f"weights of '{first}'; not of '{second}' (--entry takes another)" in caplog.text
    assert taken(both, entry=second) == 2
    assert f"weights of '{second}'; not of '{first}'" in caplog.text


@pytest.mark.parametrize(("first", "second"), list(pairwise(PREFIXES)))
def test_of_two_prefixes_the_first_of_the_list_is_taken_and_said(
    first: str, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    both = {
        f"{name}.{key}": value
        for name, number in ((second, 2), (first, 1))
        for key, value in network(number).items()
    }
    assert taken(both) == 1
    assert f"names without '{first}.'; passed over 2 tensors of '{second}.'" in caplog.text


def test_what_is_no_network_is_no_rival() -> None:
    config = {"name": "vgg16_bn", "depths": [2, 2, 3, 3, 3]}
    layer = {"layer1.weight": np.zeros(3, "f4")}
    rivals = {"state_dict": layer, "model": config, "net": network(1), "weights": np.ones(2, "f4")}
    assert taken({**rivals, "queue": np.zeros((4, 4), "f4")}) == 1


def test_an_entry_may_lie_in_another() -> None:
    checkpoint = {"model": network(1), "ema": {"decay": 0.99, "module": network(2)}}
    assert taken(checkpoint) == 1
    assert taken(checkpoint, entry="ema") == taken(checkpoint, entry="ema.module") == 2


def test_an_entry_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(WeightsError, match="no weights in the entry 'best': it has 'model', 'ema'"):
        unwrap({"model": network(1), "ema": network(2)}, entry="best")


def test_values_beside_tensors_are_passed_over_unless_they_are_layers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    beside = {"epoch": 3, "args": Namespace(lr=1), "best": np.float64(0.5), 7: None}
    assert taken({**network(1), **beside}) == 1
    assert "passed over 4 values that are no tensors (epoch, args, best, 7)" in caplog.text
    with pytest.raises(WeightsError, match="cls.weight is a Namespace"):
        unwrap({**network(1), "cls.weight": Namespace()})


@pytest.mark.parametrize("name", ["module", "_orig_mod", "module._orig_mod", "_orig_mod.module"])
def test_a_wrapper_around_a_part_is_taken_off_all_of_it_or_none(name: str) -> None:
    part = {f"attn1.{name}.W_l.weight": np.zeros(1), f"attn1.{name}.phi.bias": np.zeros(1)}
    assert {"attn1.W_l.weight", "attn1.phi.bias"} < unwrap({**network(1), **part}).keys()
    kept = unwrap({**network(1), **part, "attn1.W_g.weight": np.zeros(1)})
    assert "attn1.W_l.weight" not in kept


def test_one_name_for_two_tensors_is_refused() -> None:
    twice = {f"model.{key}": value for key, value in network(1).items()}
    with pytest.raises(WeightsError, match="two tensors for cls.bias: model.cls.bias and cls.bias"):
        unwrap({**twice, "cls.bias": np.zeros(1)})


def test_a_whole_model_in_an_entry_is_named() -> None:
    with pytest.raises(WeightsError, match="its 'model' is a TorchAttnVGG. and was not loaded"):
        unwrap({"model": torch_attn_vgg(), "epoch": 3})
