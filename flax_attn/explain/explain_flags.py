"""The flags of ``flax-attn explain``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from flax_attn.config import FAMILIES, each_family
from flax_attn.config.names import METHOD_NAMES, SCALE_NAMES
from flax_attn.errors import UsageError
from flax_attn.system import cli
from flax_attn.training.choices import CHOICES

# Images of a split, unless --count says otherwise.
COUNT = 24

_TEXT = "Show what a trained run looks at: ``flax-attn explain --workdir RUN --images PATH``."


def parse(argv: Sequence[str]) -> Namespace:
    """Returns what is typed after ``flax-attn explain``.

    Raises:
      UsageError: a wrong flag, or a value that it does not take.
    """
    parser = cli.Parser(prog="flax-attn explain", description=_TEXT)
    cli.add_common(parser)
    parser.add_argument("--workdir", required=True, help="run directory of flax-attn train")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--images", nargs="+", help="photographs, or folders of photographs")
    which.add_argument(
        "--split", choices=("train", "val", "test", "all"), help="images of the data set"
    )
    parser.add_argument("--count", type=int, help=f"images of the split (default: {COUNT})")
    parser.add_argument(
        "--worst", action="store_true", help="the split's highest losses, not an even spread"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=METHOD_NAMES, default=["grad_cam"], help="maps to add"
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=tuple(name for family in FAMILIES.values() for name in family.activations),
        help=f"where (default: {each_family('explained')})",
    )
    parser.add_argument(
        "--classes", nargs="+", default=(), help="explain these, not the likeliest of each image"
    )
    parser.add_argument(
        "--scale",
        choices=SCALE_NAMES,
        help="colours of the pictures (default: rank where weights sum to one, else linear)",
    )
    parser.add_argument(
        "--faithfulness",
        action="store_true",
        help="measure whether the network uses what each map points at; takes minutes",
    )
    parser.add_argument("--batch-size", type=int, default=8, help="images computed at a time")
    parser.add_argument("--out", help="folder of the results (default: WORKDIR/explain[-<split>])")
    cli.add_settings(parser, CHOICES, "explain")
    args = parser.parse_args(argv)
    for flag, value in (("--count", args.count), ("--batch-size", args.batch_size)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} must be at least 1, got {value}")
    if args.images and (args.count is not None or args.worst or hasattr(args, "mask_dir")):
        raise UsageError(
            "--count, --worst and --mask-dir belong to a data set: give --split, not --images"
        )
    return args
