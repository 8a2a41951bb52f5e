"""Evaluate a trained run, or export it: ``flax-attn eval --workdir RUN``."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from flax_attn.errors import UsageError
from flax_attn.porting.export.export_flags import take_runtime
from flax_attn.porting.export.export_run import export_run
from flax_attn.runs.directory import Run
from flax_attn.runs.published_folder import results_folder
from flax_attn.runs.run_split import look_config, open_run_split
from flax_attn.system import cli
from flax_attn.system.compilation_cache import use_compilation_cache
from flax_attn.system.files import writing
from flax_attn.system.folders import require_free, require_writable
from flax_attn.system.output import mark_output
from flax_attn.system.processes import Processes, joined
from flax_attn.training.eval_flags import parse
from flax_attn.training.evaluation import REMEDY, evaluate_run
from flax_attn.training.judging_text import report_lines

_log = logging.getLogger(__name__)

LEFT_OUT = "left_out.json"


def main(argv: Sequence[str]) -> None:
    """Runs ``flax-attn eval``: evaluates a run on a split, or exports its network.

    Raises:
      FlaxAttnError: a failure that one line explains; ``cli.run`` prints it.
    """
    args = parse(argv)
    meeting = cli.take_meeting(vars(args))
    runtime = take_runtime(args)
    if runtime is not None and not args.export:
        raise UsageError("--runtime goes with --export: add it, or drop --runtime")
    if args.export and meeting is not None:
        raise UsageError("--export is the work of one process: drop --coordinator and the like")
    if args.export and args.tta:
        raise UsageError(f"--tta {args.tta} goes with judging a run, not with --export: drop one")
    use_compilation_cache(getattr(args, "compilation_cache", None))
    with joined(meeting) as processes:
        _judge(args, runtime, processes)


def _judge(args: Namespace, runtime: Path | None, processes: Processes) -> None:
    workdir = Path(args.workdir)
    out = Path(args.out) if args.out else results_folder(workdir, f"eval-{args.split}")
    given = cli.take_settings(vars(args), "eval")
    run = Run.load(workdir)
    if args.export:
        require_free(Path(args.export), flag="--export")
    elif processes.first:
        require_writable(out, remedy=REMEDY)
    config = look_config(run.config, given)
    target = Path(args.export) if args.export else out
    split, quarantine = open_run_split(
        config, args.split, classes=run.classes, workdir=workdir, given=given, out=target
    )
    if args.export:
        export_run(
            run,
            split,
            workdir=workdir,
            out=target,
            formats=args.export_formats,
            flag="--export",
            runtime=runtime,
        )
        return
    if processes.first:
        with writing(f"in {out}", remedy=REMEDY):
            mark_output(out)
        quarantine.keep_in(out / LEFT_OUT)
        if quarantine.entries:
            _log.info(f"{len(quarantine.entries)} unusable images left out: {out / LEFT_OUT}")
    result, report = evaluate_run(
        run,
        split,
        config=config,
        split_name=args.split,
        workdir=workdir,
        out=out,
        tta=args.tta,
        processes=processes,
    )
    if report is not None:
        for line in report_lines(report, result.metrics, run.classes):
            _log.info(line)
