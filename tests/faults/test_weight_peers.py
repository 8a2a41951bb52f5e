"""timm and Keras run as they are: the same weights, pictures and logits in both directions.

The long form of ``tests/porting/test_layouts.py``; it needs the peers extra (timm and Keras).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "jax")

from flax_attn.models.family import VGGS
from flax_attn.porting import read_ported
from flax_attn.porting.architecture import Architecture
from flax_attn.porting.pixels import SCALES
from tests.golden.make_peers import FILES, PEERS, images, small
from tests.helpers.plain_vgg import logits, narrow, random_arrays
from tests.helpers.small_torch import run_port, same_bits
from tests.helpers.weight_peers import (
    fill_keras,
    filled,
    keras_logits,
    keras_vgg,
    relative,
    save_keras_file,
    timm_vgg,
    torch_logits,
    torchvision_vgg,
)

pytestmark = [
    pytest.mark.faults,
    # What the peers say of their own formats and dependencies.
    pytest.mark.filterwarnings("ignore"),
]

PLAIN = [name for name in VGGS if not VGGS[name].norm]
FULL = (64, 128, 256, 512, 512)
# Relative to the largest logit, at 224 pixels.
BOUND = 1e-5


def port(source: Path, out: Path, *flags: object, widths: tuple[int, ...]) -> Path:
    assert run_port("--source", source, "--out", out, "--widths", *widths, *flags) == 0
    return out


@pytest.mark.parametrize("make", [torchvision_vgg, timm_vgg], ids=["torchvision", "timm"])
@pytest.mark.parametrize("name", VGGS)
def test_pytorch_there_and_back(
    name: str, make: Callable[[Architecture], Any], tmp_path: Path
) -> None:
    network = narrow(VGGS[name])
    theirs, source = filled(make(network), seed=3), tmp_path / "a.pth"
    torch.save(theirs.state_dict(), source)
    ours = port(source, tmp_path / "o.safetensors", widths=network.widths)
    said = logits(read_ported(ours).arrays, images(), network.backbone)
    assert relative(said, torch_logits(theirs, images())) < BOUND
    to = "timm" if make is timm_vgg else "torch"
    back = port(ours, tmp_path / "b.pth", "--to", to, widths=network.widths)
    again = make(network)
    again.load_state_dict(torch.load(back, weights_only=True), strict=True)
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("kind", ["a.weights.h5", "legacy.h5", "model.h5"])
@pytest.mark.parametrize("top", [True, False], ids=["top", "no top"])
@pytest.mark.parametrize("name", PLAIN)
def test_keras_there_and_back(name: str, top: bool, kind: str, tmp_path: Path) -> None:
    network = narrow(VGGS[name])
    check_keras(network, tmp_path, kind=kind, top=top)


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_keras_applications_in_full_size(name: str, tmp_path: Path) -> None:
    check_keras(Architecture(VGGS[name], FULL, "dense"), tmp_path, kind="a.weights.h5")


def check_keras(network: Architecture, folder: Path, *, kind: str, top: bool = True) -> None:
    arrays = random_arrays(network if top else network._replace(head=None))
    # Caffe's pixels are up to 255; the article's networks begin with unit inputs.
    first = next(iter(arrays))
    arrays[first] = arrays[first] / np.float32(60)
    theirs = fill_keras(keras_vgg(network, top=top), list(arrays.values()))
    save_keras_file(theirs, folder / kind)
    ours = port(folder / kind, folder / "o.safetensors", widths=network.widths)
    ported, metadata = read_ported(ours)
    assert metadata["pixels"] == "caffe"
    if top:
        said = logits(ported, images(), network.backbone, pixels=SCALES["caffe"])
        assert relative(said, keras_logits(theirs, images())) < BOUND
    for name in ("b.weights.h5", "b.h5"):
        back = port(ours, folder / name, "--to", "keras", widths=network.widths)
        again = keras_vgg(network, top=top)
        again.load_weights(back)
        pairs = zip(again.get_weights(), arrays.values(), strict=True)
        assert all(got.tobytes() == expected.tobytes() for got, expected in pairs)


@pytest.mark.parametrize("name", PLAIN)
def test_torchvisions_weights_run_in_keras(name: str, tmp_path: Path) -> None:
    network = narrow(VGGS[name])
    theirs, source = filled(torchvision_vgg(network), seed=3), tmp_path / "a.pth"
    torch.save(theirs.state_dict(), source)
    there = port(source, tmp_path / "a.weights.h5", "--to", "keras", widths=network.widths)
    keras = keras_vgg(network)
    keras.load_weights(there)
    expected = torch_logits(theirs, images())
    assert relative(keras_logits(keras, images(), mode="torch"), expected) < BOUND
    folding = ("--to", "keras", "--fold-pixels", "caffe")
    folded = port(source, tmp_path / "b.weights.h5", *folding, widths=network.widths)
    keras.load_weights(folded)
    # The border is padded with another colour, by half a grey level of 255.
    assert 1e-7 < relative(keras_logits(keras, images()), expected) < 1e-2


@pytest.mark.parametrize("name", FILES)
def test_the_golden_files_are_what_the_peers_write_today(name: str, tmp_path: Path) -> None:
    golden, made = np.load(PEERS), small(name, tmp_path)
    assert relative(made[f"logits/{name}"], golden[f"logits/{name}"]) < BOUND
    widths, found = narrow(VGGS[FILES[name]]).widths, {}
    for origin in (golden, made):
        source = tmp_path / name
        source.write_bytes(origin[f"file/{name}"].tobytes())
        out = port(source, tmp_path / "o.safetensors", widths=widths)
        found[id(origin)] = read_ported(out).arrays
    assert same_bits(*found.values())
