"""drawn_pets_asked: neither the scene nor the question tells, only both together."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from scipy.optimize import minimize

from flax_attn.config import DataConfig
from flax_attn.data import open_dataset, open_split
from flax_attn.data.case_split import metadata_of, presence_of
from flax_attn.data.dataset import Dataset, form_of, photographs_of
from flax_attn.data.drawn.asked import (
    LABELS,
    AskedPictures,
    animal_masks,
    asked_animals,
    plan_asked,
    plan_portrait,
    species_of,
)
from flax_attn.data.drawn.coat import PATTERNS
from flax_attn.data.views import Subset, concatenate
from flax_attn.errors import UsageError

QUESTIONS = ("metadata", "picture", "pair", "pictures")


def opened(question: str | None = None, train: int = 8, val: int = 4, size: int = 32) -> Dataset:
    counts = {"train_count": train, "val_count": val}
    config = DataConfig(dataset="drawn_pets_asked", image_size=size, question=question, **counts)
    return open_dataset(config)


def additive_terms(question: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns a column of 0 and 1 for every picture in its place and every value, and labels."""
    cases = AskedPictures(seed=0, size=16, count=12, question=question).cases
    rows = [
        {*enumerate(shown), *enumerate(said, start=3)}
        for shown, said in zip(cases.pictures, cases.cells, strict=True)
    ]
    columns = sorted(set().union(*rows))
    terms = np.array([[column in row for column in columns] for row in rows], float)
    return terms, cases.labels.reshape(len(rows), -1)


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_sum_of_what_scene_and_question_say_beats_ln_2(question: str) -> None:
    """The cross entropy is convex, so that where its gradient is zero nothing is lower.

    Its gradient at logits of 0 is, of each picture in each place and of each value, the sum of the
    labels less a half: it counts cats against dogs.
    """
    terms, labels = additive_terms(question)
    assert not (terms.T @ (labels - 0.5)).any()
    # And the best of both together: each pair of a scene and a question is there once.
    assert len(np.unique(terms, axis=0)) == len(terms)


def test_a_fit_of_such_a_sum_finds_nothing() -> None:
    terms, labels = additive_terms("picture")
    signs = 2 * labels[:, 0] - 1

    def loss(w: np.ndarray) -> float:
        return float(np.logaddexp(0, -signs * (terms @ w)).mean())

    start = np.random.default_rng(0).normal(size=terms.shape[1])
    found = minimize(loss, start, tol=1e-10)
    assert found.fun == pytest.approx(math.log(2), abs=1e-6) and loss(start) > math.log(2)


def test_scenes_have_two_of_each_species_and_one_of_each_pattern() -> None:
    for index in range(40):
        plan = plan_asked(seed=3, index=index)
        assert plan.kinds == species_of(seed=3, index=index) and sum(plan.kinds) == 2
        assert tuple(stance.coat.pattern for stance in plan.stances) == PATTERNS
        other = species_of(seed=3, index=index ^ 1)
        assert [a + b for a, b in zip(plan.kinds, other, strict=True)] == [1] * 4
    assert len({species_of(seed=0, index=i) for i in range(60)}) == 6


def test_neither_pattern_nor_species_tells_place_or_pose() -> None:
    plans = [plan_asked(seed=0, index=i) for i in range(300)]
    xs = np.array([[stance.x for stance in plan.stances] for plan in plans])
    sits = np.array([[stance.pose == "sitting" for stance in plan.stances] for plan in plans])
    dogs = np.array([plan.kinds for plan in plans]) == 1
    for values in (xs, sits.astype(float)):
        # Five standard errors of means over 300 of each pattern, and 600 of each species.
        assert np.ptp(values.mean(axis=0)) < 5 * values.std() * math.sqrt(2 / 300)
        between = abs(values[dogs].mean() - values[~dogs].mean())
        assert between < 5 * values.std() * math.sqrt(2 / 600)


def test_portraits_have_the_pattern_and_any_species() -> None:
    asked = product(range(40), PATTERNS)
    plans = {(j, p): plan_portrait(seed=0, pair=j, patterns=[p]) for j, p in asked}
    assert all(len(plan.kinds) == 1 for plan in plans.values())
    assert all(plan.stances[0].coat.pattern == p for (_, p), plan in plans.items())
    dogs = sum(plan.kinds[0] for plan in plans.values())
    # Four standard deviations of 160 fair draws.
    assert abs(dogs - 80) < 26
    assert len({plan.stances[0].coat.base for plan in plans.values()}) > 100


def test_a_pair_asks_for_two_animals_alike() -> None:
    pictures = AskedPictures(seed=0, size=16, count=4, question="pair")
    split = opened(question="pair").splits["train"]
    for index, (animals, label) in enumerate(zip(asked_animals(split), split.labels, strict=True)):
        kinds = species_of(seed=0, index=index // 2)
        assert len(set(animals)) == 2 and {kinds[k] for k in animals} == {label}
    for index, portrait in enumerate(pictures.names[4:]):
        shown = pictures.scene(4 + index)
        coats = portrait.rpartition("-")[2].split("+")
        alone = plan_portrait(seed=0, pair=index // 2, patterns=coats)
        assert len(shown.masks) == 2
        assert [stance.coat.pattern for stance in alone.stances] == coats


def test_coats_are_told_apart_by_their_colours() -> None:
    plans = [plan_asked(seed=1, index=i) for i in range(50)]
    coats = {p: [plan.stances[k].coat for plan in plans] for k, p in enumerate(PATTERNS)}
    for pattern, others in combinations(PATTERNS, 2):
        bases = np.array([c.base for c in coats[pattern]])
        theirs = np.array([c.base for c in coats[others]])
        # The two nearest are 50 apart in each channel or more, less twice a jitter of 14.
        assert np.abs(bases[:, None] - theirs).max(-1).min() >= 22
    marks = [c for p in PATTERNS[1:] for c in coats[p]]
    assert min(np.abs(np.subtract(c.base, c.mark)).max() for c in marks) >= 48


def test_the_label_is_the_species_of_the_animal_asked_for() -> None:
    split = opened().splits["train"]
    asked = asked_animals(split)
    assert form_of(split).columns == ("category:coat",) and len(split.labels) == 32
    assert [cells for (cells,) in metadata_of(split).rows] == [PATTERNS[k] for (k,) in asked]
    expected = [species_of(seed=0, index=i // 4)[k] for i, (k,) in enumerate(asked)]
    assert split.labels.tolist() == expected
    assert split.names[5] == "drawn_pets_asked/000001|stripes"


def test_a_picture_asks_both_scenes_of_a_pair() -> None:
    split = opened("picture").splits["val"]
    flat, places = photographs_of(split)
    assert form_of(split) == (("scene", "question"), (), True) and len(flat.names) == 4 + 8
    assert (presence_of(split) == 1).all()
    np.testing.assert_array_equal(places[:4, 1], places[4:8, 1])
    names = [flat.names[i] for i in places[6]]
    assert names == ["drawn_pets_asked/500001", "drawn_pets_asked/500000-patches"]
    assert split.names[6] == "|".join(names)
    # The animal of the portrait has the pattern, in another drawing.
    images = split.image(6)
    assert images.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(images[1], flat.image(int(places[6, 1])))
    asked = [species_of(seed=0, index=500_000 + i // 4)[i % 4] for i in range(16)]
    assert split.labels.tolist() == asked


def test_two_pictures_ask_for_two_animals() -> None:
    dataset = opened("pictures")
    split = dataset.splits["val"]
    assert dataset.multilabel and dataset.classes == LABELS
    assert form_of(split).views == ("scene", "left", "right")
    asked = asked_animals(split)
    assert asked.shape == (48, 2) and (asked[:, 0] != asked[:, 1]).all()
    species = np.array([species_of(seed=0, index=500_000 + i // 12) for i in range(48)])
    np.testing.assert_array_equal(split.labels, np.take_along_axis(species, asked, axis=1))


@pytest.mark.parametrize("question", ["metadata", "picture"])
def test_masks_say_which_animal_is_asked_for_in_any_view(question: str) -> None:
    dataset = opened(question, train=2, val=2)
    split = dataset.splits["train"]
    whole = concatenate([split, dataset.splits["val"]])
    part = Subset(whole, np.array([6, 9]))
    assert asked_animals(part).tolist() == [[2], [1]]
    scene = AskedPictures(seed=0, size=32, count=2, question=question).scene(1)
    np.testing.assert_array_equal(animal_masks(part, 0), scene.masks)
    assert scene.kinds[2] == part.labels[0] and scene.masks.sum(axis=0).max() == 1


def test_masks_of_other_sets_are_refused() -> None:
    config = DataConfig(dataset="drawn_pets", image_size=32, train_count=2, val_count=2)
    with pytest.raises(ValueError, match="no scene of drawn_pets_asked"):
        animal_masks(open_dataset(config).splits["val"], 0)


def digest(pictures: AskedPictures, index: int) -> str:
    scene = pictures.scene(index)
    return hashlib.sha256(scene.image.tobytes() + scene.masks.tobytes()).hexdigest()


def test_pictures_are_the_same_in_another_process_order_and_length() -> None:
    code = (
        "from flax_attn.data.drawn.asked import AskedPictures\n"
        "from tests.data.drawn.test_asked import digest\n"
        "pictures = AskedPictures(seed=3, size=32, count=4, question='pictures')\n"
        "for i in (5, 0, 7):\n"
        "    print(digest(pictures, i))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Portraits of the first pair lie behind four scenes there, behind two here.
    pictures = AskedPictures(seed=3, size=32, count=2, question="picture")
    assert done.stdout.split()[::-1] == [digest(pictures, i) for i in (5, 0, 3)]


def test_fingerprints_follow_all_that_decides_the_cases() -> None:
    base = AskedPictures(seed=0, size=32, count=8)
    others = [replace(base, question=question) for question in QUESTIONS[1:]]
    others += [replace(base, seed=1), replace(base, size=64), replace(base, count=6)]
    others.append(replace(base, first_index=2))
    assert len({split.fingerprint for split in (base, *others)}) == 8
    assert len({opened(q, train=2, val=2).splits["val"].fingerprint for q in QUESTIONS}) == 4


@pytest.mark.parametrize("flag", ["train_count", "val_count"])
def test_an_odd_number_of_scenes_is_refused(flag: str) -> None:
    config = DataConfig(**{"dataset": "drawn_pets_asked", "image_size": 32, flag: 5})
    with pytest.raises(UsageError, match=f"expected an even --{flag.replace('_', '-')}, got 5"):
        open_dataset(config)
    with pytest.raises(UsageError, match="even number, got 5"):
        AskedPictures(seed=0, size=32, count=5)


def test_a_question_needs_a_set_that_asks() -> None:
    config = DataConfig(dataset="drawn_pets", image_size=32, question="picture")
    with pytest.raises(UsageError, match="--question goes with --dataset drawn_pets_asked"):
        open_dataset(config)


def test_a_centre_is_cut_from_all_pictures_of_a_case() -> None:
    counts = {"dataset": "drawn_pets_asked", "train_count": 2, "val_count": 2}
    config = DataConfig(image_size=32, question="picture", centre_crop=0.5, **counts)
    split = open_split(config, "val", classes=("cat", "dog"))
    large = opened("picture", train=2, val=2, size=64).splits["val"]
    np.testing.assert_array_equal(split.image(5), large.image(5)[:, 16:48, 16:48])
    np.testing.assert_array_equal(animal_masks(split, 5), animal_masks(large, 5)[:, 16:48, 16:48])
