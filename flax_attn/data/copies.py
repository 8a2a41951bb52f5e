"""Copies of images on two sides of a split that was given, which make what is measured too good."""

from __future__ import annotations

from collections.abc import Mapping

from flax_attn.data.dataset import EncodedSplit, Split


def describe_copies(splits: Mapping[str, Split]) -> str | None:
    """Returns in one line how many files of a split are byte for byte in an earlier one too.

    Returns None where there is none. Splits are gone through in their order, "train" first.
    """
    first: dict[str, tuple[str, str]] = {}
    pairs: list[tuple[tuple[str, str], tuple[str, str]]] = []
    for name, split in sorted(splits.items(), key=lambda item: item[0] != "train"):
        for row in split.rows if isinstance(split, EncodedSplit) else ():
            place = (name, row.path)
            known = first.setdefault(row.digest, place) if row.digest else place
            if known[0] != name:
                pairs.append((known, place))
    if not pairs:
        return None
    (side, path), (other, copy) = pairs[0]
    stand = "1 image stands" if len(pairs) == 1 else f"{len(pairs)} images stand"
    more = f", and {len(pairs) - 1} more" if len(pairs) > 1 else ""
    return (
        f"{stand} on two sides of the split: {copy!r} of {other} is a copy of {path!r} of "
        f"{side}{more}: remove one of each two, or figures on {other} are too good"
    )
