"""Train and judge a network for every fold of a data set."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax_attn.config import Config, make_config
from flax_attn.data import Dataset
from flax_attn.data.dataset import settle_task
from flax_attn.data.fold_split import kept_photographs
from flax_attn.models.tasks import TASKS
from flax_attn.runs.conditions import CONDITIONS_FILE, deciding_numbers, remember
from flax_attn.runs.directory import default_workdir, locked, require_usable
from flax_attn.studies.cross_validate import fold_table
from flax_attn.studies.cross_validate.cross_validate_flags import parse
from flax_attn.studies.cross_validate.fold_figure import draw_folds
from flax_attn.studies.cross_validate.fold_run import run_fold
from flax_attn.studies.rows import ROWS_FILE, Row, load_rows, write_csv, write_rows
from flax_attn.system.compilation_cache import use_compilation_cache
from flax_attn.system.files import write_text, writing
from flax_attn.training.start import Initial, resolve_initial
from flax_attn.training.train_command import open_to_train

_log = logging.getLogger(__name__)

FOLDS = 5
REMEDY = "choose another --workdir"


def main(argv: Sequence[str]) -> None:
    """Runs ``flax-attn cross-validate``: trains every fold, or goes on where it was stopped.

    Raises:
      FlaxAttnError: a failure that one line explains; ``cli.run`` prints it.
    """
    values = vars(parse(argv))
    values.pop("debug")
    preset = values.pop("preset")
    config = make_config({"folds": FOLDS, **values, "fold": 1}, preset=preset)
    use_compilation_cache(config.run.compilation_cache)
    workdir = Path(config.run.workdir) if config.run.workdir else _default(config)
    require_usable(workdir)
    first = open_to_train(config, workdir / "fold-1")
    task = settle_task(first, config.train.task, config.data.dataset)
    config = config.updated(task=task)
    initial = resolve_initial(config, first.classes)
    with locked(workdir):
        cross_validate(config, first, initial, workdir=workdir)


def cross_validate(config: Config, first: Dataset, initial: Initial, *, workdir: Path) -> None:
    """Trains what is missing of the folds and writes their rows, table and picture.

    Each row is on the disk as soon as its fold has been judged; a fold that was stopped resumes.

    Args:
      config: settings of the first fold.
      first: its images.
      initial: what every fold starts from.
      workdir: the folder of all folds.

    Raises:
      CheckpointError: ``workdir`` holds folds under other conditions, or damaged ones.
      DiskFullError: no space is left; the rows of earlier folds stay.
      UsageError: nothing can be written into ``workdir``.
    """
    folds = config.data.folds or FOLDS
    remember(workdir / CONDITIONS_FILE, _conditions(config, first, initial), remedy=REMEDY)
    file = workdir / ROWS_FILE
    rows = load_rows(file, known_by=("fold",), remedy=REMEDY)
    done = {row["fold"] for row in rows}
    for fold in range(1, folds + 1):
        if fold in done:
            continue
        started, folder = time.perf_counter(), workdir / f"fold-{fold}"
        own = config.updated(fold=fold, workdir=str(folder))
        dataset = first if fold == 1 else open_to_train(own, folder)
        row = run_fold(own, dataset, initial, workdir=folder)
        rows.append(row)
        with writing(file, remedy="and repeat the command, which goes on from here"):
            write_rows(file, rows)
        _log.info(
            f"fold {fold} of {folds}: {row['images']} images, ROC AUC {row['roc_auc']:.4f}, "
            f"accuracy {row['accuracy']:.4f}, {time.perf_counter() - started:.0f} s"
        )
    with writing(f"the tables in {workdir}"):
        _report(rows, config, first.classes, workdir)


def _default(config: Config) -> Path:
    """Returns ``runs/<data set>-<model>-<norm>-folds-<K>``."""
    whole = default_workdir(config.updated(fold=None, folds=None))
    return whole.with_name(f"{whole.name}-folds-{config.data.folds}")


def _conditions(config: Config, first: Dataset, initial: Initial) -> dict[str, Any]:
    """What all folds have in common; epochs and patience, too: a row is never trained further."""
    images, _ = kept_photographs(first.splits["train"])
    numbers = {k: v for k, v in deciding_numbers(config).items() if k != "fold"}
    return {
        **numbers,
        "epochs": config.train.epochs,
        "patience": config.train.patience,
        "images": images.fingerprint[:16],
        # Its digest says what is in a file of weights, whatever its name.
        **{name: value for name, value in initial.provenance.items() if name != "file"},
    }


def _report(rows: Sequence[Row], config: Config, classes: Sequence[str], workdir: Path) -> None:
    task = TASKS[config.train.task]
    rows = sorted(rows, key=lambda row: row["fold"])
    summary = fold_table.summarize_folds(rows, task, classes)
    text = fold_table.markdown(rows, summary)
    write_text(workdir / "table.md", text)
    write_csv(fold_table.table_rows(rows, summary), workdir / "table.csv")
    fold_table.write_fold_predictions(rows, workdir / "predictions.csv", task, classes)
    title = f"{config.data.dataset}, {len(rows)} folds, {summary.images} images"
    draw_folds(rows, summary, workdir / "folds.png", title=title)
    _log.info(text + f"wrote table.md, table.csv, predictions.csv and folds.png to {workdir}")
    _log.info(fold_table.verdict(rows, summary))
