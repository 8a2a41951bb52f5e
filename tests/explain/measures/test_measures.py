"""Measures of any number of images at a time, on maps whose place is known."""

from __future__ import annotations

import numpy as np

from flax_attn.explain import measures
from tests.helpers import reproduction_evidence as made_up

S, N, U = "supported", "not supported", "undecided"


def test_measures_know_where_maps_lie() -> None:
    masks, heads = made_up.animals(), made_up.heads()
    even = np.ones((made_up.IMAGES, 4, 4))
    np.testing.assert_allclose(measures.excess(even, masks), 0, atol=1e-6)
    on_head = made_up.pooled(heads, 4)
    np.testing.assert_allclose(measures.excess(on_head, masks), 0.75, atol=1e-6)
    np.testing.assert_allclose(measures.part_of_object(on_head, heads, masks), 1, atol=1e-6)
    np.testing.assert_allclose(measures.part_of_object(even, heads, masks), 0.5, atol=1e-6)
    np.testing.assert_array_equal(measures.spots(made_up.spot(8)), 1)
    fine = np.kron(even * np.arange(16.0).reshape(4, 4), np.ones((2, 2)))
    coarse = even * np.arange(16.0).reshape(4, 4)
    np.testing.assert_allclose(measures.rank_correlation(fine, coarse), 1, atol=1e-6)
