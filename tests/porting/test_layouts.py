"""Every layout of every VGG: round trips bit for bit, and the same logits as its own library."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from flax_attn.errors import WeightsError
from flax_attn.models import abstract_model
from flax_attn.models.family import VGGS
from flax_attn.porting import read_ported
from flax_attn.porting.architecture import Architecture, find_backbone, told_depths
from flax_attn.porting.convert import from_flax, to_flax
from flax_attn.porting.layer_names import COUNTED_CONV
from flax_attn.porting.pixels import SCALES
from flax_attn.porting.tables import TABLES, KeyTable, TableMaker, backbone_table, keras_table
from tests.golden.make_peers import FILES, PEERS, images
from tests.helpers.plain_vgg import logits, narrow, random_arrays
from tests.helpers.small_torch import run_port, same_bits, small_config
from tests.helpers.weight_peers import filled, relative, torch_logits, torchvision_vgg

NAMINGS = ("features.", "features_", "", "conv_block", "block", COUNTED_CONV)


def tables(name: str) -> dict[str, tuple[str | None, KeyTable]]:
    """Every table of a network, with the head that it has."""
    depths, norm = VGGS[name].depths, VGGS[name].norm
    found: dict[str, tuple[str | None, KeyTable]] = {
        "torchvision": ("dense", TABLES["torchvision"](depths, norm)),
        "timm": ("dense", TABLES["timm"](depths, norm)),
        "attn_vgg": ("gates", TABLES["attn_vgg"](depths, norm)),
    }
    for naming in NAMINGS[: 4 if norm else None]:
        found[f"backbone {naming}"] = (None, backbone_table(depths, norm, naming=naming))
    for counted, bgr in product((False, True), (False, True)) if not norm else ():
        table = keras_table(depths, norm, bgr=bgr, counted=counted)
        found[f"keras {counted=} {bgr=}"] = ("dense", table)
    return found


@pytest.mark.parametrize("name", VGGS)
def test_round_trips_are_bit_identical_in_every_layout(name: str) -> None:
    for layout, (head, table) in tables(name).items():
        network = narrow(VGGS[name])._replace(head=head, attn_features=5)
        arrays, leaves = random_arrays(network), network.leaves()
        there = from_flax(table, arrays)
        assert len(there) == len(arrays) + len(table.counters), layout
        assert same_bits(to_flax(table, there, leaves), arrays), layout
        assert same_bits(from_flax(table, to_flax(table, there, leaves)), there), layout
        # Names and sizes alone tell the network.
        assert find_backbone(there) == VGGS[name], layout
        assert told_depths(there, VGGS[name].norm) == VGGS[name].depths, layout


def test_keras_has_no_normalisation() -> None:
    for layout in ("keras", "backbone"):
        with pytest.raises(WeightsError, match="Keras's VGGs have no batch normalisation"):
            if layout == "keras":
                keras_table((1,) * 5, True)
            else:
                backbone_table((1,) * 5, True, naming="block")


@pytest.mark.parametrize("name", VGGS)
def test_keys_and_shapes_are_torchvisions_in_full_size(name: str) -> None:
    from torchvision import models

    with torch.device("meta"):
        state = getattr(models, name)(weights=None).state_dict()
    shapes = {key: list(value.shape) for key, value in state.items()}
    _check_shapes(TABLES["torchvision"], name, shapes)


@pytest.mark.parametrize("peer", json.loads(str(np.load(PEERS)["keys"])))
def test_keys_and_shapes_are_the_peers_in_full_size(peer: str) -> None:
    library, name = peer.split()
    _check_shapes(TABLES[library], name, json.loads(str(np.load(PEERS)["keys"]))[peer])


def _check_shapes(make: TableMaker, name: str, shapes: dict[str, list[int]]) -> None:
    backbone = VGGS[name]
    table = make(backbone.depths, backbone.norm)
    assert table.entries.keys() | table.counters == shapes.keys()
    leaves = Architecture(backbone, (64, 128, 256, 512, 512), "dense").leaves()
    for key, (path, transform) in table.entries.items():
        assert list(transform.foreign_shape(leaves[path].shape)) == shapes[key], key


@pytest.mark.parametrize("backbone", VGGS)
@pytest.mark.parametrize(("model", "head"), [("vgg", "dense"), ("attn_vgg", "gates")])
def test_shapes_are_those_of_our_networks(model: str, head: str, backbone: str) -> None:
    config = replace(small_config(model), backbone=backbone, depths=None)
    _, params, stats = abstract_model(config, num_classes=3)
    ours = Architecture(
        VGGS[backbone],
        config.widths,
        head,
        classes=3,
        hidden=config.hidden,
        attn_features=config.attn_features,
    )
    expected = {path: tuple(leaf.shape) for path, leaf in {**params, **stats}.items()}
    assert {path: leaf.shape for path, leaf in ours.leaves().items()} == expected


@pytest.mark.parametrize("name", ["vgg11", "vgg13_bn"])
def test_torchvision_says_the_same_and_takes_its_weights_back(name: str, tmp_path: Path) -> None:
    backbone = VGGS[name]
    network = narrow(backbone)
    theirs = filled(torchvision_vgg(network), seed=3)
    source, ours, back = (tmp_path / n for n in ("a.pth", "o.safetensors", "b.pth"))
    torch.save(theirs.state_dict(), source)
    widths = ("--widths", *network.widths)
    assert run_port("--source", source, "--out", ours, *widths) == 0
    ported = read_ported(ours)
    assert ported.metadata["batch_norm"] == ("trained" if backbone.norm else "none")
    assert ported.metadata["depths"] == list(backbone.depths)
    expected = torch_logits(theirs, images())
    assert relative(logits(ported.arrays, images(), backbone), expected) < 1e-5
    assert run_port("--source", ours, "--out", back, "--to", "torch") == 0
    again = torchvision_vgg(network)
    again.load_state_dict(torch.load(back, weights_only=True), strict=True)
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("name", FILES)
def test_files_of_the_peers_say_what_the_peers_said(name: str, tmp_path: Path) -> None:
    """Written by timm and Keras themselves (tests/golden/make_peers.py)."""
    golden, backbone = np.load(PEERS), VGGS[FILES[name]]
    source, ours = tmp_path / name, tmp_path / "o.safetensors"
    source.write_bytes(golden[f"file/{name}"].tobytes())
    widths = ("--widths", *narrow(backbone).widths)
    assert run_port("--source", source, "--out", ours, *widths) == 0
    arrays, metadata = read_ported(ours)
    pixels = SCALES[metadata["pixels"]]
    assert metadata["pixels"] == ("imagenet" if name.startswith("timm") else "caffe")
    said = logits(arrays, images(), backbone, pixels=pixels)
    assert relative(said, golden[f"logits/{name}"]) < 1e-5
    # Back in the same layout, and read again.
    to, back = ("timm" if name.startswith("timm") else "keras"), tmp_path / f"back-{name}"
    assert run_port("--source", ours, "--out", back, "--to", to) == 0
    assert run_port("--source", back, "--out", tmp_path / "p.safetensors", *widths) == 0
    assert same_bits(read_ported(tmp_path / "p.safetensors").arrays, arrays)
