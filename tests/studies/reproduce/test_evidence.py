"""Which class stands for the article's dogs."""

from __future__ import annotations

from tests.helpers import reproduction_evidence as made_up

S, N, U = "supported", "not supported", "undecided"


def test_dogs_are_found_by_name(undrawn: None) -> None:
    assert made_up.evidence(classes=("dogs", "cats")).dog == 0
    assert made_up.evidence(classes=("day", "night")).dog == 1
