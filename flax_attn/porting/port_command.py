"""``flax-attn port`` turns weights of PyTorch networks into files of ours, and back."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_attn.config import BACKBONES, VGG_FAMILY, ModelConfig, make_config
from flax_attn.errors import DataError, UsageError, WeightsError
from flax_attn.models import build_model
from flax_attn.models.functional import BACKBONE, abstract
from flax_attn.porting import imagenet, lpips_jax, resnets
from flax_attn.porting.convert import ArraySpec, is_variance, printable, sizes, to_flax, to_torch
from flax_attn.porting.lpips_jax import rescale_stages
from flax_attn.porting.ported_files import read_ported, sha256_of, write_ported
from flax_attn.porting.state_dict import SUFFIXES, choose_table, open_state_dict, write_any
from flax_attn.porting.tables import TABLES, KeyTable
from flax_attn.system.cli import Parser, add_common, add_settings
from flax_attn.system.files import reading, writing
from flax_attn.system.folders import require_writable

_log = logging.getLogger(__name__)

LPIPS_JAX = "lpips-jax"
REMEDY = "name another file with --out"
TORCHVISION = "torchvision"


class Result(NamedTuple):
    """Arrays ready to be written, and what is known of their origin."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Raises:
      FlaxAttnError: with the line to print.
    """
    args = _parser().parse_args(argv)
    _check_paths(args)
    if args.to == "torch":
        _export(args)
        return
    result = _port_lpips_jax(args) if args.source == LPIPS_JAX else _port_torch(args)
    write_ported(args.out, result.arrays, result.metadata)
    _log.info(f"read {result.metadata['source']}, SHA-256 {result.metadata['source_sha256']}")
    _print_written(args.out, result.arrays, result.metadata["layout"])


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="flax-attn port", description=__doc__)
    parser.add_argument(
        "--source",
        required=True,
        help="torchvision (its vgg16_bn), torchvision:NAME of its ResNets, lpips-jax, or a file of "
        "PyTorch's or safetensors, whatever its ending",
    )
    parser.add_argument("--out", required=True, type=Path, help="file to write")
    parser.add_argument(
        "--to", choices=("flax", "torch"), default="flax", help="direction (default: flax)"
    )
    parser.add_argument(
        "--layout", choices=("auto", *TABLES), default="auto", help="(default: from the keys)"
    )
    parser.add_argument(
        "--entry",
        metavar="NAME",
        help="where a checkpoint holds the weights, such as ema (default: the first network)",
    )
    parser.add_argument(
        "--cast", action="store_true", help="convert float16, bfloat16 and float64 to float32"
    )
    parser.add_argument(
        "--calibrate-on",
        type=Path,
        metavar="DIR",
        help="images that set the statistics of lpips-jax (default: drawn cats and dogs)",
    )
    add_settings(parser, {"backbone": tuple(BACKBONES)}, "port")
    add_common(parser)
    return parser


def _check_paths(args: argparse.Namespace) -> None:
    suffixes = SUFFIXES if args.to == "torch" else (".safetensors",)
    if args.out.suffix not in suffixes:
        raise UsageError(f"--out must end in {' or '.join(suffixes)}, got {args.out}")
    with writing(f"--out {args.out}", remedy=REMEDY):
        if not args.out.parent.is_dir() or args.out.is_dir():
            raise UsageError(f"--out {args.out}: not a file in a folder that exists")
        there = args.out.exists()
    with reading(args.source, WeightsError):
        if there and Path(args.source).exists() and args.out.samefile(args.source):
            raise UsageError(f"--out {args.out} is the source: choose another name")
    named = args.source in (LPIPS_JAX, TORCHVISION) or _published(args.source) is not None
    if args.entry is not None and (args.to == "torch" or named):
        raise UsageError("--entry goes with --source FILE and --to flax only")
    require_writable(args.out.parent, remedy=REMEDY)
    if args.calibrate_on is not None and args.source != LPIPS_JAX:
        raise UsageError(f"--calibrate-on goes with --source {LPIPS_JAX} only")
    # What has an ending was meant to be a file.
    known = named or Path(args.source).suffix
    if args.to == "flax" and not known and not Path(args.source).exists():
        raise UsageError(
            f"--source {args.source}: expected {TORCHVISION}, {LPIPS_JAX}, or a file, and there is "
            "no file of this name"
        )
    if args.to == "torch" and named:
        raise UsageError(f"--to torch takes a ported .safetensors file, got {args.source}")


def _published(source: str) -> resnets.ResNetFile | None:
    """Returns the ResNet of torchvision's that a source names; None if it is something else.

    Raises:
      UsageError: it names one that is not known.
    """
    kind, colon, name = source.partition(":")
    if kind != TORCHVISION or not colon or Path(source).exists():
        return None
    if name not in resnets.PUBLISHED:
        raise UsageError(
            f"--source {source}: known are {TORCHVISION} (vgg16_bn) and "
            + ", ".join(f"{TORCHVISION}:{known}" for known in resnets.PUBLISHED)
        )
    return resnets.PUBLISHED[name]


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
        "widths": lpips_jax.WIDTHS,
        "depths": lpips_jax.DEPTHS,
    }


def _port_torch(args: argparse.Namespace) -> Result:
    model = _model_config(args)
    published = _published(args.source)
    if args.source == TORCHVISION:
        path, name = imagenet.fetch_torchvision(), imagenet.NAME
    elif published is not None:
        path = imagenet.fetch_torchvision(published.url, published.digest)
        name = published.source
    else:
        path = Path(args.source)
        name = printable(path.name)
    with reading(path, WeightsError), open_state_dict(path, entry=args.entry) as tensors:
        if resnets.is_resnet(tensors) or model.row.family is not VGG_FAMILY:
            model = resnets.resnet_config(_given(args), tensors, str(path))
            sizes_told = (model.depths, model.row.expansion)
            table = resnets.choose_resnet_table(args.layout, *sizes_told, tensors, str(path))
        else:
            table = choose_table(args.layout, model.depths, tensors, str(path))
        template = _template(table, model, tensors)
        arrays = to_flax(table, tensors, template, cast=args.cast, source=str(path))
        sha256 = sha256_of(path)
    metadata = {"source": name, "source_sha256": sha256, "layout": table.layout}
    origin = {"batch_norm": "trained", "widths": model.widths, "depths": model.depths}
    return Result(arrays, {**metadata, **origin})


def _export(args: argparse.Namespace) -> None:
    arrays, metadata = read_ported(args.source)
    layout = metadata["layout"]
    if args.layout not in ("auto", layout):
        raise UsageError(f"{args.source} has the layout {layout}, got --layout {args.layout}")
    table = resnets.table_of_arrays(arrays, metadata["depths"])
    if table is None and layout not in TABLES:
        raise WeightsError(f"{args.source}: unknown layout {layout!r}, known: {', '.join(TABLES)}")
    tensors = to_torch(table or TABLES[layout](metadata["depths"]), arrays)
    write_any(args.out, tensors)
    _log.info(f"read {args.source}, SHA-256 {sha256_of(args.source)}")
    _print_written(args.out, arrays, layout)


def _template(
    table: KeyTable, model: ModelConfig, tensors: Mapping[str, ArraySpec]
) -> dict[str, ArraySpec]:
    """Returns the shapes of our network; sizes of the head that are free are the tensors'."""

    def rows(path: str, default: int) -> int:
        key = table.key_of(path)
        shape = tensors[key].shape if key is not None and key in tensors else ()
        # An empty tensor may claim any size.
        return shape[0] if shape and 0 not in shape else default

    attn_vgg = table.layout == "attn_vgg"
    dense = not attn_vgg and model.row.family is VGG_FAMILY
    config = ModelConfig(
        model="attn_vgg" if attn_vgg else "vgg" if dense else "vgg_gap",
        backbone=model.backbone,
        widths=model.widths,
        depths=model.depths,
        attn_features=rows("gates/pool3/project_local/kernel", model.attn_features),
        hidden=rows("dense/0/kernel", model.hidden),
    )
    num_classes = rows("dense/2/kernel" if dense else "classifier/kernel", 1000)
    _, params, stats = abstract(lambda: build_model(config, num_classes=num_classes))
    leaves: dict[str, ArraySpec] = {**params, **stats}
    if table.layout == "backbone":
        return {path: leaf for path, leaf in leaves.items() if path.startswith(BACKBONE)}
    return leaves


def _model_config(args: argparse.Namespace) -> ModelConfig:
    return make_config(_given(args)).model


def _given(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("backbone", "widths", "depths") if name in args}


def _print_written(path: Path, arrays: Mapping[str, np.ndarray], layout: str) -> None:
    statistics = {p: a for p, a in arrays.items() if is_variance(p) or p.endswith("/norm/mean")}
    count, elements = sizes(arrays)
    _, running = sizes(statistics)
    _log.info(
        f"wrote {path}, SHA-256 {sha256_of(path)}\n"
        f"{layout}: {count} arrays, {elements - running:,} parameters, "
        f"{running:,} running statistics"
    )
