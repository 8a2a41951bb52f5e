"""Data sets on the host: images by index, decoded to bytes; never jax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flax_attn.config import DataConfig
from flax_attn.data.batches import Batch, batches, num_batches
from flax_attn.data.concatenate import concatenate
from flax_attn.data.dataset import Dataset, Split
from flax_attn.data.preflight import preflight
from flax_attn.errors import DataError


def _drawn_pets(config: DataConfig) -> Dataset:
    from flax_attn.data.drawn_pets import open_drawn_pets

    return open_drawn_pets(
        seed=config.data_seed,
        size=config.image_size,
        train_count=config.train_count,
        val_count=config.val_count,
    )


def _folder(config: DataConfig) -> Dataset:
    from flax_attn.data.folder import open_folder

    return open_folder(
        Path(config.data_dir or "."),
        size=config.image_size,
        resize=config.resize,
        val_fraction=config.val_fraction,
    )


def _cats_vs_dogs(config: DataConfig) -> Dataset:
    from flax_attn.data.cats_vs_dogs import open_cats_vs_dogs

    return open_cats_vs_dogs(
        Path(config.data_dir) if config.data_dir else None,
        size=config.image_size,
        resize=config.resize,
        val_fraction=config.val_fraction,
    )


DATASETS: dict[str, Callable[[DataConfig], Dataset]] = {
    "drawn_pets": _drawn_pets,
    "folder": _folder,
    "cats_vs_dogs": _cats_vs_dogs,
}


def open_dataset(config: DataConfig) -> Dataset:
    """The data set a configuration names, every file of it checked to be a usable image.

    Raises DataError when there is none in its place, or its images cannot be used.
    """
    dataset = DATASETS[config.dataset](config)
    preflight(dataset.splits.values(), workers=config.workers)
    return dataset


def open_split(config: DataConfig, name: str, *, classes: Sequence[str]) -> Split:
    """One split of a data set that must have these classes, in this order.

    ``name`` is "train", "val", or "all": every image once, of a folder without dividing it.
    Raises DataError with the difference when the classes are not these, and as
    ``open_dataset`` does.
    """
    if name == "all" and config.dataset == "folder":
        from flax_attn.data.folder import open_tree

        dataset = open_tree(
            Path(config.data_dir or "."), size=config.image_size, resize=config.resize
        )
        preflight(dataset.splits.values(), workers=config.workers)
    else:
        dataset = open_dataset(config)
    if tuple(dataset.classes) != tuple(classes):
        raise DataError(
            f"the run was trained on the classes {', '.join(classes)}, the data set has "
            f"{', '.join(dataset.classes)}: rename its folders, or choose another data set"
        )
    chosen = dataset.splits.values() if name == "all" else [dataset.splits[name]]
    return concatenate(chosen)


__all__ = [
    "DATASETS",
    "Batch",
    "Dataset",
    "Split",
    "batches",
    "concatenate",
    "num_batches",
    "open_dataset",
    "open_split",
]
