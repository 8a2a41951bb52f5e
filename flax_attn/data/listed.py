"""What every split listed by a manifest shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from flax_attn.data.decode import Resize, decode
from flax_attn.data.manifest import ManifestRow, fingerprint


@dataclass(frozen=True, kw_only=True)
class ListedImages:
    """Encoded images listed in ``rows``, decoded to one size when asked for.

    An image whose content is no longer what the row's digest says is an ImageError: it is not
    what the fingerprint stands for.
    """

    rows: tuple[ManifestRow, ...]
    classes: tuple[str, ...]
    size: int
    resize: Resize

    @cached_property
    def names(self) -> Sequence[str]:
        return [row.path for row in self.rows]

    @cached_property
    def digests(self) -> Sequence[str]:
        return [row.digest for row in self.rows]

    @cached_property
    def labels(self) -> Int[np.ndarray, " n"]:
        return np.array([row.label for row in self.rows], dtype=np.int32)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.rows, classes=self.classes, size=self.size, resize=self.resize)

    def source(self, index: int) -> bytes | Path:
        """The file of an image, or its encoded content."""
        raise NotImplementedError

    def image(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        source, row = self.source(index), self.rows[index]
        return decode(
            source,
            size=self.size,
            resize=self.resize,
            name=row.path if isinstance(source, bytes) else None,
            sha256=row.digest,
        )
