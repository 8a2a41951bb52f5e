"""Data sets on the host: images by index, decoded to bytes; never jax."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flax_attn.config import DataConfig
from flax_attn.data.batches import Batch, batches, num_batches
from flax_attn.data.concatenate import concatenate
from flax_attn.data.dataset import Dataset, Split


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

    assert config.data_dir is not None  # config.validate has seen to it
    return open_folder(
        Path(config.data_dir),
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
    """The data set a configuration names.

    Raises DataError when there is none in its place, or its images cannot be used.
    """
    return DATASETS[config.dataset](config)


__all__ = [
    "DATASETS",
    "Batch",
    "Dataset",
    "Split",
    "batches",
    "concatenate",
    "num_batches",
    "open_dataset",
]
