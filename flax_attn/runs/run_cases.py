"""What the network of a run is given of cases beside their pictures."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from flax_attn.config import Config
from flax_attn.data import Split
from flax_attn.data.case_split import metadata_of, presence_of
from flax_attn.data.dataset import form_of
from flax_attn.data.metadata import MetaScale
from flax_attn.errors import DataError

_log = logging.getLogger(__name__)


class CaseInputs(NamedTuple):
    """Arrays of all cases of a split; None of single pictures without metadata.

    ``meta`` are their metadata, and ``present`` says which pictures each has.
    """

    meta: Float32[np.ndarray, "n m"] | None = None
    present: Bool[np.ndarray, "n v"] | None = None

    def take(self, index: Int[np.ndarray, "b"]) -> CaseInputs:
        """Returns the arrays of some cases."""
        meta, present = self
        return CaseInputs(
            None if meta is None else meta[index], None if present is None else present[index]
        )


NO_INPUTS = CaseInputs()


def case_inputs(
    split: Split, config: Config, metadata: MetaScale | None, *, where: str
) -> CaseInputs:
    """Returns what the network of a run is given of the cases of a split.

    Args:
      split: the cases, of the run's own table or of another.
      config: the run's settings.
      metadata: how the run reads metadata (``Run.metadata``).
      where: names the split in messages.

    Raises:
      DataError: the cases have other pictures than the run's, or their table lacks a column of
        metadata, or a number of it cannot be used.
    """
    views, wanted = form_of(split).views, config.model.view_names
    if views != wanted:
        raise DataError(
            f"{where}: a case has {_pictures(views)}, in the run {_pictures(wanted)}: give the "
            "table the columns of the run's, in their order"
        )
    if metadata is None:
        return CaseInputs(None, presence_of(split))
    cells = metadata_of(split)
    try:
        meta = metadata.encode(cells)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    if unseen := metadata.describe_unseen(cells):
        _log.warning(f"{where}: values that the training part had not count as none: {unseen}")
    return CaseInputs(meta, presence_of(split))


def _pictures(views: tuple[str, ...]) -> str:
    return f"the pictures {', '.join(map(repr, views))}" if views else "one picture"
