"""Weights from and to other frameworks, and trained networks as files for other programs.

Porting is data: tables of key, path and transform (``tables``), applied strictly and bit for bit
in both directions (``convert``). ``pth`` reads PyTorch's files without running anything in them;
``imagenet`` finds ImageNet weights; ``export`` writes StableHLO and ONNX.

Refuses to guess: every key is mapped and every shape checked, or nothing is written.

Read ``tables`` first.
"""

from __future__ import annotations

from flax_attn.porting.convert import LoadedWeights, load_into, to_flax, to_torch, unwrap
from flax_attn.porting.ported_files import Ported, read_ported, sha256_of, write_ported
from flax_attn.porting.tables import (
    TABLES,
    KeyTable,
    attn_vgg_table,
    backbone_table,
    vgg16_bn_table,
)

__all__ = [
    "TABLES",
    "LoadedWeights",
    "Ported",
    "KeyTable",
    "attn_vgg_table",
    "backbone_table",
    "load_into",
    "read_ported",
    "sha256_of",
    "to_flax",
    "to_torch",
    "unwrap",
    "vgg16_bn_table",
    "write_ported",
]
