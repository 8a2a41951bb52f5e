"""The article's experiments again, with verdicts: ``flax-attn reproduce``."""

from __future__ import annotations

import logging
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import jax

from flax_attn.config import flag_of
from flax_attn.data import Quarantine, open_dataset
from flax_attn.explain.methods import METHODS
from flax_attn.runs.directory import require_usable
from flax_attn.studies.reproduce.experiment_plan import FULL, QUICK, Sizes, make_plan
from flax_attn.studies.reproduce.experiments import reproduce
from flax_attn.system import cli
from flax_attn.system.compilation_cache import use_compilation_cache
from flax_attn.system.folders import require_writable
from flax_attn.training.choices import CHOICES
from flax_attn.training.features import require_cache
from flax_attn.training.start import resolve_initial

_log = logging.getLogger(__name__)

# The flags of the sizes, with their help.
_SIZES = {
    "seeds": "seeds of the sigmoid network; the first is that of all others",
    "map_images": "validation images whose maps are measured",
    "methods": "maps of the sanity check beside attention",
    "sanity_images": "images of the sanity check",
    "sanity_draws": "randomised networks of the sanity check (of methods: at most 3)",
    "timing_size": "side of the images of timed steps",
    "timing_batch": "images of a timed training step",
    "timing_rounds": "timed training steps of each network",
}


def main(argv: Sequence[str]) -> None:
    started = time.perf_counter()
    args = _parse(argv)
    on_cpu = jax.default_backend() == "cpu"
    full = args.full or not (args.quick or on_cpu)
    given = cli.take_settings(vars(args), "reproduce")
    sizes = {
        f.name: tuple(value) if isinstance(value, list) else value
        for f in fields(Sizes)
        if (value := getattr(args, f.name)) is not None
    }
    plan = make_plan(given, sizes, full=full)
    config = plan.config
    use_compilation_cache(config.run.compilation_cache)
    extent = "full" if full else "quick"
    workdir = Path(args.workdir or f"runs/reproduce-{config.data.dataset}-{extent}")
    out = Path(args.out)
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
        partial(resolve_initial, config.run, dataset.classes),
        workdir=workdir,
        out=out,
    )
    _log.info(f"done in {(time.perf_counter() - started) / 60:.1f} min")


def _parse(argv: Sequence[str]) -> Namespace:
    parser = cli.Parser(prog="flax-attn reproduce", description=__doc__)
    cli.add_common(parser)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick", action="store_true", help="minutes on a laptop (default without a GPU or TPU)"
    )
    extent.add_argument(
        "--full", action="store_true", help="the article's setting, every layer trained"
    )
    parser.add_argument("--out", default="report", help="folder of the report (default: report)")
    parser.add_argument(
        "--workdir", help="folder of the work behind it (default: runs/reproduce-<data set>-…)"
    )
    group = parser.add_argument_group("sizes (defaults: --quick, --full)")
    for name, text in _SIZES.items():
        quick, full = (_shown(getattr(sizes, name)) for sizes in (QUICK, FULL))
        several: dict[str, Any] = {"nargs": "+"} if isinstance(getattr(QUICK, name), tuple) else {}
        kind: dict[str, Any] = {"choices": list(METHODS)} if name == "methods" else {"type": int}
        group.add_argument(flag_of(name), help=f"{text} ({quick}; {full})", **several, **kind)
    cli.add_settings(parser, CHOICES, "reproduce")
    return parser.parse_args(argv)


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
