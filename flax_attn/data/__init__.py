"""Data sets on the host: images by index, checked and decoded once, in batches of a fixed shape.

A data set is class names and splits (``dataset``); each file of ``sets`` and ``drawn`` opens one
kind; ``check`` finds unusable images before training starts; ``views`` see a split otherwise;
``batches`` decode ahead.

To add a data set, write its file with a function ``open_set(config, request)`` and add one row to
``DATASETS`` in ``flax_attn/config.py``. Nothing else names it.

Never imports jax.

Read ``dataset`` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from flax_attn.config import DataConfig, check_dataset, dataset_entry
from flax_attn.data.batches import Batch, Sampler, batches, num_batches
from flax_attn.data.check import preflight
from flax_attn.data.dataset import Dataset, OpenRequest, OpenSet, Split, read_image
from flax_attn.data.quarantine import Quarantine
from flax_attn.data.views import concatenate
from flax_attn.errors import DataError
from flax_attn.system.files import reading


def open_dataset(
    config: DataConfig,
    quarantine: Quarantine | None = None,
    *,
    cache: Path | None = None,
    images: Path | None = None,
    masks: bool = False,
) -> Dataset:
    """Opens the data set a configuration names and checks that every image of it can be used.

    Args:
      config: its name, folder and way of decoding.
      quarantine: takes the images that cannot be used; by default a new one under the configured
        policy. Rows that it already knows keep their places.
      cache: folder that remembers which images have been checked.
      images: folder that keeps them decoded (``decode_once``).
      masks: whether masks of objects are wanted, which a folder looks for only then.

    Raises:
      DataError: there is none in its place, or its images cannot be used.
      UsageError: no such data set, or settings it cannot follow (``check_dataset``).
    """
    quarantine = quarantine or Quarantine(config.on_bad_image)
    request = OpenRequest(known=quarantine.known_rows, masks=masks)
    return _open_checked(config, request, quarantine, cache, images)


def open_split(
    config: DataConfig,
    name: str,
    *,
    classes: Sequence[str],
    quarantine: Quarantine | None = None,
    cache: Path | None = None,
    images: Path | None = None,
    masks: bool = False,
) -> Split:
    """Opens one split of a data set that must have these classes, in this order.

    ``name`` is "train", "val", or "all" for every image once. The other arguments are those of
    ``open_dataset``.

    Raises:
      DataError: the classes are other ones, named in the message; and as ``open_dataset``.
      UsageError: as ``open_dataset``.
    """
    quarantine = quarantine or Quarantine(config.on_bad_image)
    request = OpenRequest(
        known=quarantine.known_rows, masks=masks, undivided=name == "all", classes=tuple(classes)
    )
    dataset = _open_checked(config, request, quarantine, cache, images)
    if tuple(dataset.classes) != tuple(classes):
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
) -> Dataset:
    check_dataset(config)
    open_set: OpenSet = import_module(dataset_entry(config.dataset).module).open_set
    with reading(config.data_dir or config.dataset, DataError, remedy="check --data-dir"):
        dataset = open_set(config, request)
    return preflight(dataset, quarantine, workers=config.workers, cache=cache, images=images)


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
