"""Cases of docs/reliability.md about data and weights at the command line: one line, one code."""

from __future__ import annotations

import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from flax_attn.porting import imagenet, torchvision_files
from flax_attn.porting import port_command as port
from flax_attn.system import cli
from flax_attn.training import train_command
from tests.helpers.image_faults import bombs, samples
from tests.helpers.small_torch import shallow_state
from tests.helpers.weight_faults import contents, legacy, modern, state_table

ROOT = Path(__file__).parents[2]
SMALL = (
    "--widths 4 4 8 8 8 --depths 1 1 1 1 1 --attn-features 8 --image-size 32 --epochs 1 "
    "--weights none --no-freeze-backbone"
).split()
SIZES = "--widths 3 4 6 5 7 --depths 1 1 1 1 1".split()


def put_folder(root: Path) -> Path:
    """Two classes of four photographs."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.jpg")
    return root


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_last_byte(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


# What is done to one photograph, and what the line says of it.
BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut in half": (half, "cut short|Truncated|truncated"),
    "without its last byte": (without_last_byte, "no end-of-image marker"),
    "empty": (lambda file: file.write_bytes(b""), "0 bytes"),
    "text": (lambda file: file.write_text("text"), "not an image"),
    "FIFO": (fifo, "a FIFO"),
    "link to itself": (loop, "Too many levels of symbolic links"),
    "TIFF of floats": (lambda file: file.write_bytes(samples()["tiff-float"]), "convert to 8 bits"),
    "PNG of too many megapixels": (
        lambda file: file.write_bytes(bombs()["bomb-png"]),
        "more than 50 megapixels",
    ),
    "JPEG of 96 megapixels": (
        lambda file: file.write_bytes(bombs()["bomb-jpeg"]),
        "10000x9600: more than 50 megapixels",
    ),
}


def refusal(capsys: pytest.CaptureFixture[str], started: float) -> str:
    """The one line on standard error, printed within five seconds of this process's time."""
    seconds, error = time.process_time() - started, capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert seconds < 5, seconds
    return error


def train(data: Path, workdir: Path, *flags: str) -> int:
    where = ["--dataset", "folder", "--data-dir", str(data), "--workdir", str(workdir)]
    cache = ["--feature-cache", str(workdir.parent / "features")]
    cache += ["--image-cache", str(workdir.parent / "images")]
    return cli.run(train_command.main, [*SMALL, *where, *cache, *flags])


def put_masks(data: Path, size: tuple[int, int] = (48, 40)) -> Path:
    """A mask of every photograph, where masks are looked for."""
    folder = data.parent / f"{data.name}_masks"
    for image in data.glob("*/*.jpg"):
        file = folder / image.parent.name / f"{image.stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, 255).save(file)
    return folder


def all_but_validation(data: Path) -> None:
    """Masks of other images alone: the folder is there, and of no use to a training."""
    shutil.rmtree(put_masks(data) / "dog")
    for part in ("train", "val"):
        (data / part).mkdir()
    shutil.copytree(data / "cat", data / "val" / "cat")
    shutil.copytree(data / "dog", data / "val" / "dog")
    for file in (data / "val").rglob("*.jpg"):  # no copies of what is trained on
        ImageOps.mirror(Image.open(file)).save(file)
    for name in ("cat", "dog"):
        (data / name).rename(data / "train" / name)
    masks = data.parent / f"{data.name}_masks"
    (masks / "val").mkdir()
    (masks / "cat").rename(masks / "val" / "cat")


BAD_MASKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda data: None, "none of the 6 training images has a mask, which --roi-wei"),
    "none of a training image": (all_but_validation, "none of the 8 training images has a mask"),
    "of another size": (
        lambda data: put_masks(data, (40, 48)),
        "6 unusable mask(s), repair or remove them (an image without a mask is left out of the "
        "region term): '",
    ),
    "damaged": (lambda data: half(put_masks(data) / "cat" / "1.png"), "data_masks/cat/1.png': "),
    "text": (
        lambda data: (put_masks(data) / "cat" / "1.png").write_text("text"),
        "1 unusable mask(s)",
    ),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_bad_masks_to_learn_from(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = put_folder(tmp_path / "data")
    spoil, said = BAD_MASKS[case]
    spoil(data)
    started = time.process_time()
    assert train(data, tmp_path / "run", "--roi-weights", "pool4=1") == 3
    assert said in refusal(capsys, started)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_image(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = put_folder(tmp_path / "data")
    spoil, reason = BAD_FILES[case]
    spoil(data / "dog" / "2.jpg")
    started = time.process_time()
    assert train(data, tmp_path / "run") == 3
    line = refusal(capsys, started)
    assert f"'{data}/dog/2.jpg': " in line and "1 unusable image" in line
    assert any(part in line for part in reason.split("|")), line
    assert not (tmp_path / "run").exists()


def time_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.faults
def test_bad_images_and_folders_in_fresh_processes(tmp_path: Path) -> None:
    """The whole of it, imports included; the processor's time, which no other job changes."""
    seconds = {}
    for case, (spoil, _) in [*BAD_FILES.items(), *BAD_FOLDERS.items()]:
        data = put_folder(tmp_path / case)
        spoil(data / "dog" / "2.jpg" if case in BAD_FILES else data)
        started = time_of_children()
        done = subprocess.run(
            [sys.executable, "train.py", *SMALL, "--dataset", "folder", "--data-dir", str(data)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        seconds[case] = time_of_children() - started
        assert done.returncode == 3 and done.stdout == ""
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    print(f"{len(seconds)} cases, slowest {max(seconds.values()):.1f} s")
    assert max(seconds.values()) < 5


def no_classes(root: Path) -> None:
    for folder in ("cat", "dog"):
        for file in (root / folder).iterdir():
            file.unlink()
        (root / folder).rmdir()


def empty_class(root: Path) -> None:
    for file in (root / "dog").iterdir():
        file.unlink()


def only_junk(root: Path) -> None:
    no_classes(root)
    for folder in (".git", "__MACOSX"):
        (root / folder).mkdir()
        (root / folder / "a.jpg").touch()


def no_images(root: Path) -> None:
    empty_class(root)
    (root / "dog" / "notes.txt").write_text("notes")
    (root / "dog" / ".DS_Store").write_text("junk")


def single_class(root: Path) -> None:
    empty_class(root)
    (root / "dog").rmdir()


BAD_FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no class folders": (no_classes, "no class folders"),
    "a class folder without files": (empty_class, "no images in class folder"),
    "one class folder": (single_class, "only one class folder, 'cat'"),
    "a class folder without images": (no_images, "no images in class folder"),
    "hidden folders only": (only_junk, "no class folders"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_bad_folder(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = put_folder(tmp_path / "data")
    spoil, reason = BAD_FOLDERS[case]
    spoil(data)
    started = time.process_time()
    assert train(data, tmp_path / "run") == 3
    line = refusal(capsys, started)
    assert str(data) in line and reason in line


def test_train_and_val_of_different_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_folder(tmp_path / "data" / "train")
    val = put_folder(tmp_path / "data" / "val")
    (val / "dog").rename(val / "wolf")
    started = time.process_time()
    assert train(tmp_path / "data", tmp_path / "run") == 3
    assert "missing ['dog'], unexpected ['wolf']" in refusal(capsys, started)


def test_a_terminal_without_the_letters_of_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding="ascii"))
    assert cli.run(lambda arguments: print(f"é {os.fsdecode(bytes([255]))}"), []) == 0
    sys.stdout.flush()
    assert stream.getvalue() == b"\\xe9 \\udcff\n"


@pytest.mark.parametrize("cell", ["2", "-1", "maybe"])
def test_a_label_outside_the_classes(
    cell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = put_folder(tmp_path / "data")
    rows = "".join(f"cat/{i}.jpg,1,0\n" for i in range(4)) + f"dog/0.jpg,0,{cell}\n"
    (data / "labels.csv").write_text("name,cat,dog\n" + rows)
    started = time.process_time()
    assert train(data, tmp_path / "run", "--dataset", "labelled_csv") == 3
    assert "line 6" in refusal(capsys, started)


# Weights. Code in files, damaged archives and the like: tests/faults/test_weights.py.


WEIGHTS = {
    "missing": "2 missing (cls.weight, cls.bias)",
    "extra": "9 unexpected (extra",
    "channels-last": "1 misshapen (conv_block2.0.weight is [3, 3, 3, 4], expected [4, 3, 3, 3])",
    "double": "not float32 (",
    "nan": "1 not finite (conv_block2.0.weight)",
    "infinite": "1 not finite (cls.bias)",
    "negative-variance": "1 negative running variance (conv_block1.1.running_var)",
    "other-network": "is neither a VGG of torchvision",
    "prefixed-twice": "is neither a VGG of torchvision",
    "nothing": "no state dict",
}


@pytest.mark.parametrize("wrap", [modern, legacy])
@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_do_not_fit(
    case: str, wrap: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = contents(shallow_state())[case]
    source, out = tmp_path / "a.pth", tmp_path / "a.safetensors"
    source.write_bytes(wrap(state_table(state), state))
    started = time.process_time()
    assert cli.run(port.main, ["--source", str(source), "--out", str(out), *SIZES]) == 5
    line = refusal(capsys, started)
    assert "a.pth" in line and WEIGHTS[case] in line
    assert not out.exists()


@pytest.mark.parametrize("case", ["connection refused", "damaged in the cache"])
def test_weights_that_cannot_be_had(
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torchvision_files, "HOST", "http://127.0.0.1:9/")
    cache = imagenet.cache_folder()
    cache.mkdir(parents=True)
    if case == "damaged in the cache":
        name = torchvision_files.PUBLISHED["vgg16_bn"].url.rpartition("/")[2]
        (cache / name).write_bytes(b"poison")
    out = str(tmp_path / "a.safetensors")
    started = time.process_time()
    assert cli.run(port.main, ["--source", "torchvision", "--out", out]) == 5
    line = refusal(capsys, started)
    assert ("refused" if case == "connection refused" else "delete it and try again") in line


# Data workers are threads: they go when their process goes.

WORKER = """
import sys
from pathlib import Path
from flax_attn.config import DataConfig
from flax_attn.data import Sampler, batches, open_dataset
data = open_dataset(DataConfig(dataset="folder", data_dir=sys.argv[1], image_size=32, workers=4))
for epoch in range(10**9):
    for batch in batches(data.splits["train"], Sampler(2, shuffle=True), epoch):
        if epoch == 3:
            print("decoding", flush=True)
"""


def processes_of(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_nothing_behind(way: signal.Signals, tmp_path: Path) -> None:
    data = put_folder(tmp_path / "data")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(data)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "decoding\n"
        # One process only, with its threads: there is no worker to be killed or stopped alone.
        assert processes_of(process.pid) == [process.pid]
        # A semaphore of the progress bar has no name any more.
        maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        assert all(line.endswith("(deleted)") for line in maps if "/dev/shm/" in line)
        started = time.perf_counter()
        process.send_signal(way)
        assert process.wait(10) == -way
    finally:
        process.kill()
        process.communicate()
    assert time.perf_counter() - started < 5
    assert processes_of(process.pid) == []
    assert list(temporary.iterdir()) == []
    assert sorted(path.name for path in data.rglob("*.jpg")) == sorted(
        f"{i}.jpg" for i in [*range(4)] * 2
    )
