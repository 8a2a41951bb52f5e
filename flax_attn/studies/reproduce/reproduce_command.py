"""A paper's experiments again, with verdicts: ``flax-attn reproduce``."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax

from flax_attn.config import VGGS, ModelConfig, flag_of
from flax_attn.data import Quarantine, open_dataset
from flax_attn.errors import UsageError
from flax_attn.runs.directory import require_usable
from flax_attn.studies.reproduce.experiments import reproduce
from flax_attn.studies.reproduce.papers import PAPERS
from flax_attn.studies.reproduce.reproduce_flags import parse
from flax_attn.system import cli
from flax_attn.system.compilation_cache import use_compilation_cache
from flax_attn.system.folders import require_writable
from flax_attn.training.features import require_cache
from flax_attn.training.start import resolve_initial

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    started = time.perf_counter()
    args = parse(argv)
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
