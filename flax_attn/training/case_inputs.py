"""What a network is given of cases beside pixels: metadata as numbers, which pictures there are.

The training part decides once how cells become numbers; the run keeps that (``Run.metadata``), and
whatever looks at the run reads the cells of other cases by it.
"""

from __future__ import annotations

import json

from flax_attn.attention import check_asked
from flax_attn.config import Config
from flax_attn.data import Dataset, Split
from flax_attn.data.case_split import metadata_of
from flax_attn.data.dataset import form_of
from flax_attn.data.metadata import MetaScale, measure_scale
from flax_attn.errors import UsageError
from flax_attn.runs.directory import Run
from flax_attn.runs.run_cases import CaseInputs, case_inputs
from flax_attn.system.json_text import encode_json
from flax_attn.system.processes import ALONE, Processes


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
    if names and config.model.views:
        raise UsageError(
            f"--views {config.model.views} makes views of single pictures, and these cases have "
            f"several ({', '.join(map(repr, names))}): drop it"
        )
    config = config.updated(view_names=tuple(names), meta_features=len(features))
    if config.train.mixup and (names or features):
        has = "several pictures" if names else "metadata"
        raise UsageError(
            f"--mixup {config.train.mixup} mixes single pictures without metadata, and these cases "
            f"have {has}: drop it"
        )
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
