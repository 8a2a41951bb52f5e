"""Whole runs over folders with unusable images: they end, count right and list the same."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data import Quarantine, Sampler, open_dataset
from flax_attn.data.quarantine import read_entries
from flax_attn.data.views import GuardedSplit
from flax_attn.figures import Panel, draw_attention
from flax_attn.models.backbone import Features
from flax_attn.runs.log import read_rows
from flax_attn.system import cli
from flax_attn.system.output import MARK
from flax_attn.training import eval_command, train_command
from flax_attn.training.features import frozen_features
from flax_attn.training.sources import FeatureExamples

SMALL = (
    "--model vgg_gap --widths 4 4 8 8 8 --depths 1 1 1 1 1 --image-size 32 --dataset folder "
    "--weights none --no-freeze-backbone --on-bad-image quarantine"
).split()

# Bytes that are no text, a new line, and what matplotlib takes for mathematics.
DAY = os.fsdecode(b"d\xffay\n$x^")
CLASSES = (DAY, "night")


def put_images(root: Path, count: int, *, bad: Sequence[int] = ()) -> Path:
    """Half of them dark and half light; the bad ones are damaged in different ways."""
    rng = np.random.default_rng(0)
    for i in range(count):
        file = root / CLASSES[i % 2] / f"{i:04}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(120, size=(40, 48, 3), dtype=np.uint8) + np.uint8(120 * (i % 2))
        Image.fromarray(pixels).save(file)
        if i in bad:
            whole = file.read_bytes()
            damaged = (b"", whole[:-1], whole[: len(whole) // 2], b"text", whole[2:])
            file.write_bytes(damaged[i % len(damaged)])
    return root


def train(workdir: Path, data: Path, *flags: str) -> int:
    cache = str(workdir.parent / "features")
    where = ["--workdir", str(workdir), "--data-dir", str(data), "--feature-cache", cache]
    where += ["--image-cache", "none"]  # so that images can be lost
    return cli.run(train_command.main, [*SMALL, *where, *flags])


def evaluate(workdir: Path, *flags: str) -> dict:
    assert cli.run(eval_command.main, ["--workdir", str(workdir), *flags]) == 0
    return json.loads((workdir / f"eval-{flags[1]}" / "metrics.json").read_text())


def listed(workdir: Path) -> bytes:
    return (workdir / "quarantine.json").read_bytes()


def losses(workdir: Path) -> list[tuple[float, float]]:
    return [(row["train"]["loss"], row["val"]["loss"]) for row in read_rows(workdir)]


def lose_during_the_run(monkeypatch: pytest.MonkeyPatch, files: Sequence[Path]) -> None:
    """Removes the files as soon as the first image of a batch is asked for."""
    read = GuardedSplit.read

    def removing(self: GuardedSplit, index: int) -> tuple[np.ndarray, int]:
        for file in files:
            file.unlink(missing_ok=True)
        return read(self, index)

    monkeypatch.setattr(GuardedSplit, "read", removing)


def test_a_run_that_starts_with_bad_images_and_loses_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = put_images(tmp_path / "data", 40, bad=(4, 11))
    flags = ("--batch-size", "8", "--val-fraction", "0.25")
    # One of "val", so that evaluation meets it too; the division is by digest.
    lost = [data / DAY / "0000.jpg", *(data / f"night/{i:04}.jpg" for i in range(1, 10, 2))]
    with monkeypatch.context() as patch:
        lose_during_the_run(patch, lost)
        assert train(tmp_path / "run", data, *flags, "--epochs", "1") == 0
    assert "2 unusable images set aside: " in capsys.readouterr().out
    entries = read_entries(tmp_path / "run" / "quarantine.json")
    assert {e.path for e in entries if e.found == "start"} == {
        f"{DAY}/0004.jpg",
        "night/0011.jpg",
    }
    gone = {e.path: e.split for e in entries if e.found == "run"}
    assert gone.keys() == {file.relative_to(data).as_posix() for file in lost}
    assert set(gone.values()) == {"train", "val"}
    counted = read_rows(tmp_path / "run")[0]["val"]["count"]

    before = listed(tmp_path / "run")
    assert train(tmp_path / "run", data, *flags, "--epochs", "2") == 0
    assert listed(tmp_path / "run") == before
    assert [row["val"]["count"] for row in read_rows(tmp_path / "run")] == [counted] * 2

    with monkeypatch.context() as patch:
        lose_during_the_run(patch, [data / "night/0015.jpg"])
        metrics = evaluate(tmp_path / "run", "--split", "all")
    assert metrics["count"] == 39 - len(entries)
    with open(tmp_path / "run" / "eval-all" / "predictions.csv", encoding="utf-8") as file:
        judged = {row["name"] for row in csv.DictReader(file)}
    left_out = read_entries(tmp_path / "run" / "eval-all" / "left_out.json")
    names = {entry.path for entry in left_out}
    assert names == {entry.path for entry in entries} | {"night/0015.jpg"}
    assert len(judged) == 40 - len(names)
    assert not judged & {name.encode("utf-8", "backslashreplace").decode() for name in names}
    # Evaluating changes nothing of the run.
    assert listed(tmp_path / "run") == before


def test_pictures_survive_the_names_of_classes(tmp_path: Path) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    attention = {f"pool3, {DAY}": np.eye(4, dtype=np.float32)}
    panel = Panel(image, attention, f"{DAY} 51% (is \u65e5)", correct=True)
    draw_attention([panel], tmp_path / "a.png", title="a run")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_features_of_lost_images_never_count_and_are_not_kept(tmp_path: Path) -> None:
    data, cache = put_images(tmp_path / "data", 12, bad=(4,)), tmp_path / "features"
    config = DataConfig(dataset="folder", data_dir=str(data), image_size=32)
    split = open_dataset(config, Quarantine("quarantine")).splits["train"]
    (data / split.names[2]).unlink()
    found = frozen_features(
        split,
        lambda pixels: Features(pool5=pixels[:, ::16, ::16].astype(np.float32)),
        key="key",
        taps=("pool5",),
        folder=cache,
        batch_size=4,
        workers=1,
        progress=lambda items, total: items,
    )
    assert np.flatnonzero(~found.present).tolist() == [2]
    assert [path.name for path in cache.iterdir() if path.name != MARK] == []
    source = FeatureExamples(found.maps, split.labels, Sampler(4), found.present, split.names)
    counted = 0
    for examples in source.epoch(0, seed=0, shuffle=True):
        counted += int(examples.mask.sum())
        for maps, counts in zip(examples.inputs.pool5, examples.mask, strict=True):
            assert maps.any() or not counts
    assert counted == len(split.names) - 1


@pytest.mark.faults
def test_a_thousand_images_of_which_fifty_are_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = np.random.default_rng(5).choice(1000, 50, replace=False).tolist()
    data = put_images(tmp_path / "data", 1000, bad=bad)
    flags = ("--batch-size", "32")
    assert train(tmp_path / "run", data, *flags, "--epochs", "2") == 0
    assert train(tmp_path / "rerun", data, *flags, "--epochs", "2") == 0
    for epochs in ("1", "2"):
        assert train(tmp_path / "resumed", data, *flags, "--epochs", epochs) == 0
    assert listed(tmp_path / "run") == listed(tmp_path / "rerun") == listed(tmp_path / "resumed")
    assert losses(tmp_path / "run") == losses(tmp_path / "rerun") == losses(tmp_path / "resumed")
    entries = read_entries(tmp_path / "run" / "quarantine.json")
    assert {int(Path(entry.path).stem) for entry in entries} == set(bad)
    assert evaluate(tmp_path / "run", "--split", "all")["count"] == 950

    # Another twenty go while it runs.
    lost = [data / f"{CLASSES[i % 2]}/{i:04}.jpg" for i in range(1000) if i not in bad]
    with monkeypatch.context() as patch:
        lose_during_the_run(patch, lost[::45][:20])
        assert train(tmp_path / "losing", data, *flags, "--epochs", "1") == 0
    before = listed(tmp_path / "losing")
    assert len(read_entries(tmp_path / "losing" / "quarantine.json")) == 70
    assert train(tmp_path / "losing", data, *flags, "--epochs", "3") == 0
    assert listed(tmp_path / "losing") == before
    assert evaluate(tmp_path / "losing", "--split", "all")["count"] == 930
