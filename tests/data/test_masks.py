"""Masks beside images: which file, which pixels, and what becomes of them on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data import open_dataset, open_split
from flax_attn.data.check import preflight
from flax_attn.data.dataset import OpenRequest, Split, masks_of
from flax_attn.data.decode import ImageError, decode
from flax_attn.data.drawn.pets import DrawnPets
from flax_attn.data.masks import decode_mask, objects
from flax_attn.data.quarantine import Quarantine
from flax_attn.data.sets.folder import MaskFolder, open_set
from flax_attn.data.views import Subset, concatenate
from flax_attn.errors import DataError

SIZE = 32


def put_image(file: Path, seed: int, *, size: tuple[int, int] = (60, 40)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def put_mask(file: Path, column: int, *, size: tuple[int, int] = (60, 40)) -> Path:
    """A mask whose object begins at a column."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[:, column:] = 1
    Image.fromarray(pixels).save(file)
    return file


def put_photos(root: Path, *, masks: str = "photos_masks") -> Path:
    """Two classes, divided; the object of val image i of class k begins at column 20 + 4k + i."""
    for k, name in enumerate(("cat", "dog")):
        for i in range(3):
            put_image(root / "photos" / "train" / name / f"{i}.png", 10 * k + i)
            put_image(root / "photos" / "val" / name / f"{i}.jpg", 100 + 10 * k + i)
            if i < 2:
                put_mask(root / masks / "val" / name / f"{i}.png", 20 + 4 * k + i)
    return root / "photos"


def open_photos(root: Path, *, masks: bool = True, **settings: object) -> dict[str, Split]:
    config = DataConfig(dataset="folder", data_dir=str(root), image_size=SIZE, **settings)
    return dict(open_dataset(config, masks=masks).splits)


def first_column(mask: np.ndarray | None) -> int | None:
    """In pixels of the image: the crop leaves out 10 columns on either side and scales by 0.8."""
    if mask is None:
        return None
    return 10 + round(int(mask.any((0, 1)).argmax()) / 0.8)


@pytest.mark.parametrize("resize", ["crop", "stretch"])
@pytest.mark.parametrize("size", [(61, 40), (40, 61), (300, 200)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_mask_is_cropped_and_scaled_as_its_image_is(
    tmp_path: Path, resize: str, size: tuple[int, int], orientation: int
) -> None:
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[size[1] // 5 : size[1] // 2, size[0] // 4 : 3 * size[0] // 5] = 255
    # A photograph on its side; its mask was drawn on what is seen.
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "image.png", exif=exif)
    seen = np.rot90(pixels, -1) if orientation == 6 else pixels
    Image.fromarray(np.ascontiguousarray(seen)).save(tmp_path / "mask.png")
    options = {"size": SIZE, "resize": resize}
    image = decode(tmp_path / "image.png", **options)[..., 0]
    mask = decode_mask(tmp_path / "mask.png", image=tmp_path / "image.png", **options)
    inside, outside = image == 255, image == 0
    assert (inside | outside).mean() > 0.7 and inside.sum() > 4
    assert mask[inside].all() and not mask[outside].any()
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    turned = decode_mask(tmp_path / "turned.png", image=tmp_path / "image.png", **options)
    np.testing.assert_array_equal(turned, mask)


def test_the_nearest_pixel_decides(tmp_path: Path) -> None:
    lines = np.zeros((3 * SIZE, 3 * SIZE), np.uint8)
    lines[:, 1::6] = 1
    Image.fromarray(lines).save(tmp_path / "mask.png")
    image = put_image(tmp_path / "image.png", 0, size=lines.shape)
    mask = decode_mask(tmp_path / "mask.png", image=image, size=SIZE, resize="crop")
    np.testing.assert_array_equal(mask, np.broadcast_to(np.arange(SIZE) % 2 == 0, mask.shape))


def save_palette(pixels: np.ndarray, file: Path) -> None:
    image = Image.fromarray(pixels * np.uint8(3)).convert("P")
    image.putpalette([200, 0, 0] * 3 + [0, 0, 0])  # the object is painted black
    image.save(file)


def save_transparent(pixels: np.ndarray, file: Path) -> None:
    layers = np.stack([np.full_like(pixels, 90)] * 3 + [255 * pixels], -1)
    Image.fromarray(layers).save(file)


KINDS: dict[str, Callable[[np.ndarray, Path], None]] = {
    "bits.png": lambda p, f: Image.fromarray(p * np.uint8(255)).convert("1").save(f),
    "ones.png": lambda p, f: Image.fromarray(p).save(f),
    "white.bmp": lambda p, f: Image.fromarray(p * np.uint8(255)).save(f),
    "palette.png": save_palette,
    "deep.png": lambda p, f: Image.fromarray(p.astype(np.uint16) * 256).save(f),
    "blue.tif": lambda p, f: Image.fromarray(np.stack([0 * p, 0 * p, p], -1)).save(f),
    "clear.png": save_transparent,
    "noisy.jpg": lambda p, f: Image.fromarray(p * np.uint8(255)).save(f, quality=30),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_zero_is_the_object(tmp_path: Path, kind: str) -> None:
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[5:20, 9:30] = 1
    KINDS[kind](pixels, tmp_path / kind)
    image = put_image(tmp_path / "image.png", 0, size=(SIZE, SIZE))
    mask = decode_mask(tmp_path / kind, image=image, size=SIZE, resize="crop")
    np.testing.assert_array_equal(mask, pixels == 1)


def test_masks_belong_to_the_images_of_their_path(tmp_path: Path) -> None:
    splits = open_photos(put_photos(tmp_path))
    val = splits["val"]
    columns = [first_column(masks_of(val, i)) for i in range(6)]
    assert [*val.names[:3]] == ["val/cat/0.jpg", "val/cat/1.jpg", "val/cat/2.jpg"]
    assert columns == pytest.approx([20, 21, None, 24, 25, None], abs=1)
    assert objects(splits["train"], range(6)) is None
    found = objects(val, [5, 3], workers=2)
    assert found is not None and found.shape == (2, SIZE, SIZE)
    assert not found[0].any() and first_column(found[1:]) == pytest.approx(24, abs=1)


def test_masks_are_looked_for_only_when_they_are_wanted(tmp_path: Path) -> None:
    root = put_photos(tmp_path, masks="elsewhere")
    assert objects(open_photos(root)["val"], range(6)) is None
    named = {"mask_dir": str(tmp_path / "elsewhere")}
    assert objects(open_photos(root, masks=False, **named)["val"], range(6)) is None
    found = objects(open_photos(root, **named)["val"], range(6))
    assert found is not None and found.any((1, 2)).tolist() == [True, True, False] * 2
    without, with_masks = (open_photos(root, masks=m, **named)["val"] for m in (False, True))
    assert without.fingerprint == with_masks.fingerprint
    # As for training, which needs none: no folder, no complaint.
    open_photos(root, masks=False, mask_dir=str(tmp_path / "nowhere"))


def test_masks_follow_their_images(tmp_path: Path) -> None:
    """Through what leaves images out, takes some, and joins splits."""
    root = put_photos(tmp_path)
    (root / "val" / "cat" / "0.jpg").write_bytes(b"no image")
    config = DataConfig(dataset="folder", data_dir=str(root), image_size=SIZE)
    dataset = preflight(open_set(config, OpenRequest(masks=True)), Quarantine("quarantine"))
    val = dataset.splits["val"]
    assert list(val.names)[:2] == ["val/cat/1.jpg", "val/cat/2.jpg"]
    few = Subset(val, np.array([0, 2]))
    both = concatenate([dataset.splits["train"], few])
    for split, places in ((val, [0, 2]), (few, [0, 1]), (both, [6, 7])):
        columns = [first_column(masks_of(split, i)) for i in places]
        assert columns == pytest.approx([21, 24], abs=1)
    assert masks_of(both, 0) is None


def test_every_image_of_an_undivided_folder(tmp_path: Path) -> None:
    root = put_photos(tmp_path)
    config = DataConfig(dataset="folder", data_dir=str(root), image_size=SIZE)
    split = open_split(config, "all", classes=("cat", "dog"), masks=True)
    found = objects(split, range(12))
    assert found is not None
    masked = [split.names[i] for i in np.flatnonzero(found.any((1, 2)))]
    assert masked == [f"val/{name}/{i}.jpg" for name in ("cat", "dog") for i in (0, 1)]


def test_which_file_is_the_mask(tmp_path: Path) -> None:
    for name in ("a.PNG", "b.png", "b.jpg", "c.png", "c.tif", "notes.txt", ".d.png"):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"")
    masks = MaskFolder(tmp_path)
    assert masks.find("x/a.jpg") == tmp_path / "x" / "a.PNG"
    assert masks.find("x/b.jpg") == tmp_path / "x" / "b.jpg"
    for path in ("a.jpg", "x/d.jpg", "x/.d.jpg", "x/notes.jpg"):
        assert masks.find(path) is None
    with pytest.raises(DataError, match=r"2 masks of 'x/c.jpg'.*x/c.png, x/c.tif"):
        masks.find("x/c.jpg")


def test_masks_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    root = put_photos(tmp_path)
    val = open_photos(root)["val"]
    file = tmp_path / "photos_masks" / "val" / "dog" / "1.png"
    put_mask(file, 5, size=(40, 60))
    with pytest.raises(ImageError, match=r"dog/1.png.*40x60 .*60x40: expected the same size"):
        objects(val, range(6), workers=2)
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(ImageError, match=r"photos_masks/val/dog/1\.png"):
        objects(val, [4])
    assert objects(val, [3]) is not None


def test_a_folder_without_their_masks_is_refused(tmp_path: Path) -> None:
    root = put_photos(tmp_path)
    with pytest.raises(DataError, match="no folder '.*nowhere'"):
        open_photos(root, mask_dir=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"no mask in '.*val' .* 'train/cat/0.png'.*--mask-dir"):
        open_photos(root, mask_dir=str(tmp_path / "photos_masks" / "val"))


def test_drawn_pets_have_theirs() -> None:
    val = DrawnPets(seed=0, size=SIZE, count=3)
    found = objects(val, [2, 0])
    assert found is not None
    np.testing.assert_array_equal(found[0], val.masks(2).any(0))
