"""A stream of files: every one has its place, whatever the batches, and few are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from flax_attn.config import DataConfig
from flax_attn.explain.predicted_images import PredictedImage, predict_images
from flax_attn.explain.predictions import Asking
from flax_attn.models.tasks import TASKS
from tests.helpers.brightness import Brightness, put_grey

DATA = DataConfig(image_size=32)
BATCH = 4


def predict(paths: Iterator[Path] | Sequence[Path], by: Brightness) -> list[PredictedImage]:
    return list(predict_images(by, paths, DATA, Asking(BATCH)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Greys of rising brightness; every third cannot be used, the first among them."""
    folder = tmp_path_factory.mktemp("greys")
    return [put_grey(folder / f"{i}.png", None if i % 3 == 0 else 10 * i) for i in range(23)]


def test_rows_are_the_files_in_their_order(files: list[Path]) -> None:
    found = predict(files, Brightness())
    assert [image.name for image in found] == list(map(str, files))
    assert [image.number for image in found] == list(range(1, 24))
    for i, image in enumerate(found):
        if i % 3 == 0:
            assert image.said is None and image.error == "empty, 0 bytes"
        else:
            assert image.said is not None and image.error is None
            assert image.said.probabilities[1] == pytest.approx(10 * i / 255)
            assert image.said.labels == ["bright" if 10 * i > 127 else "dark"]
            assert image.said.maps["gate"].shape == (2, 2) and image.said.image.shape[0] == 32


def test_batches_have_one_shape(files: list[Path]) -> None:
    by = Brightness()
    predict(files, by)
    assert set(by.sizes) == {BATCH}


def test_decisions_are_made_at_the_thresholds_of_the_run(files: list[Path]) -> None:
    def at(cut: float) -> list[list[str] | None]:
        found = predict(files[:9], Brightness(cut=cut))
        return [image.said.at_threshold for image in found if image.said]

    expected = [["dark"], ["dark"], ["bright"], ["bright"], ["bright"], ["bright"]]
    assert at(0.1) == expected
    assert at(float("nan")) == [None] * 6  # none was found


def test_labels_above_their_thresholds_may_be_none_or_several(tmp_path: Path) -> None:
    path = put_grey(tmp_path / "a.png", 128)
    (image,) = predict([path], Brightness(task=TASKS["multilabel"], cut=0.4))
    assert image.said is not None
    assert image.said.labels == ["bright"] and image.said.at_threshold == ["dark", "bright"]


@pytest.mark.parametrize("kind", ["usable", "unusable", "both"])
def test_few_files_wait_however_many_there_are(kind: str, tmp_path: Path) -> None:
    good, bad = put_grey(tmp_path / "a.png", 9), put_grey(tmp_path / "b.png", None)
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            only = {"usable": True, "unusable": False}
            yield good if only.get(kind, taken == 3) else bad

    stream = predict_images(Brightness(), endless(), DATA, Asking(BATCH))
    for given, _ in zip(range(200), stream, strict=False):
        # Two batches decoded ahead, and eight that wait for a full one.
        assert taken - given <= (2 + 8) * BATCH + 1
    stream.close()


def test_a_single_image_is_answered_before_the_next_is_named(tmp_path: Path) -> None:
    good, named = put_grey(tmp_path / "a.png", 9), list[int]()

    def one_by_one() -> Iterator[Path]:
        for number in range(1, 4):
            named.append(number)
            yield good

    for image in predict_images(Brightness(), one_by_one(), DATA, Asking(1)):
        assert named[-1] == image.number
