"""Masks of a whole split: what is known, what changes their fingerprint, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.data.batches import Sampler, batches
from flax_attn.data.region_masks import RegionMasks, read_region_masks
from flax_attn.data.views import GuardedSplit, Subset
from flax_attn.errors import DataError
from tests.helpers.image_folders import EncodedNoise, Quarantine, config_of, open_dataset, put_tree

SIZE = 32


def put_masks(root: Path) -> Path:
    """Masks of most images of a tree: dog/9 has none, that of dog/8 is empty."""
    for image in sorted(root.glob("*/*.jpg")):
        number = int(image.stem)
        pixels = np.zeros((20, 30), np.uint8)
        if (image.parent.name, number) == ("dog", 9):
            continue
        if (image.parent.name, number) != ("dog", 8):
            pixels[:, : 5 + 2 * number] = 255
            pixels[0] = 128  # as the boundary of a trimap, which belongs to the object
        file = root.parent / "photos_masks" / image.parent.name / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return put_masks(put_tree(tmp_path / "photos"))


def read(root: Path) -> tuple[GuardedSplit, RegionMasks]:
    """The training images of a folder, nearly all of it, and their masks."""
    dataset = open_dataset(config_of(root, val_fraction=0.01), masks=True)
    split = dataset.splits["train"]
    assert isinstance(split, GuardedSplit)
    return split, read_region_masks(split, workers=2)


def test_masks_are_those_of_their_images(photos: Path) -> None:
    split, found = read(photos)
    index = np.array([3, 0, len(split.names) - 1])
    masks, known = found.take(index)
    assert masks.dtype == np.uint8 and masks.shape == (3, SIZE, SIZE)
    for place, mask, is_known in zip(index, masks, known, strict=True):
        own = split.masks(int(place))
        assert is_known == (own is not None)
        np.testing.assert_array_equal(mask, 0 if own is None else own[0])
    assert {split.names[i] for i in np.flatnonzero(~found.known)} <= {"dog/9.jpg"}


def test_what_is_known_and_what_is_empty_is_said() -> None:
    full, empty = np.ones((8, 8), bool), np.zeros((8, 8), bool)
    found = RegionMasks([full, None, empty, full], ["a", None, "b", "c"])
    assert found.describe() == "masks of 3 of 4 training images, 1 of them empty"
    masks, known = found.take(np.array([1, 2, 3, 1]))
    assert masks.any((1, 2)).tolist() == [False, False, True, False]
    assert known.tolist() == [False, True, True, False]


def test_the_fingerprint_changes_with_the_masks(photos: Path) -> None:
    split, before = read(photos)
    assert read(photos)[1].fingerprint == before.fingerprint
    name = next(n for n in split.names if n.startswith("cat"))
    file = photos.parent / "photos_masks" / Path(name).with_suffix(".png")
    content = file.read_bytes()
    Image.new("L", (30, 20)).save(file)
    changed = read(photos)[1]
    file.unlink()
    gone = read(photos)[1]
    file.write_bytes(content)
    assert len({found.fingerprint for found in (before, changed, gone)}) == 3
    assert read(photos)[1].fingerprint == before.fingerprint


def guarded(
    whole: EncodedNoise, absent: Sequence[int] = (), lost: Sequence[int] = ()
) -> GuardedSplit:
    return GuardedSplit(
        whole,
        name="train",
        rows=whole.rows,
        absent=absent,
        lost=lost,
        quarantine=Quarantine("quarantine"),
    )


def test_a_lost_image_keeps_its_masks_fingerprint() -> None:
    """So that a run that lost it resumes; its own mask is not looked for any more."""
    whole = EncodedNoise(6)
    first, resumed = (
        read_region_masks(guarded(whole, absent=[1], lost=lost)) for lost in ([], [2])
    )
    assert first.known.tolist() == [True] * 5
    assert resumed.known.tolist() == [True, False, True, True, True]  # of images 0, 2, 3, 4, 5
    assert first.fingerprint == resumed.fingerprint


def test_a_substitute_has_its_own_mask() -> None:
    """Image 2 is lost while batches are read; what is shown in its place are pixels of another."""
    whole = EncodedNoise(4, bad=[2])
    split = GuardedSplit(
        whole,
        name="train",
        rows=whole.rows,
        absent=[],
        lost=[],
        quarantine=Quarantine("quarantine"),
    )
    found = read_region_masks(split)
    (batch,) = batches(split, Sampler(4))
    masks, _ = found.take(batch.index)
    assert not batch.mask[2] and batch.index[2] != 2
    for pixels, mask, place in zip(batch.image, masks, batch.index, strict=True):
        np.testing.assert_array_equal(pixels, whole.expected(int(place)))
        np.testing.assert_array_equal(mask, whole.masks(int(place))[0])


def test_subsets_know_their_masks() -> None:
    whole = EncodedNoise(6)
    found = read_region_masks(Subset(whole, np.array([4, 1])))
    assert found.take(np.array([0, 1]))[0].any((1, 2)).tolist() == [True, False]


def wrong_size(file: Path) -> None:
    Image.new("L", (20, 30)).save(file)


def damaged(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


def text(file: Path) -> None:
    file.write_text("no image")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (wrong_size, "a mask of 20x30 pixels for an image of 30x20"),
        (damaged, "cat/3.png"),
        (text, "cat/3.png"),
    ],
)
def test_masks_that_cannot_be_used_are_named_all_at_once(
    photos: Path, spoil: Callable[[Path], None], said: str
) -> None:
    split, _ = read(photos)
    names = [name for name in split.names if name.startswith("cat")]
    said = said.replace("cat/3", names[0].removesuffix(".jpg"))
    for name in names[:2]:
        spoil(photos.parent / "photos_masks" / Path(name).with_suffix(".png"))
    with pytest.raises(DataError, match=f"^2 unusable mask.*{said}") as caught:
        read(photos)
    assert "\n" not in str(caught.value)


def test_no_mask_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the \d+ training images has a mask.*--mask-dir"):
        read(put_tree(tmp_path / "photos"))
