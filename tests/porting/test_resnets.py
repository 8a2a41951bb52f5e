"""torchvision's ResNets: state dicts both ways, bit for bit and strict, and the published files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from flax import nnx

import flax_attn as fa
from flax_attn.config import BACKBONES, RESNETS
from flax_attn.errors import WeightsError
from flax_attn.models import functional
from flax_attn.porting import imagenet, read_ported
from flax_attn.porting.architecture import Architecture
from flax_attn.porting.resnets import resnet_table
from flax_attn.porting.torchvision_files import PUBLISHED
from flax_attn.porting.weight_files import SUFFIXES
from flax_attn.system import cli
from tests.helpers.networks import flags_of
from tests.helpers.torch_resnet import torch_resnet

SIZES: dict[str, Any] = {"widths": (4, 6, 8, 8), "depths": (2, 1, 1, 1)}


@pytest.mark.parametrize("name", RESNETS)
def test_every_key_of_torchvisions_has_one_place(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None).state_dict()
    row = RESNETS[name]
    for head in (True, False):
        table = resnet_table(row.depths, row.expansion, head=head)
        left_out = set() if head else {"fc.weight", "fc.bias"}
        assert table.entries.keys() | table.counters == theirs.keys() - left_out
        assert len(table.paths) == len(table.entries)
    _, params, stats = functional.abstract(lambda: getattr(fa, name)(rngs=nnx.Rngs(0)))
    table = resnet_table(row.depths, row.expansion)
    shapes = {path: leaf.shape for path, leaf in {**params, **stats}.items()}
    ours = Architecture(row, row.family.widths, "average").leaves()
    assert {path: tuple(leaf.shape) for path, leaf in ours.items()} == shapes
    for key, (path, transform) in table.entries.items():
        assert transform.foreign_shape(shapes.pop(path)) == tuple(theirs[key].shape)
    assert shapes == {}


@pytest.mark.parametrize("name", RESNETS)
def test_state_dicts_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    network = torch_resnet(name, **SIZES, num_classes=3)
    state = network.state_dict()
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "theirs.pth")
    sizes = flags_of({"backbone": name, **SIZES})

    def port(*flags: str) -> int:
        return cli.main(["port", *flags])

    theirs, ours, back = (str(tmp_path / n) for n in ("theirs.pth", "a.safetensors", "b.pth"))
    assert port("--source", theirs, "--out", ours, *sizes) == 0
    arrays, metadata = read_ported(ours)
    assert (metadata["layout"], metadata["batch_norm"]) == ("torchvision", "trained")
    np.testing.assert_array_equal(arrays["classifier/kernel"].T, state["fc.weight"])
    assert port("--source", ours, "--to", "torch", "--out", back) == 0
    again = torch.load(back, weights_only=True)
    network.load_state_dict(again, strict=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], state[key]) for key in state)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return torch_resnet("resnet18", **SIZES, num_classes=3).state_dict()


def network(kind: Any = fa.GapVGG, backbone: str = "resnet18", **settings: Any) -> Any:
    sizes = SIZES if BACKBONES[backbone].family.name == "resnet" else {"widths": (2,) * 5}
    return kind(num_classes=3, backbone=backbone, rngs=nnx.Rngs(5), **{**sizes, **settings})


def test_networks_are_filled_and_saved(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    whole = network()
    assert fa.porting.load_torch(state, into=whole) == []
    for suffix in SUFFIXES[1:]:
        fa.porting.save_torch(whole, tmp_path / f"saved{suffix}")
        again = network()
        assert fa.porting.load_torch(tmp_path / f"saved{suffix}", into=again) == []
        assert functional.digest_arrays(functional.split(again)[1]) == functional.digest_arrays(
            functional.split(whole)[1]
        )
    gated = network(fa.AttnVGG, attn_features=3)
    kept = fa.porting.load_torch(state, into=gated)
    assert kept and not any(path.startswith("backbone/") for path in kept)
    np.testing.assert_array_equal(
        gated.backbone.stem.kernel[...], state["conv1.weight"].permute(2, 3, 1, 0)
    )
    with pytest.raises(WeightsError, match="has no counterpart among torchvision, backbone"):
        fa.porting.save_torch(gated, tmp_path / "gated.safetensors")
    fa.porting.save_torch(gated, tmp_path / "alone.safetensors", layout="backbone")
    alone = fa.ResNet(**SIZES, rngs=nnx.Rngs(6))
    assert fa.porting.load_torch(tmp_path / "alone.safetensors", into=alone) == []


def without(state: dict[str, Any], start: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if not key.startswith(start)}


def test_what_does_not_fit_is_refused_by_name(state: dict[str, torch.Tensor]) -> None:
    cases = {
        r"missing \(layer1.1.conv1.weight, ": without(state, "layer1.1."),
        r"1 missing \(fc.weight\)": without(state, "fc.weight"),
        r"1 unexpected \(layer9.weight\)": {**state, "layer9.weight": state["fc.bias"]},
        r"1 misshapen \(conv1.weight is \[4, 7, 7, 3\], expected \[4, 3, 7, 7\]\)": {
            **state,
            "conv1.weight": state["conv1.weight"].permute(0, 2, 3, 1),
        },
        r"1 negative running variance \(bn1.running_var\)": {
            **state,
            "bn1.running_var": -state["bn1.running_var"],
        },
        "is no ResNet of torchvision: its keys are features.0.weight": {
            "features.0.weight": state["conv1.weight"]
        },
    }
    for said, tensors in cases.items():
        with pytest.raises(WeightsError, match=said):
            fa.porting.load_torch(tensors, into=network())
    with pytest.raises(WeightsError, match="is of a ResNet|is a ResNet of torchvision"):
        fa.porting.load_torch(state, into=network(backbone="vgg11_bn"))
    with pytest.raises(WeightsError, match="not of the layout attn_vgg: leave the layout"):
        fa.porting.load_torch(state, into=network(), layout="attn_vgg")


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (
            "--backbone vgg16",
            2,
            "is a ResNet, and the backbone named is a VGG: drop",
        ),
        ("", 5, "if that is meant, name --backbone resnet18 --widths 4 6 8 8"),
        # What a file lacks is no smaller network.
        ("--backbone resnet18 --widths 4 6 8 8", 5, "missing (layer2.1.conv1.weight"),
        ("--backbone resnet50 --widths 4 6 8 8 --depths 2 1 1 1", 5, "missing (layer1.0.conv3"),
    ],
)
def test_flags_that_do_not_fit_the_file(
    flags: str,
    code: int,
    said: str,
    state: dict[str, torch.Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(state, tmp_path / "theirs.pth")
    paths = ["--source", str(tmp_path / "theirs.pth"), "--out", str(tmp_path / "a.safetensors")]
    assert cli.main(["port", *paths, *flags.split()]) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not (tmp_path / "a.safetensors").exists()


def test_published_files_are_torchvisions() -> None:
    for name in RESNETS:
        weights = torchvision.models.get_model_weights(name)
        theirs = {str(entry).rpartition("V")[2]: entry for entry in weights}
        ours = {str(f.version): f for f in PUBLISHED.values() if f.network == name}
        assert ours.keys() == theirs.keys()
        for version, file in ours.items():
            entry = theirs[version]
            assert file.url == entry.value.url and file.source == f"torchvision {entry}"
            assert file.megabytes == round(entry.value.meta["_file_size"])
        # The name alone is torchvision's own default.
        assert PUBLISHED[name].url == weights.DEFAULT.value.url
        assert {way.file for way in imagenet.ways_to(name)} == {PUBLISHED[name].ported}


def test_imagenet_weights_are_fetched_by_name_and_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(imagenet, "host_answers", lambda url: True)
    monkeypatch.setattr(imagenet, "_take", lambda path: path)
    monkeypatch.setattr(
        imagenet, "_port", lambda source, path, environment, *flags: asked.append(source) or path
    )
    found = imagenet.resolve_imagenet(tmp_path, backbone="resnet50")
    assert found.name == "resnet50-imagenet1k_v2.safetensors"
    assert asked == ["torchvision:resnet50"]
    # What that command downloads, and its digest, are the file's.
    fetched = []
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def download(url: str, path: Path, *, digest: str) -> None:
        fetched.append((url, digest))
        path.write_bytes(b"another file")

    monkeypatch.setattr(imagenet, "download", download)
    out = str(tmp_path / "a.safetensors")
    assert cli.main(["port", "--source", "torchvision:resnet50_v1", "--out", out]) == 5
    assert fetched == [(PUBLISHED["resnet50_v1"].url, "0676ba61")]


def test_a_file_is_told_by_its_names(
    state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(state, tmp_path / "theirs.pth")
    assert cli.main(["port", "inspect", str(tmp_path / "theirs.pth")]) == 0
    line = capsys.readouterr().out
    assert "layout torchvision, a ResNet of depths 2 1 1 1, 3 classes, float32" in line
    flags = line.partition("fills the whole network, by ")[2].replace("by ", "").replace(",", "")
    typed = flags.replace("(of neither ResNet)", "").split()
    assert typed[:2] == ["--backbone", "resnet18"]
    paths = ["--source", str(tmp_path / "theirs.pth"), "--out", str(tmp_path / "a.safetensors")]
    assert cli.main(["port", *paths, *typed]) == 0
    capsys.readouterr()
    assert cli.main(["port", "inspect", str(tmp_path / "a.safetensors")]) == 0
    assert "layout flax_attn, a ResNet of depths 2 1 1 1, 3 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ("--to keras --out b.h5", 5, "is a ResNet: --to torch writes it, keras does not"),
        ("--to timm --out b.pth", 5, "is a ResNet: --to torch writes it, timm does not"),
        ("--to torch --out b.pth --fold-pixels caffe", 2, "has no bias to fold a scale of pixels"),
    ],
)
def test_what_is_not_written_is_refused_in_a_line(
    flags: str,
    code: int,
    said: str,
    state: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(state, "theirs.pth")
    sizes = flags_of({"backbone": "resnet18", **SIZES})
    assert cli.main(["port", "--source", "theirs.pth", *flags.split(), *sizes]) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not list(tmp_path.glob("b.*"))
