"""drawn_pets_scenes: several animals a picture, and labels that say what is to be seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flax_attn.config import DataConfig
from flax_attn.data import open_dataset, open_split
from flax_attn.data.dataset import Dataset, OpenRequest, Split
from flax_attn.data.drawn.pets import DrawnPets
from flax_attn.data.drawn.plan import plan_scene
from flax_attn.data.drawn.scenes import (
    CLASSES,
    DrawnScenes,
    labels_of_animals,
    num_animals,
    open_set,
)
from flax_attn.errors import UsageError


def opened(**counts: int) -> Dataset:
    return open_set(DataConfig(dataset="drawn_pets_scenes", image_size=32, **counts), OpenRequest())


CAT, DOG, SITTING, STANDING, LYING, STRIPED = range(len(CLASSES))


def test_scenes_have_one_to_four_animals_equally_often():
    counts = [num_animals(seed=0, index=i) for i in range(1000)]
    assert counts == [num_animals(seed=0, index=i) for i in range(1000)]
    assert counts != [num_animals(seed=1, index=i) for i in range(1000)]
    # Four standard deviations of a share of 1/4 in 1,000.
    for n in (1, 2, 3, 4):
        assert abs(counts.count(n) - 250) < 55


def test_the_number_of_animals_tells_nothing_of_the_first():
    plans = [(num_animals(seed=0, index=i), plan_scene(seed=0, index=i)) for i in range(800)]
    means = [np.mean([p.stances[0].x for n, p in plans if n == count]) for count in (1, 2, 3, 4)]
    assert np.ptp(means) < 0.05


def test_labels_of_animals_follow_the_plan():
    plan = plan_scene(seed=0, index=0, num_animals=4)
    coat = plan.stances[0].coat
    looks = {"sitting": "plain", "standing": "stripes", "lying": "spots", "portrait": "stripes"}
    stances = tuple(
        replace(stance, pose=pose, coat=replace(coat, pattern=pattern))
        for stance, (pose, pattern) in zip(plan.stances, looks.items(), strict=True)
    )
    labels = labels_of_animals(replace(plan, kinds=(0, 1, 1, 0), stances=stances))
    named = [{CLASSES[j] for j in np.flatnonzero(row)} for row in labels]
    assert named[:2] == [{"cat", "sitting"}, {"dog", "standing", "striped"}]
    assert named[2:] == [{"dog", "lying"}, {"cat", "striped"}]
    assert labels.dtype == np.int32 and set(labels.flat) == {0, 1}


def test_a_scene_has_the_labels_of_its_animals():
    split = DrawnScenes(seed=0, size=16, count=40, first_index=10)
    assert split.labels.shape == (40, len(CLASSES)) and split.labels.dtype == np.int32
    for i in range(40):
        animals, scene = split.animal_labels(i), split.scene(i)
        assert len(animals) == len(scene.masks) == num_animals(seed=0, index=10 + i)
        assert animals[:, CAT].tolist() == (scene.kinds == 0).tolist()
        assert animals[:, DOG].tolist() == (scene.kinds == 1).tolist()
        assert split.labels[i].tolist() == animals.any(axis=0).astype(int).tolist()
    with pytest.raises(ValueError, match="read-only"):
        split.labels[0, 0] = 1


def test_every_label_is_there_and_absent_often_enough():
    share = DrawnScenes(seed=0, size=16, count=600).labels.mean(axis=0)
    assert (share > 0.4).all() and (share < 0.8).all()


def test_labels_do_not_tell_one_another():
    split = DrawnScenes(seed=0, size=16, count=400)
    animals = np.concatenate([split.animal_labels(i) for i in range(400)])
    animals = animals[animals[:, SITTING : LYING + 1].any(axis=1)]
    correlation = np.corrcoef(animals[:, [DOG, SITTING, STRIPED]].T)
    # Four standard deviations of the correlation of some 900 independent pairs.
    assert np.abs(correlation - np.eye(3)).max() < 0.14


def test_masks_are_of_the_animals_with_the_labels():
    """The silhouette of each pose: who lies is wide, who sits is tall, in every mask's place."""
    split = DrawnScenes(seed=0, size=64, count=60)
    ratios: dict[int, list[float]] = {SITTING: [], STANDING: [], LYING: []}
    for i in range(60):
        for mask, labels in zip(split.scene(i).masks, split.animal_labels(i), strict=True):
            height, width = mask.any(axis=1).sum(), mask.any(axis=0).sum()
            for pose in ratios:
                if labels[pose]:
                    ratios[pose].append(height / width)
    sitting, standing, lying = (np.median(ratios[pose]) for pose in ratios)
    assert sitting > 1.05 > standing > 0.66 > lying


def test_every_animal_is_visible():
    split = DrawnScenes(seed=1, size=64, count=60)
    assert all(split.scene(i).masks.any(axis=(1, 2)).all() for i in range(60))


def test_split_is_a_split():
    data = opened(train_count=12, val_count=7)
    assert data.classes == CLASSES and data.multilabel
    train: Split = data.splits["train"]
    val: Split = data.splits["val"]
    assert (len(train.names), len(val.names)) == (12, 7)
    assert train.names[3] == "drawn_pets_scenes/000003"
    assert not set(train.names) & set(val.names)
    image = val.image(2)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert np.array_equal(image, val.image(2)) and not np.array_equal(image, val.image(3))
    longer = opened(train_count=20, val_count=7).splits["val"]
    assert np.array_equal(longer.image(2), image)
    assert np.array_equal(longer.labels, val.labels)


def test_empty_split_has_no_rows_of_labels():
    assert DrawnScenes(seed=0, size=16, count=0).labels.shape == (0, len(CLASSES))


def test_fingerprint_follows_everything_that_decides_the_pictures():
    base = DrawnScenes(seed=0, size=32, count=8, first_index=0)
    others = [
        replace(base, seed=1),
        replace(base, size=64),
        replace(base, count=9),
        replace(base, first_index=2),
    ]
    assert base.fingerprint == DrawnScenes(seed=0, size=32, count=8, first_index=0).fingerprint
    others.append(DrawnPets(seed=0, size=32, count=8))
    assert len({split.fingerprint for split in (base, *others)}) == 6


def test_bad_arguments_are_named():
    split = DrawnScenes(seed=0, size=32, count=8)
    for index in (-1, 8):
        for call in (split.image, split.animal_labels):
            with pytest.raises(IndexError, match="outside"):
                call(index)
    with pytest.raises(UsageError, match="train_count"):
        opened(train_count=10**6, val_count=2)
    with pytest.raises(UsageError, match="count"):
        opened(train_count=1, val_count=-2)


def test_the_configuration_opens_it():
    config = DataConfig(
        dataset="drawn_pets_scenes", image_size=32, train_count=5, val_count=3, data_seed=2
    )
    data = open_dataset(config)
    expected = DrawnScenes(seed=2, size=32, count=5)
    assert data.splits["train"].fingerprint == expected.fingerprint
    whole = open_split(config, "all", classes=CLASSES)
    assert whole.labels.shape == (8, len(CLASSES))
    assert whole.labels[:5].tolist() == expected.labels.tolist()
