"""Compare scores, alignments and relations under one budget: ``flax-attn ablate``."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flax_attn.config import Config, dataset_entry, make_config
from flax_attn.data import Dataset, open_dataset
from flax_attn.data.dataset import settle_task
from flax_attn.data.metadata import MetaScale
from flax_attn.data.views import random_subset
from flax_attn.errors import UsageError
from flax_attn.models import build_model, functional
from flax_attn.runs.conditions import CONDITIONS_FILE, deciding_numbers, remember
from flax_attn.runs.directory import locked, require_usable
from flax_attn.studies.ablate import table
from flax_attn.studies.ablate.ablate_flags import parse
from flax_attn.studies.ablate.axes import Combination, combination_of, take_grid
from flax_attn.studies.ablate.grid import Bench, Row, check_grid, object_masks, run_combination
from flax_attn.studies.ablate.grid_figure import draw_grid
from flax_attn.studies.rows import ROWS_FILE, write_csv, write_rows
from flax_attn.system import cli
from flax_attn.system.compilation_cache import use_compilation_cache
from flax_attn.system.files import write_text, writing
from flax_attn.training.case_inputs import inputs_of, settle_cases
from flax_attn.training.class_weights import resolve_class_weights
from flax_attn.training.feature_storage import with_feature_storage
from flax_attn.training.features import require_cache
from flax_attn.training.sources import example_sources
from flax_attn.training.start import Initial, resolve_initial

_log = logging.getLogger(__name__)

# The measure that ranks the combinations of each task.
BY = {"multiclass": "roc_auc", "multilabel": "average_precision"}
REMEDY = "choose another --out"
# How features are kept and read: what a grid has found out once holds for all of its rows.
KEPT = ("kept_dtype", "kept_order")


def main(argv: Sequence[str]) -> None:
    args = parse(argv)
    config = make_config(cli.take_settings(vars(args), "ablate"))
    use_compilation_cache(config.run.compilation_cache)
    if not config.train.freeze_backbone:
        raise UsageError("the grid trains on frozen features: drop --no-freeze-backbone")
    grid = take_grid(vars(args))
    check_grid(grid, config, cases_known=not dataset_entry(config.data.dataset).may_have_cases)
    if len(set(args.seeds)) < len(args.seeds) or min(args.seeds) < 0:
        raise UsageError(f"--seeds takes different numbers from 0 on, got {args.seeds}")
    out = Path(args.out or f"runs/ablation-{config.data.dataset}")
    require_usable(out, flag="--out")
    require_cache(Path(config.run.feature_cache))
    dataset = open_dataset(
        config.data,
        cache=Path(config.run.feature_cache),
        images=config.run.image_folder,
        masks=True,
        task=config.train.task,
        out=[out],
    )
    config = config.updated(task=settle_task(dataset, config.train.task, config.data.dataset))
    if args.train_subset is not None:
        part = random_subset(dataset.splits["train"], args.train_subset, seed=0)
        dataset = replace(dataset, splits={**dataset.splits, "train": part})
    config, metadata = settle_cases(config, dataset.splits["train"])
    check_grid(grid, config, cases_known=True)
    # To be told of an unknown class before weights are fetched.
    labels = np.asarray(dataset.splits["train"].labels)
    resolve_class_weights(config.train.class_weights, labels, dataset.classes)
    initial = resolve_initial(config, dataset.classes)
    with locked(out, flag="--out"):
        earlier = _begun(out / CONDITIONS_FILE, config)
        config = with_feature_storage(config, dataset, earlier=earlier)
        run_grid(config, dataset, metadata, initial, grid, args.seeds, out=out)


def run_grid(
    config: Config,
    dataset: Dataset,
    metadata: MetaScale | None,
    initial: Initial,
    grid: Sequence[Combination],
    seeds: Sequence[int],
    *,
    out: Path,
) -> None:
    """Trains what is missing of the grid and writes its rows, table and picture into ``out``.

    Each row is on the disk, with all before it, as soon as its training has ended.

    Raises:
      CheckpointError: ``out`` holds a grid under other conditions, or a damaged one.
      DiskFullError: no space is left; the rows of earlier trainings stay.
      UsageError: nothing can be written into ``out``.
    """
    remember(out / CONDITIONS_FILE, _conditions(config, dataset, initial), remedy=REMEDY)
    bench = _bench(config, dataset, metadata, initial)
    file = out / ROWS_FILE
    rows = table.read_rows(file)
    done = {(*combination_of(row), row["seed"]) for row in rows}
    for number, combination in enumerate(grid, start=1):
        left = [seed for seed in seeds if (*combination, seed) not in done]
        if not left:
            continue
        started = time.perf_counter()
        for row in run_combination(bench, combination, left):
            rows.append(row)
            with writing(file, remedy="and repeat the command, which goes on from here"):
                write_rows(file, rows)
        mean = sum(row["accuracy"] for row in rows[-len(left) :]) / len(left)
        _log.info(
            f"{number}/{len(grid)} {table.title(combination, grid)}: "
            f"accuracy {mean:.4f}, {time.perf_counter() - started:.0f} s"
        )
    with writing(f"the tables in {out}"):
        _report(rows, config, out)


def _begun(file: Path, config: Config) -> Config | None:
    """Returns the settings with how a grid that was begun keeps features; None if none was."""
    try:
        before = json.loads(file.read_bytes())
        return config.updated(**{name: before[name] for name in KEPT})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # ``remember`` says what is wrong with a file


def _conditions(config: Config, dataset: Dataset, initial: Initial) -> dict[str, Any]:
    """What all rows of a grid have in common; epochs, too, as a row is never trained further."""
    return {
        **deciding_numbers(config),
        "epochs": config.train.epochs,
        **{name: getattr(config.train, name) for name in KEPT},
        "images": {name: split.fingerprint[:16] for name, split in dataset.splits.items()},
        # Its digest says what is in a file of weights, whatever its name.
        **{name: value for name, value in initial.provenance.items() if name != "file"},
    }


def _bench(config: Config, dataset: Dataset, metadata: MetaScale | None, initial: Initial) -> Bench:
    cases = inputs_of(dataset, config, metadata)
    # Of this network only the backbone is used: options of an alignment are for its gates.
    model = replace(config.model, temperature=None, window=None, estimator=None)
    structure, params, stats = functional.split(
        build_model(model, num_classes=len(dataset.classes))
    )
    params, stats = initial.fill(params, stats)
    train, val = example_sources(config, structure, params, stats, dataset, cases=cases)
    objects = object_masks(dataset.splits["val"])
    return Bench(config, dataset.classes, train, val, objects, cases[1].present)


def _report(rows: Sequence[Row], config: Config, out: Path) -> None:
    by = BY[config.train.task]
    summaries = table.summarize(rows)
    text = table.markdown(summaries, by=by)
    write_csv(rows, out / "table.csv")
    write_text(out / "table.md", text)
    measures = ["accuracy", by, "area90"]
    if any(s.values["energy"] is not None for s in summaries):
        measures.append("energy")
    title = f"{config.data.dataset}, {config.train.epochs} epochs, mean over the seeds"
    draw_grid(summaries, out / "grid.png", measures=measures, title=title)
    _log.info(text + table.verdict(summaries, by=by))
    _log.info(f"wrote table.csv, table.md and grid.png to {out}")
