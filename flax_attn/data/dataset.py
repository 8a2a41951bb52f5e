"""What every data set offers: named splits of images, addressed by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Int, UInt8


class Split(Protocol):
    """An indexable set of labelled images, all decoded to one square size.

    ``names[i]`` identifies image ``i`` in predictions and messages; ``fingerprint`` changes
    whenever the content, the order or the size of the images does.
    """

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Int[np.ndarray, "n"]: ...

    @property
    def fingerprint(self) -> str: ...

    def image(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        """Image ``index`` as RGB; safe to call from several threads."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Class names in label order, and the splits by name ("train", "val")."""

    classes: tuple[str, ...]
    splits: Mapping[str, Split]
