"""``flax-attn port inspect``: what a file is and fills, or why it is nothing, in one line each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flax_attn.errors import WeightsError
from flax_attn.models.family import VGGS
from flax_attn.porting import sha256_of, write_ported
from flax_attn.porting.convert import from_flax
from flax_attn.porting.keras_h5 import write_keras
from flax_attn.porting.tables import TABLES, backbone_table
from tests.helpers.plain_vgg import narrow, random_arrays
from tests.helpers.small_torch import error_line, run_port, torch_attn_vgg

State = dict[str, Any]
OK, REFUSED = 0, WeightsError.exit_code
WIDE = "by --widths 3 4 6 5 7"
WHOLE, CONVS = f"fills the whole network, {WIDE}", "fills any network's backbone"


class Case(NamedTuple):
    """What writes a file of the name, and what is said of it."""

    name: str
    write: Callable[[Path], object]
    code: int
    said: tuple[str, ...]
    flags: tuple[str, ...] = ()


def arrays(name: str, head: str | None = "dense") -> dict[str, np.ndarray]:
    return random_arrays(narrow(VGGS[name])._replace(head=head))


def state(name: str = "vgg16", layout: str = "torchvision") -> State:
    """A state dict, or what a file of Keras holds."""
    backbone = VGGS[name]
    head = {"attn_vgg": "gates", "backbone": None}.get(layout, "dense")
    return from_flax(TABLES[layout](backbone.depths, backbone.norm), arrays(name, head))


def torch_file(content: Callable[[], Mapping[str, Any]]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        torch.save(_as_tensors(content()), path)

    return write


def _as_tensors(values: Any) -> Any:
    if isinstance(values, np.ndarray):
        return torch.from_numpy(values.copy())
    return {k: _as_tensors(v) for k, v in values.items()} if isinstance(values, dict) else values


def keras_file(content: Callable[[], State]) -> Callable[[Path], object]:
    return lambda path: write_keras(path, content(), pixels="caffe")


def without(*names: str, of: str = "vgg16") -> State:
    return {key: value for key, value in state(of).items() if not key.startswith(names)}


def changed(rank: int, change: Callable[[np.ndarray], np.ndarray]) -> State:
    return {k: change(v) if v.ndim == rank else v for k, v in state().items()}


def prefixed(prefix: str, values: State) -> State:
    return {prefix + key: value for key, value in values.items()}


def no_statistics() -> State:
    return {k: v for k, v in state("vgg16_bn").items() if "running" not in k}


def mixed_heads() -> State:
    return {**state(layout="timm"), "classifier.0.weight": state()["classifier.0.weight"]}


def ours(path: Path, damage: bool = False) -> None:
    network = narrow(VGGS["vgg13"])
    told = {"source": "x", "source_sha256": "0", "layout": "keras", "batch_norm": "none"}
    depths = VGGS["vgg11" if damage else "vgg13"].depths
    told |= {"pixels": "caffe", "widths": network.widths, "depths": depths}  # type: ignore[dict-item]
    write_ported(path, random_arrays(network), told)


def cut(write: Callable[[Path], object]) -> Callable[[Path], object]:
    def short(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[:-100])

    return short


def transfer() -> State:
    """A Keras network with another head, as a whole model holds it."""
    table = backbone_table(VGGS["vgg19"].depths, False, naming="block")
    return {**from_flax(table, arrays("vgg19", None)), "dense/kernel": np.zeros((7, 2), "f4")}


def counted(kernels: int) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for i in range(kernels):
                file[f"layers/conv2d{f'_{i}' if i else ''}/vars/0"] = np.zeros((3, 3, 3, 3), "f4")

    return write


CASES = {
    **{
        f"torchvision-{name}": Case(
            "a.pth", torch_file(lambda name=name: state(name)), OK, (f"torchvision, {name},", WHOLE)
        )
        for name in VGGS
    },
    "timm": Case(
        "a.safetensors",
        lambda path: save_file(_as_tensors(state("vgg13_bn", "timm")), path),
        OK,
        ("layout timm, vgg13_bn, 3 classes, float32, 66 arrays", "imagenet pixels", WHOLE),
    ),
    "keras": Case(
        "a.h5",
        keras_file(lambda: state("vgg19", "keras")),
        OK,
        ("layout keras, vgg19, 3 classes, float32, 38 arrays", "caffe pixels", WHOLE),
    ),
    "keras-another-head": Case(
        "a.h5",
        keras_file(transfer),
        OK,
        ("keras, vgg19, no classifier", f"--layout backbone {CONVS}", "1 unexpected (dense/kernel"),
    ),
    "keras-of-another-network": Case(
        "a.h5", counted(53), REFUSED, ("has 53 convolutions, as no VGG of Keras",)
    ),
    "the-article's": Case(
        "a.pth",
        torch_file(lambda: dict(torch_attn_vgg().state_dict())),
        OK,
        ("attn_vgg, AttnVGG on a VGG_bn of depths 1 2 1 2 1, 3 classes", "by --depths 1 2 1 2 1"),
    ),
    "convolutions-alone": Case(
        "a.pth",
        torch_file(lambda: state("vgg11", "backbone")),
        OK,
        ("torchvision, vgg11, no classifier", CONVS, "it has no head"),
    ),
    "lightning-and-parallel": Case(
        "last.ckpt",
        torch_file(lambda: {"state_dict": prefixed("model.module.", state()), "epoch": 3}),
        OK,
        ("names without 'model.module.'", "torchvision, vgg16,", WHOLE),
    ),
    "compiled-timm-by-entry": Case(
        "a.pth",
        torch_file(
            lambda: {"model": state(), "ema": prefixed("_orig_mod.", state("vgg13", "timm"))}
        ),
        OK,
        ("weights of 'ema'", "layout timm, vgg13,", WHOLE),
        ("--entry", "ema"),
    ),
    "half": Case(
        "a.pth",
        torch_file(lambda: {k: v.astype(np.float16) for k, v in state().items()}),
        OK,
        ("float16 (port takes it with --cast)", WHOLE),
    ),
    "ours": Case("a.safetensors", ours, OK, ("layout flax_attn, vgg13,", "caffe pixels", WHOLE)),
    "ours-of-other-depths": Case(
        "a.safetensors", lambda path: ours(path, True), REFUSED, ("holds another network than",)
    ),
    "pytorch-named-h5": Case("a.h5", torch_file(state), OK, ("torchvision, vgg16,", WHOLE)),
    "keras-named-pth": Case(
        "a.pth", keras_file(lambda: state("vgg11", "keras")), OK, ("keras, vgg11,", WHOLE)
    ),
    "layers-renamed": Case(
        "a.pth",
        torch_file(lambda: {k.replace("features", "layers"): v for k, v in state().items()}),
        REFUSED,
        ("is neither a VGG of torchvision, timm or Keras nor", "its keys are layers.0.weight"),
    ),
    "cut-pth": Case("a.pth", cut(torch_file(state)), REFUSED, ("or a damaged one",)),
    "cut-h5": Case(
        "a.h5",
        cut(keras_file(lambda: state("vgg11", "keras"))),
        REFUSED,
        ("is a damaged HDF5 file", "truncated"),
    ),
    "cut-ours": Case("a.safetensors", cut(ours), REFUSED, ("or a damaged one",)),
    "mixed-heads": Case(
        "a.pth",
        torch_file(mixed_heads),
        OK,
        ("timm, vgg16, no classifier", "1 unexpected (classifier.0.weight)"),
    ),
    "mixed-depths": Case(
        "a.pth", torch_file(lambda: {**state("vgg19"), **state()}), REFUSED, ("6 unexpected",)
    ),
    "mixed-normalisation": Case(
        "a.pth",
        torch_file(lambda: {**state(), **state("vgg16_bn")}),
        REFUSED,
        ("unexpected (feat",),
    ),
    "last-convolution-missing": Case(
        "a.pth",
        torch_file(lambda: without("features.28.")),
        OK,
        ("a VGG of depths 2 2 3 3 2", "by --depths 2 2 3 3 2 (none of the eight)"),
    ),
    "a-convolution-missing": Case(
        "a.pth",
        torch_file(lambda: without("features.12.")),
        REFUSED,
        ("2 missing (features.12.weight, features.12.bias)",),
    ),
    "a-gap-that-leaves-five-stages": Case(
        "a.pth",
        torch_file(lambda: without("features.2.", of="vgg13")),
        REFUSED,
        ("2 missing (features.2.weight, features.2.bias)",),
    ),
    "no-running-statistics": Case(
        "a.pth", torch_file(no_statistics), REFUSED, ("26 missing (features.1.running_mean",)
    ),
    "last-layer-missing": Case(
        "a.pth",
        torch_file(lambda: without("classifier.6.weight")),
        OK,
        ("no classifier", "1 missing (classifier.6.weight)"),
    ),
    "swapped-in-and-out": Case(
        "a.pth",
        torch_file(lambda: changed(4, lambda w: w.swapaxes(0, 1))),
        REFUSED,
        ("4 misshapen (features.5.weight is [3, 4, 3, 3], expected [4, 3, 3, 3]",),
    ),
    "swapped-kernels-last": Case(
        "a.pth",
        torch_file(lambda: changed(4, lambda w: w.transpose(2, 3, 1, 0))),
        REFUSED,
        ("misshapen (features.5.weight is [3, 3, 3, 4], expected [4, 3, 3, 3]",),
    ),
    "swapped-dense": Case(
        "a.pth",
        torch_file(lambda: changed(2, np.transpose)),
        OK,
        ("no classifier", "2 misshapen (classifier.0.weight is [343, 11], expected [11, 343]"),
    ),
    "not-finite": Case(
        "a.pth",
        torch_file(lambda: changed(4, lambda w: w * np.float32("nan"))),
        REFUSED,
        ("13 not finite (features.0.weight",),
    ),
    "web-page": Case(
        "a.h5", lambda path: path.write_text("<html>"), REFUSED, ("is a web page, not the weights",)
    ),
    "no-file": Case("a.pth", lambda path: None, REFUSED, ("no such file",)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_told_or_refused_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    path = tmp_path / case.name
    case.write(path)
    assert run_port("inspect", path, *case.flags) == case.code
    if case.code == REFUSED:
        line = error_line(capsys)
        assert str(path) in line
    else:
        captured = capsys.readouterr()
        line = captured.out
        # What is taken of a checkpoint is a line of its own.
        assert captured.err == "" and line.count("\n") == 1 + ("names without" in line)
        assert sha256_of(path) in line
    assert all(part in line for part in case.said), line


def test_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for head in (True, False):
        state_dict = state("vgg16_bn") if head else state("vgg16_bn", "backbone")
        torch_file(lambda held=state_dict: {"model": prefixed("module.", held)})(tmp_path / "a.pth")
        assert run_port("inspect", tmp_path / "a.pth", "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["layout"] == "torchvision" and found["network"] == "vgg16_bn"
        assert found["classes"] == (3 if head else None)
        assert found["fills"] == ["backbone", *(["dense"] if head else [])]
        assert found["sha256"] == sha256_of(tmp_path / "a.pth")
        assert found["arrays"] == 6 * 13 + (6 if head else 0) == sum(found["dtypes"].values())
        expected = arrays("vgg16_bn", "dense" if head else None)
        statistics = sum(a.size for p, a in expected.items() if p.endswith(("/mean", "/var")))
        assert found["statistics"] == statistics
        assert found["parameters"] == sum(a.size for a in expected.values()) - statistics


def test_what_is_inspected_is_ported_with_the_flags_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And refused without them, for a network of other sizes may be a damaged one."""
    path, out = tmp_path / "a.pth", tmp_path / "b.safetensors"
    torch_file(lambda: without("features.28."))(path)
    assert run_port("--source", path, "--out", out) == REFUSED
    assert "as none of vgg11, " in (line := error_line(capsys)) and "--depths 2 2 3 3 2" in line
    depths = ("--depths", *"22332")
    assert run_port("--source", path, "--out", out, *depths) == REFUSED
    assert "if that is meant, name --widths 3 4 6 5 7" in error_line(capsys)
    assert run_port("--source", path, "--out", out, *depths, "--widths", *"34657") == 0
