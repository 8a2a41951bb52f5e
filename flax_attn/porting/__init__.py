"""Weights of PyTorch networks as arrays of ours and back, and the files that hold them."""

from __future__ import annotations

from flax_attn.porting.convert import to_flax, to_torch, unwrap
from flax_attn.porting.load_into import Loaded, load_into
from flax_attn.porting.ported_files import Ported, read_ported, sha256_of, write_ported
from flax_attn.porting.tables import (
    TABLES,
    Table,
    attn_vgg_table,
    backbone_table,
    vgg16_bn_table,
)

__all__ = [
    "TABLES",
    "Loaded",
    "Ported",
    "Table",
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
