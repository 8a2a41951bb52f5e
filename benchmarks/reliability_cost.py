"""What verified checkpoints and the watch over numbers cost.

    python benchmarks/reliability_cost.py

Prints the share of a training step and of a save that they take, on the AttnVGG of the article
at a small image size. Each pair is measured in turns, and medians are compared, as another
process may be busy.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from flax_attn.config import Config, make_config
from flax_attn.models import build_model, functional
from flax_attn.models.tasks import TASKS
from flax_attn.runs.checkpoint_format import to_files
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.state import Progress
from flax_attn.training import step
from flax_attn.training.optimizer import make_optimizer


def in_turns(
    first: Callable[[], Any], second: Callable[[], Any], rounds: int
) -> tuple[float, float]:
    """The median seconds of both, after one round that does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for times, run in zip(seconds, (first, second), strict=True):
            started = time.perf_counter()
            jax.block_until_ready(run())
            times.append(time.perf_counter() - started)
    return median(seconds[0][1:]), median(seconds[1][1:])


def make_step(config: Config, *, watched: bool) -> tuple[Callable[[], Any], step.TrainState]:
    """A training step on its own state, with or without the check that all is finite."""
    structure, params, stats = functional.split(build_model(config.model, num_classes=2))
    tx = make_optimizer(config.train, steps_per_epoch=100)
    size, batch = config.data.image_size, config.train.batch_size
    rng = np.random.default_rng(0)
    examples = step.Examples(
        rng.integers(0, 256, (batch, size, size, 3), np.uint8),
        rng.integers(0, 2, batch).astype(np.int32),
        np.ones(batch, bool),
    )
    run = step.make_train_step(structure, tx, config.train)
    state = [step.init_state(params, stats, tx, config.train)]

    def once() -> Any:
        state[0], sums, _ = run(state[0], examples)
        return sums

    unwatched = nullcontext() if watched else patch.object(step, "is_finite", _always)
    with unwatched:  # read when the step is traced
        once()
    return once, state[0]


def _always(tree: Any) -> jax.Array:
    return jnp.array(True)


def save_plainly(state: step.TrainState, sums: Any, folder: Path) -> None:
    """What Orbax writes of the same arrays, without digests or a manifest."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, arrays in to_files(state, sums).items():
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(folder / name, args=ocp.args.PyTreeSave(arrays))


def report(name: str, plain: float, ours: float, goal: str) -> None:
    share = ours / plain - 1
    print(f"{name:<28}{1000 * plain:>9.1f} ms{1000 * ours:>9.1f} ms{share:>9.1%}   (goal {goal})")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args(argv)
    config = make_config(
        {
            "image_size": args.image_size,
            "batch_size": args.batch_size,
            "weights": "none",
            "freeze_backbone": False,
        }
    )
    plain_step, _ = make_step(config, watched=False)
    watched_step, state = make_step(config, watched=True)
    print(f"{'':<28}{'without':>12}{'with':>12}{'cost':>9}")
    report("step: numbers watched", *in_turns(plain_step, watched_step, args.rounds), "2 %")
    state = jax.tree.map(jnp.copy, make_step(config, watched=True)[1])
    sums = TASKS["multiclass"].sums.zero(2)
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name).absolute()
        checkpoints = Checkpoints(folder / "run", keep=1)

        def save() -> None:
            shutil.rmtree(checkpoints.folder / str(int(state.step)), ignore_errors=True)
            place = Progress.start(1, 1, sums)
            checkpoints.save(state, place, classes=("cat", "dog"), rows=[])

        plain, ours = in_turns(
            lambda: save_plainly(state, sums, folder / "plain"), save, args.rounds
        )
        report("save: verified, committed", plain, ours, "10 %")
        started = time.perf_counter()
        checkpoints.load_latest().training(state, sums)
        print(f"{'restore, verified':<28}{1000 * (time.perf_counter() - started):>21.1f} ms")
    print(f"state {sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6:.0f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
