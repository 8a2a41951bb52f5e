"""Weights from and to other frameworks, and trained networks as files for other programs.

``load_torch``, ``load_keras`` and their counterparts are the front door. Porting is data: tables of
key, path and transform (``tables``), applied strictly and bit for bit in both directions
(``convert``). ``pth`` reads PyTorch's files without running anything in them, ``keras_h5`` Keras's,
``wrappers`` takes off what scripts save around weights; ``inspection`` says what a file is;
``imagenet`` finds ImageNet weights; ``export`` writes StableHLO and ONNX.

Refuses to guess: every key is mapped and every shape checked, or nothing is written.

Read ``tables`` first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flax_attn.system.lazy import lazy_names

if TYPE_CHECKING:
    from flax_attn.porting.convert import from_flax as from_flax
    from flax_attn.porting.convert import to_flax as to_flax
    from flax_attn.porting.keras_networks import load_keras as load_keras
    from flax_attn.porting.keras_networks import save_keras as save_keras
    from flax_attn.porting.ported_files import read_ported as read_ported
    from flax_attn.porting.ported_files import sha256_of as sha256_of
    from flax_attn.porting.ported_files import write_ported as write_ported
    from flax_attn.porting.state_dict import load_torch as load_torch
    from flax_attn.porting.state_dict import save_torch as save_torch
    from flax_attn.porting.tables import TABLES as TABLES

# The module of each name, which is imported when the name is first used: most need JAX.
_MODULES = {
    "TABLES": "tables",
    "from_flax": "convert",
    "load_keras": "keras_networks",
    "load_torch": "state_dict",
    "read_ported": "ported_files",
    "save_keras": "keras_networks",
    "save_torch": "state_dict",
    "sha256_of": "ported_files",
    "to_flax": "convert",
    "write_ported": "ported_files",
}

__all__ = [*_MODULES]


__getattr__, __dir__ = lazy_names(__name__, _MODULES)
