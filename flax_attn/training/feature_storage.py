"""How a run keeps features, and in which order its epochs read them: what fits in memory decides.

The rule, of ``--feature-dtype auto`` and ``--feature-order auto``: features are float32 and
shuffled freely where they take at most half of the memory; in half the bytes otherwise; and where
those take more than half of the memory too, epochs go through them in blocks
(``data/epoch_order``). A run decides once and keeps what it found: a resume on a machine of another
size goes on in the same way.
"""

from __future__ import annotations

import json
import logging
from typing import NamedTuple

from flax_attn.config import Config, FeatureDtype, ModelConfig, parse_views
from flax_attn.data import Dataset, Split
from flax_attn.data.fold_split import FoldSplit, kept_photographs
from flax_attn.models import MODELS
from flax_attn.models.backbone import STRIDE
from flax_attn.models.network import channels
from flax_attn.system.json_text import encode_json
from flax_attn.system.memory import memory_bytes
from flax_attn.system.processes import ALONE, Processes
from flax_attn.training.feature_format import picture_bytes
from flax_attn.training.features import FeatureStorage

# Of the memory, what features may take and still stay in it beside all else.
_SHARE = 0.5
# What an epoch in blocks reads at a time, and into how many blocks that is cut. Two such buffers
# are in memory: one that is used and one that is read.
_BUFFER_BYTES = 256 << 20
_BLOCKS = 8

_log = logging.getLogger(__name__)


class BlockSizes(NamedTuple):
    """How many examples are in a block, and in a buffer, which is whole batches."""

    block: int
    buffer: int


def with_feature_storage(
    config: Config,
    dataset: Dataset,
    *,
    earlier: Config | None = None,
    processes: Processes = ALONE,
    memory: int | None = None,
) -> Config:
    """Returns the settings with how features are kept and read, of a frozen backbone.

    It is that of the run that is resumed (``earlier``), where the settings leave it open; else
    ``memory`` in bytes decides, by default this process's. All of several ``processes`` take the
    first one's.
    """
    if not config.train.freeze_backbone:
        return config.updated(kept_dtype="f32", kept_order="any")
    train = config.train
    dtype, order = str(train.feature_dtype), str(train.feature_order)
    if earlier is not None:
        dtype = earlier.train.kept_dtype if dtype == "auto" else dtype
        order = earlier.train.kept_order if order == "auto" else order
    dtype, order = _settle(config, dtype, order, _pictures(dataset), memory)
    dtype, order = json.loads(processes.first_says("features", encode_json([dtype, order])))
    return config.updated(kept_dtype=dtype, kept_order=order)


def _settle(
    config: Config, dtype: str, order: str, pictures: int, memory: int | None
) -> tuple[str, str]:
    shapes = map_shapes(config.model, config.data.image_size)
    if "auto" not in (dtype, order):
        return dtype, order
    memory = memory_bytes() if memory is None else memory

    views = max(len(parse_views(config.model.views).views), 1)

    def needs(name: FeatureDtype) -> int:
        return pictures * views * picture_bytes(shapes, name)

    if dtype == "auto":
        dtype = "f32" if needs("f32") <= _SHARE * memory else "f16"
    taken = needs(dtype)  # type: ignore[arg-type]  # one of them by now
    if order == "auto":
        fits = taken <= _SHARE * memory
        order = "any" if fits or config.train.shuffle == "pictures" else "blocks"
    if (dtype, order) != ("f32", "any"):
        how = "in blocks" if order == "blocks" else "freely"
        _log.info(
            f"features of {pictures:,} images are kept as {dtype}, {taken / 1e9:.1f} GB (f32: "
            f"{needs('f32') / 1e9:.1f} GB), and shuffled {how}, as memory has "
            f"{memory / 1e9:.1f} GB"
        )
    return dtype, order


def map_shapes(model: ModelConfig, image_size: int) -> dict[str, tuple[int, int, int]]:
    """Returns height, width and channels of the maps of a backbone that gates read, by name.

    Networks that read fewer of them, and are compared with that of the gates, are sized by the same
    maps: what is compared is kept and shuffled in the same way.
    """
    maps = model.row.family.maps
    width_of = channels(model)
    side_of = {name: image_size // (STRIDE >> (len(maps) - 1 - i)) for i, name in enumerate(maps)}
    taps = MODELS["attn_vgg"].taps(model)
    return {name: (side_of[name], side_of[name], width_of[name]) for name in taps}


def block_sizes(config: Config) -> BlockSizes:
    """Returns the sizes of an epoch in blocks: a function of the settings alone."""
    views = max(len(config.model.all_views), 1)
    shapes = map_shapes(config.model, config.data.image_size)
    batch = config.train.batch_size
    batch_bytes = batch * views * picture_bytes(shapes, config.train.kept_dtype)
    buffer = max(_BUFFER_BYTES // batch_bytes, 1) * batch
    return BlockSizes(max(buffer // _BLOCKS, 1), buffer)


def _pictures(dataset: Dataset) -> int:
    """Returns how many pictures have features: those of all folds count once."""
    splits = [dataset.splits[name] for name in ("train", "val")]
    if isinstance(splits[0], FoldSplit):
        splits = splits[:1]
    return sum(len(kept_photographs(split)[0].labels) for split in splits)


def storage_of(config: Config, split: Split, *, trains: bool) -> FeatureStorage:
    """Returns how the features of a split are kept, which ``trains`` or validates.

    In blocks, rows of training images are in a random order in their file, so that neighbours are a
    fair sample of all images, whatever the order of these: those of a folder stand class by class.
    What validates alone is read in its own order.
    """
    mixed = trains or isinstance(split, FoldSplit)
    return FeatureStorage(config.train.kept_dtype, config.train.kept_order == "blocks" and mixed)
