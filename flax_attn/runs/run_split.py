"""The images that a command looks at a trained run with: the run's own, or those that are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax_attn.config import OTHER_IMAGES, Config, of_other_data, settings, validate
from flax_attn.data import Quarantine, Split, open_split
from flax_attn.data.quarantine import FILE, read_entries


class RunSplit(NamedTuple):
    """A split, and the images of it that cannot be used."""

    split: Split
    quarantine: Quarantine


def look_config(
    config: Config, given: Mapping[str, Any], *, of_photographs: bool = False
) -> Config:
    """Returns a run's settings for a look at it, with those ``given`` to the command.

    As many devices as there are here, whatever the run was trained on; places within its images are
    left behind where others are named. With ``of_photographs`` no data set is opened, and what it
    needs may be missing.

    Raises:
      UsageError: a value is outside its range, or settings exclude each other.
    """
    found = config.updated(**{"devices": None, "accumulate": 1, **of_other_data(given)})
    # What the run was told is its own affair.
    told = {f.name for f in settings()} - given.keys()
    validate(found, of_photographs=of_photographs, idle=told)
    return found


def open_run_split(
    config: Config,
    name: str,
    *,
    classes: Sequence[str],
    workdir: Path,
    given: Mapping[str, Any],
    out: Path,
    masks: bool = False,
    labelled: bool = True,
) -> RunSplit:
    """Opens a split of the images that ``config`` (``look_config``) names, with the run's task.

    Of the run's own images those that it has set aside are left out.

    Args:
      config: settings of the look.
      name: "train", "val", "test" or "all".
      classes: the run's, which the images must have.
      workdir: the run directory.
      given: the settings that were given to the command.
      out: the folder that the command writes to.
      masks: whether masks of objects are wanted.
      labelled: whether labels are needed; else a table may lack them (``form_of``).

    Raises:
      DataError: the images cannot be used, or have other classes.
      UsageError: ``out`` holds images that are read.
    """
    left_out = [] if OTHER_IMAGES & given.keys() else read_entries(workdir / FILE)
    quarantine = Quarantine(config.data.on_bad_image, earlier=left_out, keep_places=False)
    split = open_split(
        config.data,
        name,
        classes=classes,
        quarantine=quarantine,
        cache=Path(config.run.feature_cache),
        images=config.run.image_folder,
        masks=masks,
        task=config.train.task,
        out=[out],
        labelled=labelled,
    )
    return RunSplit(split, quarantine)


def split_text(config: Config, name: str) -> str:
    """Returns a split of a data set as messages name it."""
    return f"{config.data.data_dir or config.data.dataset}, split {name}"
