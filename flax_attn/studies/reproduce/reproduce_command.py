"""A paper's experiments again, with verdicts: ``flax-attn reproduce``."""

from __future__ import annotations

import logging
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax

from flax_attn.config import VGGS, ModelConfig, flag_of
from flax_attn.data import Quarantine, open_dataset
from flax_attn.errors import UsageError
from flax_attn.explain.methods import METHODS
from flax_attn.runs.directory import require_usable
from flax_attn.studies.reproduce.experiments import reproduce
from flax_attn.studies.reproduce.papers import PAPERS
from flax_attn.system import cli
from flax_attn.system.compilation_cache import use_compilation_cache
from flax_attn.system.folders import require_writable
from flax_attn.training.choices import CHOICES
from flax_attn.training.features import require_cache
from flax_attn.training.start import resolve_initial

_log = logging.getLogger(__name__)

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


def main(argv: Sequence[str]) -> None:
    started = time.perf_counter()
    args = _parse(argv)
    paper = PAPERS[args.paper]
    on_cpu = jax.default_backend() == "cpu"
    full = args.full or not (args.quick or on_cpu)
    given = cli.take_settings(vars(args), "reproduce")
    values = {name: value for name, value in vars(args).items() if value is not None}
    _require_flags_of(args.paper, {*given, *values})
    if given.get("backbone", ModelConfig.backbone) not in VGGS:
        raise UsageError(
            f"--backbone {given['backbone']}: the papers' networks, and the maps that they are "
            f"compared on, are of a VGG: choose one of {', '.join(VGGS)}"
        )
    sizes = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in paper.sizes
    }
    own = {name: values[name] for name in paper.flags if name in values}
    plan = paper.make_plan(given, sizes, full=full, **own)
    config = plan.config
    use_compilation_cache(config.run.compilation_cache)
    extent = "full" if full else "quick"
    workdir = Path(args.workdir or f"runs/reproduce-{paper.prefix}{config.data.dataset}-{extent}")
    out = Path(args.out or f"{paper.prefix}report")
    require_usable(workdir)
    require_writable(out, remedy="choose another --out")
    if config.train.freeze_backbone:
        require_cache(Path(config.run.feature_cache))
    dataset = open_dataset(
        config.data,
        Quarantine(config.data.on_bad_image),
        cache=Path(config.run.feature_cache),
        images=config.run.image_folder,
        masks=True,
        task=config.train.task,
        out=[workdir, out],
    )
    reproduce(
        plan,
        dataset,
        partial(resolve_initial, config, dataset.classes),
        workdir=workdir,
        out=out,
    )
    _log.info(f"done in {(time.perf_counter() - started) / 60:.1f} min")


def _require_flags_of(name: str, given: set[str]) -> None:
    """Checks that no flag was given that only another paper's experiments take.

    Raises:
      UsageError: one was.
    """
    paper = PAPERS[name]
    for other_name, other in PAPERS.items():
        of_other = (other.settings | other.flags | other.sizes) & given
        if foreign := of_other - paper.settings - paper.flags - paper.sizes:
            flag = flag_of(min(foreign))
            raise UsageError(f"{flag} goes with --paper {other_name}, not with {name}: drop it")


def _parse(argv: Sequence[str]) -> Namespace:
    parser = cli.Parser(prog="flax-attn reproduce", description=__doc__)
    cli.add_common(parser)
    texts = "; ".join(f"{name}: {paper.text}" for name, paper in PAPERS.items())
    parser.add_argument(
        "--paper", choices=list(PAPERS), default="article", help=f"{texts} (default: article)"
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
        kind: dict[str, Any] = {"choices": list(METHODS)} if name == "methods" else {"type": int}
        group.add_argument(flag_of(name), help=f"{text} ({_default_text(name)})", **several, **kind)
    cli.add_settings(parser, CHOICES, "reproduce")
    return parser.parse_args(argv)


def _default_text(name: str) -> str:
    """Returns a size's defaults, and the paper that it goes with, where they differ by paper."""
    found = {
        paper_name: tuple(_shown(asdict(sizes)[name]) for sizes in (paper.quick, paper.full))
        for paper_name, paper in PAPERS.items()
        if name in paper.sizes
    }
    if len(found) == len(PAPERS) and len(set(found.values())) == 1:
        return "; ".join(next(iter(found.values())))
    return ", ".join(
        f"{paper_name}: {quick}; {full}" for paper_name, (quick, full) in found.items()
    )


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
