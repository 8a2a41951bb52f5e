"""Data sets on the host: images by index, checked and decoded once, in batches of a fixed shape.

A data set is class names and splits (``dataset``); each file of ``sets`` opens one format, and
``DATASETS`` lists them; ``check`` finds unusable images before training starts; ``views`` see a
split otherwise; ``batches`` decode ahead. To add a data set, write its file in ``sets`` and add an
entry to ``DATASETS``.

Never imports jax.

Read ``dataset`` first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flax_attn.config import DataConfig
from flax_attn.data.batches import Batch, batches, num_batches, read_image
from flax_attn.data.check import preflight
from flax_attn.data.dataset import Dataset, Split
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.quarantine import Quarantine
from flax_attn.data.views import concatenate
from flax_attn.errors import DataError, UsageError


def _drawn_pets(config: DataConfig) -> Dataset:
    from flax_attn.data.drawn.pets import open_drawn_pets

    return open_drawn_pets(
        seed=config.data_seed,
        size=config.image_size,
        train_count=config.train_count,
        val_count=config.val_count,
    )


def _drawn_pets_scenes(config: DataConfig) -> Dataset:
    from flax_attn.data.drawn.scenes import open_drawn_scenes

    return open_drawn_scenes(
        seed=config.data_seed,
        size=config.image_size,
        train_count=config.train_count,
        val_count=config.val_count,
    )


def _folder(
    config: DataConfig, *, known: Sequence[ManifestRow] = (), masks: bool = False
) -> Dataset:
    from flax_attn.data.sets.folder import masks_beside, open_folder

    root = Path(config.data_dir or ".")
    return open_folder(
        root,
        size=config.image_size,
        resize=config.resize,
        val_fraction=config.val_fraction,
        known=known,
        mask_dir=masks_beside(root, config.mask_dir) if masks else None,
    )


def _labelled_csv(
    config: DataConfig, *, undivided: bool = False, class_names: tuple[str, ...] | None = None
) -> Dataset:
    from flax_attn.data.sets.labelled_csv import open_labelled_csv

    return open_labelled_csv(
        Path(config.data_dir or "."),
        size=config.image_size,
        resize=config.resize,
        val_fraction=None if undivided else config.val_fraction,
        class_names=class_names,
    )


def _cats_vs_dogs(config: DataConfig) -> Dataset:
    from flax_attn.data.sets.cats_vs_dogs import open_cats_vs_dogs

    return open_cats_vs_dogs(
        Path(config.data_dir) if config.data_dir else None,
        size=config.image_size,
        resize=config.resize,
        val_fraction=config.val_fraction,
    )


def _oxford_iiit_pet(config: DataConfig) -> Dataset:
    from flax_attn.data.sets.oxford_iiit_pet import open_oxford_iiit_pet

    return open_oxford_iiit_pet(
        Path(config.data_dir) if config.data_dir else None,
        size=config.image_size,
        resize=config.resize,
    )


DATASETS: dict[str, Callable[[DataConfig], Dataset]] = {
    "drawn_pets": _drawn_pets,
    "drawn_pets_scenes": _drawn_pets_scenes,
    "folder": _folder,
    "labelled_csv": _labelled_csv,
    "cats_vs_dogs": _cats_vs_dogs,
    "oxford_iiit_pet": _oxford_iiit_pet,
}


def open_dataset(
    config: DataConfig,
    quarantine: Quarantine | None = None,
    *,
    cache: Path | None = None,
    images: Path | None = None,
    masks: bool = False,
) -> Dataset:
    """The data set a configuration names, every file of it checked to be a usable image.

    ``quarantine`` takes the images that are not (default: a new one under the configured
    policy). ``cache`` is a folder that remembers which images have been checked, ``images`` one
    that keeps them decoded (`decode_once`). ``masks`` says that those of the objects are wanted,
    which a folder looks for only then.

    Raises DataError when there is none in its place, or its images cannot be used.
    """
    _check_masks(config, masks)
    quarantine = quarantine or Quarantine(config.on_bad_image)
    if config.dataset == "folder":
        dataset = _folder(config, known=quarantine.known_rows, masks=masks)
    else:
        dataset = DATASETS[config.dataset](config)
    return preflight(dataset, quarantine, workers=config.workers, cache=cache, images=images)


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
    """One split of a data set that must have these classes, in this order.

    ``name`` is "train", "val", or "all": every image once, of a folder without dividing it.
    ``masks`` is that of ``open_dataset``.

    Raises DataError with the difference when the classes are not these, and as
    ``open_dataset`` does.
    """
    _check_masks(config, masks)
    quarantine = quarantine or Quarantine(config.on_bad_image)
    if name == "all" and config.dataset == "folder":
        from flax_attn.data.sets.folder import masks_beside, open_tree

        root = Path(config.data_dir or ".")
        dataset = open_tree(
            root,
            size=config.image_size,
            resize=config.resize,
            known=quarantine.known_rows,
            mask_dir=masks_beside(root, config.mask_dir) if masks else None,
        )
        dataset = preflight(dataset, quarantine, workers=config.workers, cache=cache, images=images)
    elif config.dataset == "labelled_csv":
        # The table's columns may stand in another order than those the run was trained on.
        dataset = _labelled_csv(config, undivided=name == "all", class_names=tuple(classes))
        dataset = preflight(dataset, quarantine, workers=config.workers, cache=cache, images=images)
    else:
        dataset = open_dataset(config, quarantine, cache=cache, images=images, masks=masks)
    if tuple(dataset.classes) != tuple(classes):
        raise DataError(
            f"the run was trained on the classes {', '.join(classes)}, the data set has "
            f"{', '.join(dataset.classes)}: rename its folders, or choose another data set"
        )
    chosen = dataset.splits.values() if name == "all" else [dataset.splits[name]]
    return concatenate(chosen)


def _check_masks(config: DataConfig, wanted: bool) -> None:
    if wanted and config.mask_dir is not None and config.dataset != "folder":
        raise UsageError(
            f"--mask-dir goes with --dataset folder: {config.dataset} has masks of its own or none"
        )


__all__ = [
    "DATASETS",
    "Batch",
    "Dataset",
    "Quarantine",
    "Split",
    "batches",
    "concatenate",
    "num_batches",
    "open_dataset",
    "open_split",
    "read_image",
]
