"""Caffe's pixels: kept bit for bit, or folded into the first convolution, and always said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from flax_attn.config import Config
from flax_attn.errors import UsageError, WeightsError
from flax_attn.models import build_model
from flax_attn.models.family import VGGS
from flax_attn.ops.images import IMAGENET, normalize
from flax_attn.porting import load_keras, load_torch, read_ported, save_keras, save_torch
from flax_attn.porting.convert import from_flax
from flax_attn.porting.keras_h5 import open_keras, write_keras
from flax_attn.porting.pixels import PIXELS, SCALES, as_pixels, fold_pixels
from flax_attn.porting.tables import keras_table
from flax_attn.training.start import from_file, resolve_initial
from tests.helpers.plain_vgg import narrow, random_arrays
from tests.helpers.small_torch import (
    DEPTHS,
    FLAGS,
    error_line,
    run_port,
    same_bits,
    small_config,
    torch_attn_vgg,
)

VGG11 = VGGS["vgg11"]
WIDTHS = ("--widths", *narrow(VGG11).widths)
FIRST = "backbone/stages/0/layers/0/"


def keras_file(path: Path, *, pixels: str = "caffe") -> Path:
    """A file of Keras's; its arrays are ``random_arrays``."""
    table = keras_table(VGG11.depths, bgr=pixels == "caffe", counted="weights" in path.name)
    write_keras(path, from_flax(table, random_arrays(narrow(VGG11))), pixels=pixels)
    return path


def port(source: Path, out: Path, *flags: object) -> Path:
    assert run_port("--source", source, "--out", out, *flags) == 0
    return out


def test_caffes_scale_is_that_of_keras() -> None:
    """``x[..., ::-1] - [103.939, 116.779, 123.68]``, with red first."""
    image = np.arange(2 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(2, 32, 32, 3)
    expected = image - np.float32([123.68, 116.779, 103.939])
    np.testing.assert_allclose(normalize(image, scale=SCALES["caffe"]), expected, atol=1e-4)


def test_folding_is_exact_but_for_the_border() -> None:
    arrays = {path: a.astype(np.float64) for path, a in random_arrays(narrow(VGG11)).items()}
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    for given, wanted in (("caffe", "imagenet"), ("imagenet", "caffe")):
        folded = fold_pixels(arrays, as_pixels(given, "caffe"), as_pixels(wanted, "caffe"))
        maps = []
        for values, scale in ((arrays, given), (folded, wanted)):
            x = np.asarray(normalize(image, scale=SCALES[scale]))
            kernel = values[FIRST + "kernel"].astype(np.float32)
            y = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            maps.append(np.asarray(y) + values[FIRST + "bias"])
        scale = np.abs(maps[0]).max()
        inner = np.abs(maps[0] - maps[1])[:, 1:-1, 1:-1].max() / scale
        whole = np.abs(maps[0] - maps[1]).max() / scale
        # 28 summands of float32 each; the border differs by half a grey level.
        assert inner < 1e-5 < whole < 1e-2
        changed = {path for path in arrays if not np.array_equal(arrays[path], folded[path])}
        assert changed == {FIRST + "kernel", FIRST + "bias"}


def test_pixels_are_kept_told_and_folded_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = keras_file(tmp_path / "a.weights.h5")
    kept = read_ported(port(source, tmp_path / "b.safetensors", *WIDTHS))
    assert same_bits(kept.arrays, random_arrays(narrow(VGG11)))
    assert kept.metadata["pixels"] == "caffe"
    assert "for pixels of Caffe's scale" in capsys.readouterr().out
    folding = ("--fold-pixels", "imagenet")
    folded = read_ported(port(source, tmp_path / "c.safetensors", *folding, *WIDTHS))
    assert folded.metadata["pixels"] == "imagenet"
    assert same_bits(folded.arrays, fold_pixels(kept.arrays, "caffe", "imagenet"))
    # What a file tells can be overruled: a network trained on other pixels.
    other = read_ported(port(source, tmp_path / "d.safetensors", "--pixels", "imagenet", *WIDTHS))
    assert other.metadata["pixels"] == "imagenet"
    kernel = kept.arrays[FIRST + "kernel"][:, :, ::-1]
    np.testing.assert_array_equal(other.arrays[FIRST + "kernel"], kernel)


@pytest.mark.parametrize("pixels", PIXELS)
def test_back_to_keras_the_preprocessing_is_named(
    pixels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = keras_file(tmp_path / "a.h5", pixels=pixels)
    ours = port(source, tmp_path / "b.safetensors", *WIDTHS)
    back = port(ours, tmp_path / "c.h5", "--to", "keras")
    named = {"caffe": "vgg16.preprocess_input", "imagenet": 'preprocess_input(…, mode="torch")'}
    assert named[pixels] in capsys.readouterr().out
    with open_keras(source) as before, open_keras(back) as after:
        assert before.pixels == after.pixels == pixels
        assert same_bits(
            {k: np.asarray(a) for k, a in before.tensors.items()},
            {k: np.asarray(a) for k, a in after.tensors.items()},
        )


def test_training_refuses_other_pixels(tmp_path: Path) -> None:
    source = keras_file(tmp_path / "a.h5")
    ours = port(source, tmp_path / "b.safetensors", *WIDTHS)
    with pytest.raises(WeightsError, match="scale caffe, .* again with --fold-pixels imagenet"):
        from_file(ours)
    folded = port(source, tmp_path / "b.safetensors", "--fold-pixels", "imagenet", *WIDTHS)
    assert from_file(folded).provenance["batch_norm"] == "none"


def test_training_says_how_a_file_of_keras_is_ported(tmp_path: Path) -> None:
    source = keras_file(tmp_path / "a.weights.h5")
    with pytest.raises(WeightsError, match="of Keras's: port it first with .* --fold-pixels imag"):
        resolve_initial(Config().updated(weights=str(source)), ("cat", "dog"))


def test_unknown_pixels() -> None:
    with pytest.raises(UsageError, match="pixels must be imagenet or caffe, got 'rgb'"):
        as_pixels("rgb", "caffe")


def test_an_attn_vgg_goes_to_other_libraries_without_its_gates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    source, out = tmp_path / "a.pth", tmp_path / "b.safetensors"
    torch.save(torch_attn_vgg().state_dict(), source)
    argv = ("--source", source, "--to", "timm", "--out", out, *FLAGS)
    assert run_port(*argv) == WeightsError.exit_code
    assert "is an AttnVGG, which timm has not: --layout backbone" in error_line(capsys)
    port(source, out, "--to", "timm", "--layout", "backbone", *FLAGS)
    keras = ("--to", "keras", "--layout", "backbone", *FLAGS)
    assert run_port("--source", source, "--out", tmp_path / "c.h5", *keras) == 5
    assert "Keras's VGGs have no batch normalisation" in error_line(capsys)
    assert not (tmp_path / "c.h5").exists()


def plain_network() -> nnx.Module:
    """A VGG of ours with its dense classifier, and without normalisation."""
    return build_model(replace(small_config("vgg"), backbone="vgg16"), num_classes=3)


def arrays_of(network: nnx.Module) -> dict[str, np.ndarray]:
    flat = nnx.to_flat_state(nnx.state(network, nnx.Param))
    return {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in flat}


@pytest.mark.parametrize("name", ["a.h5", "a.weights.h5"])
def test_networks_go_to_keras_and_back(name: str, tmp_path: Path) -> None:
    network, path = plain_network(), tmp_path / name
    before = arrays_of(network)
    for pixels in PIXELS:
        network.backbone.pixels = SCALES[pixels]
        save_keras(network, path)
        with open_keras(path) as file:
            assert file.pixels == pixels
            shape = keras_table(DEPTHS, counted="weights" in name).entries.keys()
            assert file.tensors.keys() == shape
        other = jax.tree.map(jnp.zeros_like, nnx.state(network, nnx.Param))
        empty = plain_network()
        nnx.update(empty, other)
        assert load_keras(path, into=empty) == []
        assert same_bits(arrays_of(empty), before)
        assert empty.backbone.pixels == SCALES[pixels]
    assert load_keras(path, into=empty, pixels="imagenet") == []
    assert empty.backbone.pixels == IMAGENET
    assert same_bits(arrays_of(empty), fold_pixels(before, "caffe", "imagenet"))
    save_keras(network, path, layout="backbone", dtype="float16")
    kept = load_keras(path, into=empty, cast=True)
    assert kept == sorted(path for path in before if path.startswith("dense/"))


def test_each_loader_names_the_other(tmp_path: Path) -> None:
    network = plain_network()
    keras, torch_file = tmp_path / "a.h5", tmp_path / "a.safetensors"
    save_keras(network, keras)
    save_torch(network, torch_file)
    with pytest.raises(WeightsError, match="an HDF5 file, as Keras writes: load it with load_k"):
        load_torch(keras, into=network)
    with pytest.raises(WeightsError, match="is no HDF5 file of Keras: load it with load_torch"):
        load_keras(torch_file, into=network)
    with pytest.raises(WeightsError, match="Keras's VGGs have no batch normalisation"):
        load_keras(keras, into=build_model(small_config("vgg"), num_classes=3))
    with pytest.raises(ValueError, match="path must end in .weights.h5 or .h5, got .*a.npz"):
        save_keras(network, tmp_path / "a.npz")
    network.backbone.pixels = SCALES["caffe"].__class__((0.5,) * 3, (0.5,) * 3)
    with pytest.raises(WeightsError, match="as no preprocess_input of Keras does"):
        save_keras(network, keras)
