"""A trained run as a user asks it: ``load``, ``predict`` and ``evaluate``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import make_config
from flax_attn.data import open_dataset
from flax_attn.data.decode import ImageError
from flax_attn.errors import CheckpointError, DataError, FlaxAttnError, UsageError
from flax_attn.explain.cam import grad_cam
from flax_attn.explain.predictions import Asking
from flax_attn.explain.trained_run import TrainedRun, evaluate, load
from flax_attn.system import cli
from flax_attn.training.trainer import train
from tests.helpers.networks import TINY

SIZES = [(40, 64), (64, 40), (33, 33), (90, 31), (32, 32), (50, 70)]
# Batches of other sizes are other programs, which round in another order.
BATCHED = {"rtol": 1e-5, "atol": 1e-6}


def train_run(workdir: Path, **settings: object) -> TrainedRun:
    config = make_config({**TINY, "epochs": 1, **settings})
    train(config, open_dataset(config.data), workdir=workdir, draw=False)
    return load(workdir)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of noise in many sizes, divided into train and val."""
    root = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i, (width, height) in enumerate(SIZES):
                pixels = random.integers(0, 256, (height, width, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def workdir(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "photographs"
    framing = {"centre_crop": 0.8, "crop_margin": 8, "normalise": "data"}
    train_run(folder, dataset="folder", data_dir=str(photographs), **framing)
    return folder


@pytest.fixture(scope="module")
def run(workdir: Path) -> TrainedRun:
    return load(workdir)


@pytest.fixture(scope="module")
def paths(photographs: Path) -> Sequence[Path]:
    return sorted((photographs / "val").rglob("*.png"))


def test_paths_opened_images_and_pixels_are_the_same(
    run: TrainedRun, paths: Sequence[Path]
) -> None:
    of_paths = run.predict(paths)
    assert of_paths.probabilities.shape == (len(paths), 2)
    assert len(np.unique(of_paths.probabilities[:, 0])) == len(paths)
    for given in (
        list(map(str, paths)),
        [Image.open(path) for path in paths],
        [np.asarray(Image.open(path)) for path in paths],
        (path for path in paths),
    ):
        said = run.predict(given)
        np.testing.assert_array_equal(said.images, of_paths.images)
        np.testing.assert_array_equal(said.probabilities, of_paths.probabilities)
        np.testing.assert_array_equal(said.attention["pool3"], of_paths.attention["pool3"])


@pytest.mark.parametrize("batch_size", [1, 5, 12, 100])
def test_batches_of_any_size_say_the_same(
    run: TrainedRun, paths: Sequence[Path], batch_size: int
) -> None:
    expected, said = run.predict(paths), run.predict(paths, batch_size=batch_size)
    assert {name: maps.shape for name, maps in said.attention.items()} == {
        "pool3": (12, 4, 4),
        "pool4": (12, 2, 2),
    }
    np.testing.assert_allclose(said.probabilities, expected.probabilities, **BATCHED)
    for name, maps in said.attention.items():
        np.testing.assert_allclose(maps, expected.attention[name], **BATCHED)


def test_one_image_is_a_batch_of_one(run: TrainedRun, paths: Sequence[Path]) -> None:
    said, expected = run.predict(paths[3:4]), run.predict(paths)
    np.testing.assert_allclose(said.probabilities, expected.probabilities[3:4], **BATCHED)
    assert said.images.shape == (1, 32, 32, 3)


def test_prediction_is_what_the_commands_evaluation_writes(
    run: TrainedRun, workdir: Path, photographs: Path, tmp_path: Path
) -> None:
    flags = ["eval", "--workdir", str(workdir), "--out", str(tmp_path), "--image-cache", "none"]
    assert cli.main(flags) == 0
    with open(tmp_path / "predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    said = run.predict([photographs / row["name"] for row in rows])
    written = np.array([[float(row[name]) for name in said.classes] for row in rows])
    np.testing.assert_allclose(said.probabilities, written, atol=1e-6)
    assert said.labels == [row["prediction"] for row in rows]
    judged = evaluate(run, open_dataset(run.config.data).splits["val"])
    np.testing.assert_allclose(judged.probabilities, written, atol=1e-6)
    right = [row["prediction"] == row["label"] for row in rows]
    assert judged.metrics["accuracy"] == pytest.approx(np.mean(right))


def test_probabilities_are_those_at_the_temperature_unless_told_otherwise(
    run: TrainedRun, paths: Sequence[Path]
) -> None:
    own = run.predict(paths, calibrated=False)
    run = replace(run, temperature=4.0)
    said, untouched = run.predict(paths), run.predict(paths, calibrated=False)
    np.testing.assert_array_equal(untouched.probabilities, own.probabilities)
    np.testing.assert_array_equal(said.decided, own.decided)
    odds = own.probabilities.astype(float) ** (1 / 4)
    np.testing.assert_allclose(said.probabilities, odds / odds.sum(-1, keepdims=True), **BATCHED)
    assert np.abs(said.probabilities - own.probabilities).max() > 100 * BATCHED["rtol"]
    split = open_dataset(run.config.data).splits["val"]
    judged = evaluate(run, split)
    by_name = dict(zip(split.names, judged.probabilities, strict=True))
    root = Path(run.config.data.data_dir or "")
    expected = [by_name[str(path.relative_to(root))] for path in paths]
    np.testing.assert_allclose(said.probabilities, expected, **BATCHED)
    # Metrics stay the network's own.
    assert judged.metrics["loss"] == pytest.approx(judged.loss.mean())


def test_a_prediction_over_symmetries_is_the_mean_over_moved_photographs(
    run: TrainedRun, paths: Sequence[Path]
) -> None:
    squares = run.predict(paths[:2], calibrated=False).images
    both = np.concatenate([squares, squares[:, :, ::-1]])
    each = run.predict_squares(both, Asking(calibrated=False))
    said = run.predict(paths[:2], tta="flips", calibrated=False)
    expected = each.probabilities.reshape(2, 2, -1).mean(0)
    np.testing.assert_allclose(said.probabilities, expected, **BATCHED)
    maps = each.attention["pool3"]
    np.testing.assert_allclose(
        said.attention["pool3"], (maps[:2] + maps[2:, :, ::-1]) / 2, **BATCHED
    )
    np.testing.assert_array_equal(said.images, squares)
    with pytest.raises(UsageError, match="^tta: got 'flip', expected one of flips, or turns"):
        run.predict(paths[:2], tta="flip")


def test_grey_images_and_transparent_ones_are_read_as_files_are(
    run: TrainedRun, tmp_path: Path
) -> None:
    random = np.random.default_rng(1)
    grey = Image.fromarray(random.integers(0, 256, (40, 50), np.uint8))
    alpha = Image.fromarray(random.integers(0, 256, (40, 50, 4), np.uint8))
    for i, image in enumerate((grey, alpha)):
        image.save(tmp_path / f"{i}.png")
    files = run.predict(sorted(tmp_path.iterdir()))
    np.testing.assert_array_equal(run.predict([grey, alpha]).images, files.images)
    np.testing.assert_array_equal(files.images[0, ..., 0], files.images[0, ..., 2])


def test_an_opened_image_is_turned_upright(run: TrainedRun, tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255
    Image.fromarray(pixels).save(path, exif=exif)
    said = run.predict([path, Image.open(path)])
    np.testing.assert_array_equal(said.images[0], said.images[1])
    assert said.images[0, 16, -1, 0] > 200 > 50 > said.images[0, 16, 0, 0]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((40, 40, 3), np.float32),
        np.zeros((40, 40, 3), np.int64),
        np.zeros((40, 40), np.uint8),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((1, 40, 40, 3), np.uint8),
        np.zeros((0, 40, 3), np.uint8),
    ],
    ids=lambda pixels: f"{pixels.dtype}{list(pixels.shape)}",
)
@pytest.mark.usefixtures("wrong_shapes")
def test_other_arrays_are_refused(run: TrainedRun, pixels: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"^pixels: got .*, expected uint8\[h, w, 3\]"):
        run.predict([pixels])


def test_images_that_cannot_be_used_are_refused_by_name(run: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="of kind F have no known range"):
        run.predict([Image.new("F", (40, 40))])
    with pytest.raises(ImageError, match="nowhere.png"):
        run.predict([tmp_path / "nowhere.png"])
    whole = tmp_path / "whole.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:3000])
    with Image.open(cut) as image, pytest.raises(ImageError, match="cut.png"):
        run.predict([image])


@pytest.mark.parametrize(
    "photograph", ["cat.png", Path("cat.png"), Image.new("RGB", (9, 9)), np.zeros((9, 9, 3))]
)
@pytest.mark.usefixtures("wrong_shapes")
def test_one_photograph_without_a_list_is_refused(run: TrainedRun, photograph: object) -> None:
    with pytest.raises(UsageError, match=r"^images: got one photograph .* write \[image\]"):
        run.predict(photograph)


def test_no_photograph_and_no_batch_are_refused(run: TrainedRun) -> None:
    with pytest.raises(UsageError, match="^images: got none"):
        run.predict([])
    with pytest.raises(UsageError, match="^batch_size: got 0"):
        run.predict([Image.new("RGB", (9, 9))], batch_size=0)


def test_what_predict_returns_is_what_the_maps_take(run: TrainedRun, paths: Sequence[Path]) -> None:
    said = run.predict(paths)
    likeliest = said.probabilities.argmax(-1)
    maps = grad_cam(run.network, said.images, likeliest, "conv5")
    assert maps.shape == (12, 2, 2)
    out = run.model(run.model.normalize(said.images), train=False)
    np.testing.assert_allclose(said.attention["pool4"], out.attention["pool4"], **BATCHED)
    assert said.labels == [run.classes[k] for k in likeliest]


def test_a_run_with_several_labels_an_image(tmp_path: Path) -> None:
    run = train_run(tmp_path, dataset="drawn_pets_scenes", per_class=True, heads=2)
    split = open_dataset(run.config.data).splits["val"]
    said = run.predict([split.image(i) for i in range(len(split.names))])
    judged = evaluate(run, split)
    np.testing.assert_allclose(said.probabilities, judged.probabilities, **BATCHED)
    np.testing.assert_array_equal(said.decided, said.probabilities > 0.5)
    both = said.decided.copy()
    both[0] = True
    assert said._replace(decided=both).labels[0] == "|".join(run.classes)
    expected = {
        f"{gate} {name} head {head}"
        for gate in ("pool3", "pool4")
        for name in run.classes
        for head in (1, 2)
    }
    assert said.attention.keys() == expected
    with pytest.raises(DataError, match=r"^split: got labels \[6\] .* expected rows of"):
        evaluate(run, open_dataset(make_config(TINY).data).splits["val"])


def test_a_split_of_other_classes_is_refused(run: TrainedRun) -> None:
    split = open_dataset(run.config.data).splits["val"]
    one = replace(run, classes=run.classes[:1])
    with pytest.raises(DataError, match=r"^split: got labels \[12\] up to 1, expected one of 1"):
        evaluate(one, split)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run directory") as caught:
        load(tmp_path)
    assert isinstance(caught.value, FlaxAttnError) and caught.value.exit_code == 4
