"""Show what a trained run looks at: ``flax-attn explain --workdir RUN --images PATH``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flax_attn.attention import ALIGNMENTS
from flax_attn.config import ModelConfig
from flax_attn.data.dataset import evenly, form_of
from flax_attn.data.listing import same_form
from flax_attn.errors import UsageError
from flax_attn.explain.explain_flags import COUNT, parse
from flax_attn.explain.explain_run import REMEDY, explain
from flax_attn.explain.explainer import Explainer, Request
from flax_attn.explain.photographs import (
    Photographs,
    from_paths,
    from_split,
    with_unknown,
)
from flax_attn.explain.trained_run import TrainedRun, load
from flax_attn.runs.published_folder import results_folder
from flax_attn.runs.run_cases import case_inputs
from flax_attn.runs.run_split import look_config, open_run_split, split_text
from flax_attn.system import cli
from flax_attn.system.compilation_cache import use_compilation_cache
from flax_attn.system.folders import require_writable


def main(argv: Sequence[str]) -> None:
    args = parse(argv)
    use_compilation_cache(getattr(args, "compilation_cache", None))
    workdir = Path(args.workdir)
    name = "explain-" + args.split if args.split else "explain"
    out = Path(args.out) if args.out else results_folder(workdir, name)
    run = load(workdir)
    if args.images:
        _require_single_pictures(run)
    require_writable(out, remedy=REMEDY)
    stages = stages_of(args.stages, run.config.model)
    request = Request(args.methods, stages, _numbers(args.classes, run.classes))
    explainer = Explainer(run.network, run.config, run.classes, temperature=run.temperature)
    photographs, chosen = _photographs(args, run, explainer, out)
    model = run.config.model
    explain(
        explainer,
        photographs,
        request,
        classes=run.classes,
        title=workdir.resolve().name,
        summary=f"{model.model}, {model.norm}, epoch {run.epoch} · {chosen}",
        scale=args.scale or ("rank" if ALIGNMENTS[model.norm]().sums_to_one else "linear"),
        batch_size=args.batch_size,
        faithfulness=args.faithfulness,
        out=out,
    )


def _photographs(
    args: Namespace, run: TrainedRun, explainer: Explainer, out: Path
) -> tuple[Photographs, str]:
    """What to explain, and how it was chosen."""
    given = cli.take_settings(vars(args), "explain")
    config = look_config(run.config, given, of_photographs=bool(args.images))
    data = config.data
    if args.images:
        found = from_paths([Path(path) for path in args.images], data, out=out)
        if run.metadata is not None:
            found = with_unknown(found, run.metadata)
        return found, f"{len(found.names)} photographs"
    split, _ = open_run_split(
        config,
        args.split,
        classes=run.classes,
        workdir=Path(args.workdir),
        given=given,
        masks=True,
        out=out,
        labelled="label_column" in given,  # who names their column wants them
    )
    if args.worst and not form_of(split).labelled:
        raise UsageError(
            f"--worst needs labels, and {split_text(config, args.split)} has none: drop it, or "
            "fill in a column of labels"
        )
    cases = case_inputs(split, config, run.metadata, where=split_text(config, args.split))
    n, count = len(split.labels), args.count or COUNT
    places, how = evenly(n, count), "evenly spread"
    if args.worst:
        losses = explainer.losses(
            split, batch_size=args.batch_size, workers=data.workers, cases=cases
        )
        known = np.flatnonzero(np.isfinite(losses))  # the others are images that were lost
        order = known[np.argsort(-losses[known], kind="stable")]
        places, how = order[:count].tolist(), "of highest loss"
    found = from_split(split, places, workers=data.workers, cases=cases)
    which = how if len(places) < n else "all"
    what = "cases" if config.model.view_names else "images"
    return found, f"{len(places)} of the {n} {what} of {args.split}, {which}"


def _require_single_pictures(run: TrainedRun) -> None:
    """Raises UsageError for a run of cases of several pictures, which files do not make up."""
    if views := run.config.model.view_names:
        raise UsageError(
            f"--images takes photographs by themselves, and a case of this run has the pictures "
            f"{', '.join(map(repr, views))}: name them in a table, and give --dataset "
            "labelled_csv --data-dir FOLDER --split all"
        )


def stages_of(names: Sequence[str] | None, model: ModelConfig) -> Sequence[str]:
    """Returns the activations to explain: those named, or those of the run's backbone."""
    family = model.row.family
    if names is None:
        return family.explained
    if unknown := [name for name in names if name not in family.activations]:
        raise UsageError(
            f"--stages: no {', '.join(unknown)} in {model.backbone}, the run's backbone; it has "
            f"{', '.join(family.activations)}"
        )
    return names


def _numbers(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    # As typed, a name may have another Unicode form than the run's.
    forms = [same_form(name) for name in classes]
    unknown = [name for name in names if same_form(name) not in forms]
    if unknown:
        raise UsageError(
            f"--classes: no class {', '.join(unknown)}; the run has {', '.join(classes)}"
        )
    return [forms.index(name) for name in dict.fromkeys(map(same_form, names))]
