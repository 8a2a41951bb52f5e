"""What every split listed by a manifest shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from flax_attn.data.decode import Resize
from flax_attn.data.manifest import ManifestRow, fingerprint


@dataclass(frozen=True, kw_only=True)
class ListedImages:
    """Names, labels and fingerprint of images listed in ``rows``, decoded to one size."""

    rows: tuple[ManifestRow, ...]
    classes: tuple[str, ...]
    size: int
    resize: Resize

    @cached_property
    def names(self) -> Sequence[str]:
        return [row.path for row in self.rows]

    @cached_property
    def labels(self) -> Int[np.ndarray, " n"]:
        return np.array([row.label for row in self.rows], dtype=np.int32)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.rows, classes=self.classes, size=self.size, resize=self.resize)
