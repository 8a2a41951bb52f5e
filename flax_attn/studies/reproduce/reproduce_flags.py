"""The flags of ``flax-attn reproduce``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from flax_attn.config import flag_of
from flax_attn.config.names import METHOD_NAMES
from flax_attn.studies.reproduce.paper_sizes import OFFERS
from flax_attn.system import cli
from flax_attn.training.choices import CHOICES

_TEXT = "A paper's experiments again, with verdicts: ``flax-attn reproduce``."

# The flags of the sizes, with their help.
_SIZES = {
    "seeds": "seeds of the sigmoid network; the first is that of all others (parent: of all)",
    "map_images": "validation images whose maps are measured",
    "methods": "maps of the sanity check beside attention",
    "sanity_images": "images of the sanity check",
    "sanity_draws": "randomised networks of the sanity check (of methods: at most 3)",
    "timing_size": "side of the images of timed steps",
    "timing_batch": "images of a timed training step",
    "timing_rounds": "timed training steps of each network",
    "curve_images": "images of the deletion and insertion curves",
    "curve_steps": "steps of each curve",
}
# Other flags that only some papers have.
_FLAGS = {
    "positive": "parent: the class that is told from all others (default: melanoma, or the second "
    "of two)"
}


def parse(argv: Sequence[str]) -> Namespace:
    """Returns what is typed after ``flax-attn reproduce``.

    Raises:
      UsageError: a wrong flag, or a value that it does not take.
    """
    parser = cli.Parser(prog="flax-attn reproduce", description=_TEXT)
    cli.add_common(parser)
    texts = "; ".join(f"{name}: {paper.text}" for name, paper in OFFERS.items())
    parser.add_argument(
        "--paper", choices=list(OFFERS), default="article", help=f"{texts} (default: article)"
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick", action="store_true", help="minutes on a laptop (default without a GPU or TPU)"
    )
    extent.add_argument(
        "--full", action="store_true", help="the paper's setting, every layer trained"
    )
    parser.add_argument(
        "--out", help="folder of the report (default: report; of the parent paper parent-report)"
    )
    parser.add_argument(
        "--workdir", help="folder of the work behind it (default: runs/reproduce-<data set>-…)"
    )
    for name, text in _FLAGS.items():
        parser.add_argument(flag_of(name), help=text)
    group = parser.add_argument_group("sizes (defaults: --quick, --full)")
    for name, text in _SIZES.items():
        several: dict[str, Any] = {"nargs": "+"} if name in ("seeds", "methods") else {}
        kind: dict[str, Any] = {"choices": METHOD_NAMES} if name == "methods" else {"type": int}
        group.add_argument(flag_of(name), help=f"{text} ({_default_text(name)})", **several, **kind)
    cli.add_settings(parser, CHOICES, "reproduce")
    return parser.parse_args(argv)


def _default_text(name: str) -> str:
    """Returns a size's defaults, and the paper that it goes with, where they differ by paper."""
    found = {
        paper_name: tuple(_shown(asdict(sizes)[name]) for sizes in (paper.quick, paper.full))
        for paper_name, paper in OFFERS.items()
        if name in paper.sizes
    }
    if len(found) == len(OFFERS) and len(set(found.values())) == 1:
        return "; ".join(next(iter(found.values())))
    return ", ".join(
        f"{paper_name}: {quick}; {full}" for paper_name, (quick, full) in found.items()
    )


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
