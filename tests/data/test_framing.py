"""What of an image is seen: centre crop, scale and window, of images and masks alike."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data import concatenate, open_dataset
from flax_attn.data.dataset import masks_of, read_image
from flax_attn.data.decode import decode, decode_pixels
from flax_attn.data.framing import centre, decode_photograph
from flax_attn.data.manifest import ManifestRow, fingerprint
from flax_attn.data.pixel_cache import cache_key
from flax_attn.data.views import CentredSplit, random_subset, uncut
from flax_attn.errors import UsageError
from tests.helpers.image_folders import EncodedNoise

# Of two rows, computed before there was a centre crop.
BEFORE = "239f727bbe069dd8a951b2a3646c587ace42f764c7348c0d73dbf61283da61a4"

SIZES = [(160, 200), (200, 160), (161, 160), (40, 30)]


def noise(width: int, height: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def put_photos(root: Path) -> Path:
    """Images in several sizes, each with a mask of the same pixels: where its red is above half."""
    for part in ("train", "val"):
        for k, name in enumerate(("cat", "dog")):
            for i, (width, height) in enumerate(SIZES):
                pixels = noise(width, height, seed=8 * (part == "val") + 4 * k + i)
                pixels[..., 0] = np.where(pixels[..., 0] > 127, 255, 0)
                for folder, array in (
                    ("photos", pixels),
                    ("photos_masks", (pixels[..., 0] > 127).astype(np.uint8)),
                ):
                    file = root / folder / part / name / f"{i}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(array).save(file)
    return root / "photos"


def test_a_centre_crop_is_the_centre_of_the_image() -> None:
    """0.8 of 160 are 128 pixels: from 16 on of the shorter side, from 36 on of 200."""
    pixels = noise(200, 160)
    got = decode(encoded(pixels), size=128, resize="crop", centre_crop=0.8)
    np.testing.assert_array_equal(got, pixels[16:144, 36:164])


@pytest.mark.parametrize("share", [0.8, 0.5], ids=str)
def test_a_centre_crop_is_the_centre_of_the_scaled_image(share: float) -> None:
    pixels = noise(160, 160)
    whole = Image.fromarray(pixels).resize((80, 80), Image.Resampling.BILINEAR)
    side = int(80 * share)
    start = (80 - side) // 2
    expected = whole.crop((start, start, start + side, start + side))
    got = decode_pixels(pixels, size=side, resize="crop", centre_crop=share)
    np.testing.assert_array_equal(got, np.asarray(expected))


def test_a_large_jpeg_is_decoded_at_a_scale_that_leaves_the_centre_sharp() -> None:
    """Of 512 pixels 0.25 are 128, all of which 64 pixels need: none may be left out."""
    pixels = noise(512, 512)
    content = encoded(pixels, "JPEG")
    whole = np.asarray(Image.open(io.BytesIO(content)))
    expected = decode_pixels(whole, size=64, resize="crop", centre_crop=0.25)
    got = decode(content, size=64, resize="crop", centre_crop=0.25)
    np.testing.assert_array_equal(got, expected)


def test_a_share_of_one_is_no_crop() -> None:
    content = encoded(noise(200, 161))
    whole = decode(content, size=32, resize="crop")
    np.testing.assert_array_equal(decode(content, size=32, resize="crop", centre_crop=1.0), whole)


@pytest.mark.parametrize(
    ("share", "resize"), [(0.0, "crop"), (1.1, "crop"), (0.8, "stretch")], ids=str
)
def test_other_shares_are_refused(share: float, resize: str) -> None:
    with pytest.raises(UsageError, match=f"centre_crop={share}, resize='{resize}': expected"):
        decode(encoded(noise(9, 9)), size=8, resize=resize, centre_crop=share)
    with pytest.raises(UsageError, match=f"centre_crop={share}, resize='{resize}': expected"):
        decode_pixels(noise(9, 9), size=8, resize=resize, centre_crop=share)


SETTINGS = [
    pytest.param({}, id="whole"),
    pytest.param({"centre_crop": 0.8}, id="centre"),
    pytest.param({"crop_margin": 8}, id="margin"),
    pytest.param({"centre_crop": 0.8, "crop_margin": 7}, id="both"),
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("cache", [False, True], ids=["decoded", "kept"])
def test_a_split_a_photograph_and_a_mask_show_the_same(
    tmp_path: Path, settings: dict[str, float], cache: bool
) -> None:
    root = put_photos(tmp_path)
    data = DataConfig(dataset="folder", data_dir=str(root), image_size=32, **settings)
    images = tmp_path / "kept" if cache else None
    split = open_dataset(data, masks=True, images=images).splits["val"]
    size, margin = 32, data.crop_margin
    for i, name in enumerate(split.names):
        image, file = split.image(i), root / name
        np.testing.assert_array_equal(image, decode_photograph(file, data))
        np.testing.assert_array_equal(image, decode_photograph(Image.open(file), data))
        np.testing.assert_array_equal(read_image(split, i)[0], image)
        # The centre of what training takes windows of.
        whole = uncut(split).image(i) if margin else image
        assert whole.shape == (size + margin, size + margin, 3)
        start = margin // 2
        np.testing.assert_array_equal(whole[start : start + size, start : start + size], image)
        # The mask is the image's red, scaled by nearest pixels.
        masks = masks_of(split, i)
        assert masks is not None and masks.shape == (1, size, size)
        with Image.open(file) as opened:
            side = min(opened.size) * (data.centre_crop or 1)
            left, top = ((n - side) / 2 for n in opened.size)
            red = opened.getchannel(0).resize(
                (size + margin, size + margin),
                Image.Resampling.NEAREST,
                box=(left, top, left + side, top + side),
            )
        np.testing.assert_array_equal(masks[0], centre(np.asarray(red), size) > 127)


def test_each_way_of_framing_is_other_data(tmp_path: Path) -> None:
    """Fingerprints, which feature caches and conditions are made of, and the pixel cache's key."""
    root = put_photos(tmp_path)
    ways = [{}, {"centre_crop": 0.8}, {"centre_crop": 0.5}, {"crop_margin": 8}, {"image_size": 64}]
    prints = []
    for way in ways:
        data = DataConfig(**{"dataset": "folder", "data_dir": str(root), "image_size": 32, **way})
        prints.append(open_dataset(data).splits["train"].fingerprint)
    assert len(set(prints)) == len(ways)
    keys = {cache_key(["a"], size=8, resize="crop", centre_crop=c) for c in (None, 0.8, 0.5)}
    assert len(keys) == 3 and cache_key(["a"], size=8, resize="crop") in keys


def test_without_a_crop_fingerprints_are_what_they_were() -> None:
    """Runs and features from before the setting are still those of their images."""
    rows = [ManifestRow("cat/1.jpg", 0, "ab"), ManifestRow("dog/2.jpg", 1, "cd")]
    found = fingerprint(rows, classes=("cat", "dog"), size=224, resize="crop")
    assert found == BEFORE


@pytest.mark.parametrize("dataset", ["drawn_pets", "drawn_pets_scenes", "drawn_pets_asked"])
def test_drawn_pictures_are_drawn_larger_and_cut(dataset: str) -> None:
    small = {"dataset": dataset, "image_size": 32, "train_count": 2, "val_count": 2}
    split = open_dataset(DataConfig(**small, centre_crop=0.5, crop_margin=4)).splits["val"]
    large = open_dataset(DataConfig(**{**small, "image_size": 72})).splits["val"]
    for found, start, side in ((split, 20, 32), (uncut(split), 18, 36)):
        window = slice(start, start + side)
        np.testing.assert_array_equal(found.image(1), large.image(1)[window, window])
        masks, expected = masks_of(found, 1), masks_of(large, 1)
        np.testing.assert_array_equal(masks, expected[:, window, window])


def test_views_of_a_centre_know_its_margin() -> None:
    whole = EncodedNoise(6)
    split = CentredSplit(whole, 4)
    part = random_subset(split, 3, seed=0)
    joined = concatenate([split, part])
    for view in (split, part, joined):
        assert [len(view.labels), *view.image(2).shape] == [len(view.labels), 4, 4, 3]
        with_margin = uncut(view)
        assert list(with_margin.names) == list(view.names)
        for i in range(len(view.labels)):
            np.testing.assert_array_equal(with_margin.image(i)[2:6, 2:6], view.image(i))
    assert uncut(whole) is whole
    plain = random_subset(whole, 3, seed=0)
    assert uncut(plain) is plain
