"""Checkpoints of a run: the newest and the best, written through Orbax.

A checkpoint holds three items: ``model`` (parameters and running statistics), ``training``
(step and optimizer state) and ``meta`` (epoch, metrics, classes). Evaluation reads the first
and the last alone.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from flax_attn.errors import CheckpointError, DiskFullError
from flax_attn.functional import Arrays
from flax_attn.step import TrainState

FOLDER = "checkpoints"
BEST_METRIC = "roc_auc"


def _rank(metrics: Mapping[str, float]) -> float:
    value = metrics[BEST_METRIC]
    return float("-inf") if np.isnan(value) else value


class Checkpoints:
    """The checkpoints below a run directory; use as a context manager, so it is closed.

    Saves are synchronous: when ``save`` returns, the checkpoint is on disk. Read-only access
    never creates, changes or deletes a file.
    """

    def __init__(self, workdir: Path, *, read_only: bool = False):
        self._folder = workdir.absolute() / FOLDER
        if read_only and not self._folder.is_dir():
            raise CheckpointError(
                f"no checkpoints in {workdir}: train there first, or check --workdir"
            )
        keep = [
            policies.LatestN(n=1),
            policies.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False),
        ]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else policies.AnyPreservationPolicy(keep),
            best_fn=_rank,
            enable_async_checkpointing=False,
            read_only=read_only,
            create=not read_only,
        )
        handlers: dict[str, Any] = {
            "model": ocp.StandardCheckpointHandler(),
            "training": ocp.StandardCheckpointHandler(),
            "meta": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The newest checkpoint's epoch, None before the first."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The epoch with the highest validation ROC AUC, None before the first."""
        return self._manager.best_step()

    def save(
        self,
        epoch: int,
        state: TrainState,
        *,
        metrics: Mapping[str, float],
        classes: tuple[str, ...],
    ) -> None:
        """Writes the state after ``epoch`` (counted from 1).

        Raises DiskFullError when there is no space; earlier checkpoints stay.
        """
        meta = {"epoch": epoch, "metrics": dict(metrics), "classes": list(classes)}
        args = ocp.args.Composite(
            model=ocp.args.StandardSave(_model_item(state.params, state.stats)),
            training=ocp.args.StandardSave(_training_item(state)),
            meta=ocp.args.JsonSave(meta),
        )
        try:
            self._manager.save(epoch, args=args, metrics=dict(metrics), force=True)
            self._manager.wait_until_finished()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DiskFullError(f"no space left for a checkpoint in {self._folder}") from error
            raise

    def meta(self, epoch: int) -> dict[str, Any]:
        """Epoch, metrics and classes of a checkpoint."""
        return self._restore(epoch, meta=ocp.args.JsonRestore())["meta"]

    def restore_model(self, epoch: int, params: Arrays, stats: Arrays) -> tuple[Arrays, Arrays]:
        """Parameters and statistics of a checkpoint, in the shapes of these templates.

        Raises CheckpointError naming every leaf that is missing, unexpected or of another
        shape or dtype; nothing is cast.
        """
        item = self._standard(epoch, "model", _model_item(params, stats))
        return item["params"], item["stats"]

    def restore(self, epoch: int, template: TrainState) -> TrainState:
        """The whole training state; raises CheckpointError as ``restore_model`` does."""
        params, stats = self.restore_model(epoch, template.params, template.stats)
        training = self._standard(epoch, "training", _training_item(template))
        leaves = [training["opt_state"][name] for name in sorted(training["opt_state"])]
        opt_state = jax.tree.unflatten(jax.tree.structure(template.opt_state), leaves)
        return TrainState(training["step"], params, stats, opt_state)

    def _standard(self, epoch: int, item: str, template: Any) -> Any:
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), template)
        found = self._manager.item_metadata(epoch)[item]
        if found is None:
            raise CheckpointError(f"checkpoint {epoch} in {self._folder} has no {item}")
        _compare(found.tree, abstract, f"checkpoint {epoch} in {self._folder}")
        return self._restore(epoch, **{item: ocp.args.StandardRestore(abstract)})[item]

    def _restore(self, epoch: int, **args: Any) -> Any:
        try:
            return self._manager.restore(epoch, args=ocp.args.Composite(**args))
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"cannot restore checkpoint {epoch} in {self._folder}: {reason}"
            ) from error


def _model_item(params: Arrays, stats: Arrays) -> dict[str, Arrays]:
    return {"params": dict(params), "stats": dict(stats)}


def _training_item(state: TrainState) -> dict[str, Any]:
    leaves = jax.tree.leaves(state.opt_state)
    return {"step": state.step, "opt_state": {f"{i:05d}": x for i, x in enumerate(leaves)}}


def _compare(found: Any, expected: Any, where: str) -> None:
    got, want = _by_name(found), _by_name(expected)
    problems = [f"{name} is missing" for name in want.keys() - got.keys()]
    problems += [f"{name} is unexpected" for name in got.keys() - want.keys()]
    problems += [
        f"{name} is {got[name]}, expected {want[name]}"
        for name in want.keys() & got.keys()
        if got[name] != want[name]
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{where} does not fit: {'; '.join(sorted(problems)[:5])}{more}")


def _by_name(tree: Any) -> dict[str, str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(
            path, simple=True, separator="."
        ): f"{np.dtype(x.dtype)}{list(x.shape)}"
        for path, x in leaves
    }
