"""Names of folders that tell parts of a split, and those that only look like it."""

from __future__ import annotations

import pytest

from flax_attn.data.sets.layout import part_of


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("train", "train Train TRAINING training_set seg_train train-images train2017 trainset"),
        ("train", "TrainData trainval 1_train imgs_train train_split dataset_train trn"),
        ("val", "val valid Validation dev DEV_SET eval evaluation holdout hold-out held_out"),
        ("val", "val2017 validation_images dev_data development"),
        ("test", "test testing test_set seg_test Test2017 test-images tests tst"),
    ],
)
def test_a_part_is_told_by_its_name(part: str, names: str) -> None:
    assert {name: part_of(name) for name in names.split()} == dict.fromkeys(names.split(), part)


@pytest.mark.parametrize(
    "name",
    "cat trains trainer trainstation testament protest contest device devil evaluate_me valley "
    "latest attest medieval interval carnival training_wheels holdouts data set 2017".split(),
)
def test_a_class_is_not_taken_for_a_part(name: str) -> None:
    assert part_of(name) is None
