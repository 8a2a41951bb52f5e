"""drawn_pets: the same picture every time, exact masks, and nothing but shape to go by."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from flax_attn.config import DataConfig
from flax_attn.data.dataset import Dataset, MaskedSplit, OpenRequest, Split
from flax_attn.data.drawn.pets import DrawnPets, draw_scene, open_set, render
from flax_attn.data.drawn.plan import plan_scene
from flax_attn.errors import UsageError

# Share of a small animal's pixels that whiskers touch without covering half of (measured: 1.1 %).
WHISKERS = 0.02


def opened(**counts: int) -> Dataset:
    return open_set(DataConfig(dataset="drawn_pets", image_size=32, **counts), OpenRequest())


def _digest(index: int, num_animals: int | None = None) -> str:
    scene = draw_scene(seed=3, index=index, size=48, num_animals=num_animals)
    return hashlib.sha256(scene.image.tobytes() + scene.masks.tobytes()).hexdigest()


def test_scenes_are_the_same_in_any_order_and_on_any_thread():
    forward = [_digest(i) for i in range(24)]
    backward = [_digest(i) for i in reversed(range(24))][::-1]
    with ThreadPoolExecutor(6) as pool:
        threaded = list(pool.map(_digest, range(24)))
    assert forward == backward == threaded


def test_scenes_are_the_same_in_another_process():
    code = (
        "import hashlib\n"
        "from flax_attn.data.drawn.pets import draw_scene\n"
        "for i in (5, 2, 9):\n"
        "    s = draw_scene(seed=3, index=i, size=48, num_animals=2)\n"
        "    print(hashlib.sha256(s.image.tobytes() + s.masks.tobytes()).hexdigest())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [_digest(i, 2) for i in (5, 2, 9)]


def test_no_two_pictures_are_alike():
    digests = {_digest(i) for i in range(80)} | {_digest(i, 2) for i in range(20)}
    other_seed = {draw_scene(seed=4, index=i, size=48).image.tobytes() for i in range(20)}
    this_seed = {draw_scene(seed=3, index=i, size=48).image.tobytes() for i in range(20)}
    assert len(digests) == 100
    assert not other_seed & this_seed


def test_default_is_one_animal():
    assert _digest(7) == _digest(7, 1)
    assert len(draw_scene(seed=0, index=0, size=32).kinds) == 1


@pytest.mark.parametrize("num_animals", [1, 2, 3, 4])
def test_masks_are_disjoint_and_never_empty(num_animals: int):
    for index in range(30):
        scene = draw_scene(seed=1, index=index, size=64, num_animals=num_animals)
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        assert scene.masks.shape == (num_animals, 64, 64) and scene.masks.dtype == np.bool_
        assert scene.masks.sum(axis=0).max() == 1
        assert scene.masks.any(axis=(1, 2)).all()
        assert scene.kinds[0] == scene.label


def _grown(mask: np.ndarray, radius: int) -> np.ndarray:
    image = Image.fromarray(mask).convert("L")
    return np.asarray(image.filter(ImageFilter.MaxFilter(2 * radius + 1))) > 0


@pytest.mark.parametrize("num_animals", [1, 3])
def test_leaving_an_animal_out_changes_its_mask_and_nothing_else(num_animals: int):
    for index in range(16):
        # Without blur a changed pixel is one the animal covers at least in part.
        plan = replace(plan_scene(seed=2, index=index, num_animals=num_animals), blur=0.0)
        full = render(plan, size=96)
        for k in range(num_animals):
            without = render(plan, size=96, hidden=frozenset({k}))
            changed = (full.image != without.image).any(axis=2)
            stray = changed & ~_grown(full.masks[k], 2)
            assert stray.sum() <= WHISKERS * full.masks[k].sum()
            # A coat may match what is behind it here and there, but not over the whole animal.
            assert changed[full.masks[k]].mean() > 0.9
            assert not without.masks[k].any()
            others = [j for j in range(num_animals) if j != k]
            assert not (full.masks[others] & ~without.masks[others]).any()


def test_occluders_are_cut_out_of_the_mask():
    plans = [plan_scene(seed=5, index=i) for i in range(40)]
    occluded = [plan for plan in plans if plan.occluded]
    assert 10 <= len(occluded) <= 30
    smaller = 0
    for plan in occluded:
        covered = render(plan, size=64).masks[0]
        free = render(replace(plan, occluded=False), size=64).masks[0]
        assert not (covered & ~free).any()
        assert covered.sum() > 0.4 * free.sum()
        smaller += bool(covered.sum() < free.sum())
    assert smaller > 0.7 * len(occluded)


def test_another_size_is_the_same_scene():
    for index in range(12):
        small = draw_scene(seed=6, index=index, size=64)
        large = draw_scene(seed=6, index=index, size=256)
        shrunk = np.asarray(Image.fromarray(large.image).resize((64, 64), Image.Resampling.BOX))
        other = draw_scene(seed=6, index=index + 100, size=64)
        difference = np.abs(shrunk.astype(float) - small.image).mean()
        assert difference < 9.0
        assert difference < 0.3 * np.abs(other.image.astype(float) - small.image).mean()
        coarse = large.masks[0].reshape(64, 4, 64, 4).mean(axis=(1, 3)) >= 0.5
        union = (coarse | small.masks[0]).sum()
        assert (coarse & small.masks[0]).sum() > 0.85 * union


def test_drawn_cats_and_dogs_are_equally_large_and_equally_bright():
    rows: dict[int, list[tuple[float, float, float]]] = {0: [], 1: []}
    for index in range(200):
        scene = draw_scene(seed=9, index=index, size=32)
        inside, outside = scene.image[scene.masks[0]], scene.image[~scene.masks[0]]
        rows[scene.label].append((scene.masks[0].mean(), inside.mean(), outside.mean()))
    cats, dogs = np.array(rows[0]), np.array(rows[1])
    error = np.sqrt(cats.var(axis=0) / len(cats) + dogs.var(axis=0) / len(dogs))
    assert (np.abs(cats.mean(axis=0) - dogs.mean(axis=0)) < 4 * error).all()


def test_split_is_a_split():
    data = opened(train_count=12, val_count=7)
    assert data.classes == ("cat", "dog")
    train: Split = data.splits["train"]
    val: Split = data.splits["val"]
    assert (len(train.names), len(val.names)) == (12, 7)
    assert train.names[3] == "drawn_pets/000003"
    assert not set(train.names) & set(val.names)
    assert train.labels.shape == (12,) and train.labels.sum() == 6
    image = val.image(2)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert not any(np.array_equal(image, train.image(i)) for i in range(12))
    longer = opened(train_count=20, val_count=7).splits["val"]
    assert np.array_equal(longer.image(2), image)


def test_split_gives_the_scene_with_its_masks():
    split = DrawnPets(seed=0, size=32, count=8, first_index=4)
    scene = split.scene(1)
    assert np.array_equal(scene.image, split.image(1))
    assert np.array_equal(scene.image, draw_scene(seed=0, index=5, size=32).image)
    assert scene.label == split.labels[1]
    for index in (-1, 8):
        with pytest.raises(IndexError, match="outside"):
            split.image(index)


def test_fingerprint_follows_everything_that_decides_the_pictures():
    base = DrawnPets(seed=0, size=32, count=8, first_index=0)
    others = [
        replace(base, seed=1),
        replace(base, size=64),
        replace(base, count=9),
        replace(base, first_index=2),
    ]
    assert base.fingerprint == DrawnPets(seed=0, size=32, count=8, first_index=0).fingerprint
    assert len({split.fingerprint for split in (base, *others)}) == 5


def test_bad_arguments_are_named():
    for call, message in (
        (lambda: draw_scene(seed=-1, index=0, size=32), "seed"),
        (lambda: draw_scene(seed=0, index=0, size=8), "size"),
        (lambda: draw_scene(seed=0, index=0, size=32, num_animals=5), "num_animals"),
        (lambda: DrawnPets(seed=0, size=32, count=-1, first_index=0), "count"),
        (lambda: DrawnPets(seed=0, size=4, count=1, first_index=0), "size"),
        (lambda: opened(train_count=10**6, val_count=2), "train_count"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


def test_split_knows_its_masks() -> None:
    split = DrawnPets(seed=3, size=64, count=4, first_index=2)
    assert isinstance(split, MaskedSplit)
    np.testing.assert_array_equal(split.masks(1), draw_scene(seed=3, index=3, size=64).masks)
