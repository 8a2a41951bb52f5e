"""What a network is given of cases beside pixels: metadata as numbers, which pictures there are.

The training part decides once how cells become numbers; the run keeps that (``Run.metadata``), and
whatever looks at the run reads the cells of other cases by it.
"""

from __future__ import annotations

import json
import logging
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from flax_attn.attention import check_asked
from flax_attn.config import Config
from flax_attn.data import Dataset, Split
from flax_attn.data.case_split import metadata_of, presence_of
from flax_attn.data.dataset import form_of
from flax_attn.data.metadata import MetaScale, measure_scale
from flax_attn.errors import DataError
from flax_attn.runs.directory import Run
from flax_attn.system.json_text import encode_json
from flax_attn.system.processes import ALONE, Processes

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


def settle_cases(
    config: Config, train: Split, *, earlier: Run | None = None, processes: Processes = ALONE
) -> tuple[Config, MetaScale | None]:
    """Returns settings with what a network must know of cases, and how metadata become numbers.

    They are those of the run that is resumed (``earlier``), else found in the training part. All of
    several ``processes`` take the first one's.

    Raises:
      DataError: a column of metadata says nothing.
      UsageError: settings of a network need what the cases have not.
    """
    if earlier is not None:
        views, scale = earlier.config.model.view_names, earlier.metadata
    else:
        views, scale = form_of(train).views, measure_scale(metadata_of(train))
    found = encode_json([views, [] if scale is None else scale.to_json()])
    names, columns = json.loads(processes.first_says("cases", found))
    scale = MetaScale.from_json(columns) if columns else None
    features = () if scale is None else scale.features
    config = config.updated(view_names=tuple(names), meta_features=len(features))
    if config.model.model == "attn_vgg":
        check_asked(config.model)
    return config, scale


def inputs_of(
    dataset: Dataset, config: Config, metadata: MetaScale | None
) -> tuple[CaseInputs, CaseInputs]:
    """Returns what the network is given of the training and of the validation cases.

    Raises:
      DataError: as ``case_inputs``.
    """
    train, val = (
        case_inputs(dataset.splits[name], config, metadata, where=f"split {name}")
        for name in ("train", "val")
    )
    return train, val


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
