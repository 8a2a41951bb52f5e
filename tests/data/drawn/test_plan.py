"""Plans of scenes: labels without drawing, and nothing but the head tells the species."""

from __future__ import annotations

import numpy as np
from scipy import stats

from flax_attn.data.drawn.coat import PATTERNS
from flax_attn.data.drawn.pets import draw_scene
from flax_attn.data.drawn.plan import labels_of, plan_scene

# Fixed seeds; of equal distributions one comparison in 10,000 falls below.
SAME_DISTRIBUTION_P = 1e-4


def test_labels_are_balanced_and_need_no_drawing():
    labels = labels_of(0, np.arange(2000))
    assert set(labels.tolist()) == {0, 1}
    assert all(labels[:even].sum() == even // 2 for even in range(0, 2001, 2))
    # The order within the pairs is random, or index parity would give the label away.
    assert 400 < labels[::2].sum() < 600
    assert not np.array_equal(labels, labels_of(1, np.arange(2000)))
    drawn = [draw_scene(seed=0, index=i, size=16).label for i in range(20)]
    assert drawn == labels[:20].tolist()


def test_labels_take_seeds_of_any_size():
    assert labels_of(2**70, np.arange(10)).sum() == 5


def test_kinds_of_further_animals_are_independent_of_the_first():
    kinds = np.array([plan_scene(seed=0, index=i, num_animals=2).kinds for i in range(600)])
    same = (kinds[:, 0] == kinds[:, 1]).mean()
    assert 0.42 < same < 0.58


def test_species_share_the_distribution_of_coat_place_and_pose():
    plans = [plan_scene(seed=8, index=i) for i in range(1600)]
    is_dog = np.array([plan.kinds[0] == 1 for plan in plans])
    stances = [plan.stances[0] for plan in plans]
    for values in (
        [sum(s.coat.base) for s in stances],
        [s.scale for s in stances],
        [s.x for s in stances],
        [s.y for s in stances],
    ):
        column = np.array(values, float)
        assert stats.ks_2samp(column[is_dog], column[~is_dog]).pvalue > SAME_DISTRIBUTION_P
    for names in ([s.pose for s in stances], [s.coat.pattern for s in stances]):
        column = np.array(names)
        kinds = np.unique(column)
        table = [[(column[side] == kind).sum() for kind in kinds] for side in (is_dog, ~is_dog)]
        assert stats.chi2_contingency(table).pvalue > SAME_DISTRIBUTION_P
    assert {s.coat.pattern for s in stances} == set(PATTERNS)
