"""The pictures of a run: curves, attention, and how attention changed over its snapshots."""

from __future__ import annotations

import logging
from pathlib import Path

from flax_attn.data import Split
from flax_attn.data.dataset import evenly
from flax_attn.figures import (
    Panel,
    Shown,
    Strip,
    animate_strips,
    draw_attention,
    draw_curves,
    draw_strips,
)
from flax_attn.models.functional import Arrays, Structure
from flax_attn.models.tasks import TASKS
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.directory import ATTENTION_FILE, CURVES_FILE, Run, names_of_network
from flax_attn.runs.load import restore_best
from flax_attn.runs.run_cases import CaseInputs
from flax_attn.runs.snapshots import load_snapshot, snapshot_epochs
from flax_attn.system.console import attempt
from flax_attn.training.panels import attention_panels
from flax_attn.training.step import EvalStep, make_eval_step

_log = logging.getLogger(__name__)

FIGURE, ANIMATION = "epochs.png", "epochs.webp"
IMAGES = 4
# Snapshots side by side in the still picture, spread evenly if there are more.
COLUMNS = 4


def draw_epochs(
    run: Run,
    step: EvalStep,
    params: Arrays,
    stats: Arrays,
    split: Split,
    cases: CaseInputs,
    workdir: Path,
) -> None:
    """Draws the attention at a run's snapshots: ``epochs.png``, and all of them in ``epochs.webp``.

    Nothing is drawn without snapshots, or for a network without gates. ``params`` and ``stats``
    are those of any checkpoint of the run.

    Raises:
      CheckpointError: a snapshot is damaged.
    """
    panels: dict[int, list[Panel]] = {}
    for epoch in snapshot_epochs(workdir):
        arrays = load_snapshot(
            workdir, epoch, params, stats, freeze_backbone=run.config.train.freeze_backbone
        )
        panels[epoch] = attention_panels(step, *arrays, split, run, cases)[:IMAGES]
    if not any(panels.values()):
        return
    last = panels[max(panels)]
    # Pictures of a case may have other maps each; those of all make columns.
    names = [n for n in last[0].attention if all(n in panel.attention for panel in last)]
    if not names:
        return
    shown = [Shown(panel.image, panel.title, panel.correct) for panel in last]
    by_epoch = {
        epoch: {name: [panel.attention[name] for panel in each] for name in names}
        for epoch, each in panels.items()
    }
    photographs = Strip("photograph")
    few = [list(by_epoch)[i] for i in evenly(len(by_epoch), COLUMNS)]
    columns = [
        Strip(f"{name}\nepoch {epoch}", by_epoch[epoch][name]) for name in names for epoch in few
    ]
    title = ", ".join([*names_of_network(run.config.model), run.config.data.dataset])
    draw_strips(shown, [photographs, *columns], workdir / FIGURE, title=title, columns=True)
    frames = [
        (f"epoch {epoch}", [photographs, *(Strip(name, value) for name, value in maps.items())])
        for epoch, maps in by_epoch.items()
    ]
    animate_strips(shown, frames, workdir / ANIMATION)
    _log.info(f"attention over the epochs: {workdir / FIGURE}, {workdir / ANIMATION}")


def draw_run(
    run: Run,
    structure: Structure,
    checkpoints: Checkpoints,
    val: Split,
    cases: CaseInputs,
    workdir: Path,
) -> None:
    """Draws the curves of a run, and the attention of its best checkpoint and its snapshots.

    ``cases`` are what the network is given of the validation images beside.

    Raises:
      CheckpointError: there is no good checkpoint.
    """
    title = ", ".join([*names_of_network(run.config.model), run.config.data.dataset])
    curves, attention = workdir / CURVES_FILE, workdir / ATTENTION_FILE
    rows = checkpoints.rows
    if attempt(lambda: draw_curves({"": rows}, curves, title=title), str(curves)):
        _log.info(f"curves: {curves}")
    best = restore_best(run, workdir)
    step = make_eval_step(structure, TASKS[run.config.train.task])
    panels = attention_panels(step, best.params, best.stats, val, run, cases, best.temperature)
    if panels and attempt(lambda: draw_attention(panels, attention, title=title), str(attention)):
        _log.info(f"attention: {attention}")
    attempt(
        lambda: draw_epochs(run, step, best.params, best.stats, val, cases, workdir),
        f"the pictures of the epochs in {workdir}",
    )
    if (row := best.row) is not None:
        _log.info(
            f"best epoch {row['epoch']}: validation accuracy {row['val']['accuracy']:.4f}, "
            f"ROC AUC {row['val']['roc_auc']:.4f}"
        )
