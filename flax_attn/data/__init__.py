"""Data sets on the host: images by index, checked and decoded once, in batches of a fixed shape.

A data set is class names and splits (``dataset``); each file of ``sets`` and ``drawn`` opens one
kind; ``found`` says what it holds; ``check`` finds unusable images before training starts;
``listing`` and ``image_formats`` tell what in a folder is an image; ``views`` see a split
otherwise; ``batches`` decode ahead.

To add a data set, write its file with a function ``open_set(config, request)`` and add one row to
``DATASETS`` in ``flax_attn/config/datasets``. Nothing else names it.

Never imports jax.

Read ``dataset`` first.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from flax_attn.config import DataConfig, TaskChoice, check_dataset, dataset_entry
from flax_attn.data.batches import Batch, Sampler, batches, num_batches
from flax_attn.data.case_split import assemble_cases
from flax_attn.data.check import preflight
from flax_attn.data.copies import describe_copies
from flax_attn.data.dataset import (
    Dataset,
    OpenRequest,
    OpenSet,
    Split,
    read_image,
    settle_task,
)
from flax_attn.data.folds import assign_folds, take_fold
from flax_attn.data.found import describe_found, describe_parts
from flax_attn.data.framing import stored_size
from flax_attn.data.listing import same_form
from flax_attn.data.manifest import ListedImages
from flax_attn.data.own_output import image_folders, refuse_among_images
from flax_attn.data.quarantine import Quarantine
from flax_attn.data.views import CentredSplit, concatenate
from flax_attn.errors import DataError
from flax_attn.system.files import reading

_log = logging.getLogger(__name__)


def open_dataset(
    config: DataConfig,
    quarantine: Quarantine | None = None,
    *,
    cache: Path | None = None,
    images: Path | None = None,
    masks: bool = False,
    task: TaskChoice = "auto",
    out: Sequence[Path] = (),
) -> Dataset:
    """Opens the data set a configuration names and checks that every image of it can be used.

    Args:
      config: its name, folder and way of decoding.
      quarantine: takes the images that cannot be used; by default a new one under the configured
        policy. Rows that it already knows keep their places.
      cache: folder that remembers the digests of files, and which images have been checked.
      images: folder that keeps them decoded (``decode_once``).
      masks: whether masks of objects are wanted, which a folder looks for only then.
      task: what its labels must be; "auto" takes what there is (``Dataset.multilabel``).
      out: folders that a command writes to beside ``cache`` and ``images``; the line that tells
        what was found names them.

    Raises:
      DataError: there is none in its place, its images cannot be used, or its labels do not fit
        the task.
      UsageError: no such data set, settings it cannot follow (``check_dataset``), or a folder to
        write to that holds its images.
    """
    quarantine = quarantine or Quarantine(config.on_bad_image)
    request = OpenRequest(known=quarantine.known_rows, masks=masks, task=task)
    return _open_checked(config, request, quarantine, cache, images, out)


def open_split(
    config: DataConfig,
    name: str,
    *,
    classes: Sequence[str],
    quarantine: Quarantine | None = None,
    cache: Path | None = None,
    images: Path | None = None,
    masks: bool = False,
    task: TaskChoice = "auto",
    out: Sequence[Path] = (),
    labelled: bool = True,
) -> Split:
    """Opens one split of a data set that must have these classes, in this order.

    ``name`` is "train", "val", "test", or "all" for every image once. Where labels are not needed
    (``labelled``), a table may lack them (``form_of``). The other arguments are those of
    ``open_dataset``.

    Raises:
      DataError: the classes are other ones, named in the message; there is no such split; and as
        ``open_dataset``.
      UsageError: as ``open_dataset``.
    """
    quarantine = quarantine or Quarantine(config.on_bad_image)
    request = OpenRequest(
        known=quarantine.known_rows,
        masks=masks,
        undivided=name == "all",
        classes=tuple(classes),
        task=task,
        test=name == "test",
        labelled=labelled,
    )
    dataset = _open_checked(config, request, quarantine, cache, images, out)
    if name != "all" and name not in dataset.splits:
        notes = "".join(f" ({note})" for note in dataset.found.notes[:1])
        raise DataError(
            f"the data set has no split {name!r} but {', '.join(dataset.splits)}{notes}: choose "
            "another --split"
        )
    if list(map(same_form, dataset.classes)) != list(map(same_form, classes)):
        raise DataError(
            f"the run was trained on the classes {', '.join(classes)}, the data set has "
            f"{', '.join(dataset.classes)}: rename its folders, or choose another data set"
        )
    chosen = dataset.splits.values() if name == "all" else [dataset.splits[name]]
    return concatenate(chosen)


def _open_checked(
    config: DataConfig,
    request: OpenRequest,
    quarantine: Quarantine,
    cache: Path | None,
    images: Path | None,
    out: Sequence[Path],
) -> Dataset:
    check_dataset(config)
    open_set: OpenSet = import_module(dataset_entry(config.dataset).module).open_set

    def open_without(unusable: Collection[str]) -> Dataset:
        known = quarantine.unusable_paths | frozenset(unusable)
        with reading(config.data_dir or config.dataset, DataError, remedy="check --data-dir"):
            stored = replace(config, image_size=stored_size(config))
            asked = replace(request, unusable=known, cache=cache)
            return _limited(open_set(stored, asked), config)

    dataset = open_without(())
    divided = config.folds is not None and not request.undivided
    fold_of = assign_folds(dataset, config.folds) if divided and config.folds else {}
    settle_task(dataset, request.task, config.dataset)
    source = config.dataset if config.data_dir is None else config.data_dir
    _log.info(describe_found(dataset, source=source, out=out))
    one_set = dataset.found.drawn or divided
    copies = None if one_set else describe_copies(dataset.splits)
    if copies is not None:
        _log.warning(f"{source}: {copies}")
    if config.data_dir is not None:
        refuse_among_images(
            [*out, *filter(None, (cache, images))],
            roots=[Path(config.data_dir)],
            folders=image_folders(dataset),
        )
    checked = preflight(
        dataset,
        quarantine,
        workers=config.workers,
        cache=cache,
        images=images,
        draw_again=open_without if dataset.found.drawn else None,
    )
    if config.crop_margin:
        size = config.image_size
        centred = {name: CentredSplit(split, size) for name, split in checked.splits.items()}
        checked = replace(checked, splits=centred)
    checked = assemble_cases(checked)
    if divided and config.fold is not None:
        checked = take_fold(checked, fold_of, config.fold)
        _log.info(f"fold {config.fold} of {config.folds}: {describe_parts(checked)}")
    return checked


def _limited(dataset: Dataset, config: DataConfig) -> Dataset:
    """Returns the data set with its encoded images limited and cropped as configured."""
    limit, share = config.max_pixels, config.centre_crop
    splits = {
        name: replace(split, max_pixels=limit, centre_crop=share)
        if isinstance(split, ListedImages)
        else split
        for name, split in dataset.splits.items()
    }
    return replace(dataset, splits=splits)


__all__ = [
    "Batch",
    "Dataset",
    "Quarantine",
    "Sampler",
    "Split",
    "batches",
    "concatenate",
    "num_batches",
    "open_dataset",
    "open_split",
    "read_image",
]
