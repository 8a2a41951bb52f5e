"""Train a network: ``flax-attn train --norm sigmoid``."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from flax_attn.attention import alignment_of, check_asked
from flax_attn.config import Config, dataset_entry, make_config
from flax_attn.data import Dataset, Quarantine, open_dataset
from flax_attn.data.quarantine import FILE
from flax_attn.runs.directory import default_workdir, require_usable
from flax_attn.system import cli
from flax_attn.system.compilation_cache import use_compilation_cache
from flax_attn.system.processes import Processes, joined
from flax_attn.training.devices import devices_for
from flax_attn.training.features import require_cache
from flax_attn.training.train_flags import parse

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    """Runs ``flax-attn train``: trains a network, or resumes a run.

    Raises:
      FlaxAttnError: a failure that one line explains; ``cli.run`` prints it.
    """
    values = vars(parse(argv))
    values.pop("debug")
    meeting = cli.take_meeting(values)
    config = make_config(values, preset=values.pop("preset"))
    use_compilation_cache(config.run.compilation_cache)
    with joined(meeting) as processes:
        _train(config, processes)


def _train(config: Config, processes: Processes) -> None:
    started = time.perf_counter()
    workdir = Path(config.run.workdir) if config.run.workdir else default_workdir(config)
    if processes.first:
        require_usable(workdir)
    dataset = open_to_train(config, workdir)
    from flax_attn.training.trainer import train

    train(config, dataset, workdir=workdir, processes=processes)
    _log.info(
        f"done in {time.perf_counter() - started:.0f} s; judge it: "
        f"flax-attn eval --workdir {workdir}"
    )


def open_to_train(config: Config, workdir: Path) -> Dataset:
    """Returns the data set of a training in ``workdir``, which may resume a run there.

    Raises:
      FlaxAttnError: the images cannot be used, or a setting is refused that they do not decide.
    """
    # Imports that take a second: a directory in use is refused before.
    from flax_attn.training.trainer import set_aside_before

    # To be told of a wrong number before images are read.
    devices_for(config.train)
    if config.train.freeze_backbone:
        require_cache(Path(config.run.feature_cache))
    if config.model.model == "attn_vgg":
        alignment_of(config.model)
        row = dataset_entry(config.data.dataset)
        check_asked(config.model, cases_known=not row.may_have_cases)
    quarantine = Quarantine(config.data.on_bad_image, earlier=set_aside_before(workdir))
    dataset = open_dataset(
        config.data,
        quarantine,
        cache=Path(config.run.feature_cache),
        images=config.run.image_folder,
        masks=bool(config.train.region_weights),
        task=config.train.task,
        out=[workdir],
    )
    if quarantine.entries:
        _log.info(f"{len(quarantine.entries)} unusable images set aside: {workdir / FILE}")
    return dataset
