"""The trainings of a grid: one compiled step a combination, its seeds in turn."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Key

from flax_attn.config import Config
from flax_attn.models import MODELS, build_model, functional
from flax_attn.models.functional import Arrays
from flax_attn.models.maps import named_maps
from flax_attn.models.paths import BACKBONE
from flax_attn.models.tasks import TASKS
from flax_attn.studies.ablate.concentration_of_runs import measure
from flax_attn.training.examples import ExampleSource, steps_per_epoch
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import TrainState, init_state, make_eval_step, make_train_step
from flax_attn.training.trainer import evaluate

Row = dict[str, Any]


class Combination(NamedTuple):
    """One cell of the grid."""

    score: str
    norm: str

    def of(self, config: Config) -> Config:
        """The configuration with this score and alignment."""
        return replace(config, model=replace(config.model, score=self.score, norm=self.norm))


class Bench(NamedTuple):
    """What all trainings of a grid share: the examples are features of a frozen backbone."""

    config: Config
    classes: tuple[str, ...]
    train: ExampleSource
    val: ExampleSource
    objects: Bool[np.ndarray, "n k s s"] | None


def run_combination(bench: Bench, combination: Combination, seeds: Sequence[int]) -> Iterator[Row]:
    """Trains one combination for each seed and judges it on the validation examples.

    All trainings have the same epochs, batches and optimizer; a seed decides initialisation,
    order of the examples and draws. Seconds are of training alone, compilation left out.
    """
    config = combination.of(bench.config)
    classes = bench.classes
    task = TASKS[config.train.task]
    structure, params, stats = functional.abstract(
        lambda: build_model(config.model, num_classes=len(classes))
    )
    unread = [path for path in params if path.startswith(BACKBONE)]
    tx = make_optimizer(config.train, steps_per_epoch=steps_per_epoch(bench.train))
    step = make_train_step(structure, tx, config.train)
    judge = make_eval_step(structure, task)
    # The backbone's random arrays, not returned, are never computed.
    fresh = jax.jit(lambda key: _head(config, len(classes), key))

    def start(seed: int) -> TrainState:
        params = {**_empty(unread), **fresh(jax.random.key(seed))}
        return init_state(params, _empty(stats), tx, config.train)

    example = next(iter(bench.train.epoch(1, seed=0, shuffle=True)))
    compiled = step.lower(start(0), example, 0).compile()  # type: ignore[attr-defined]
    for seed in seeds:
        state = start(seed)
        started = time.perf_counter()
        state, losses = _train(compiled, state, bench, seed)
        seconds = time.perf_counter() - started
        judged = evaluate(
            judge,
            state.params,
            state.stats,
            bench.val,
            num_classes=len(classes),
            task=task,
            keep_attention=True,
        )
        yield {
            "score": combination.score,
            "norm": combination.norm,
            "seed": seed,
            **{k: v for k, v in judged.metrics.items() if k != "images_per_second"},
            "first_loss": losses[0],
            "last_loss": losses[-1],
            **measure(named_maps(judged.attention, config.model, classes), bench.objects),
            "parameters": sum(a.size for a in state.params.values()),
            "seconds": seconds,
        }


def _train(step: Any, state: TrainState, bench: Bench, seed: int) -> tuple[TrainState, list[float]]:
    """The trained state, and the mean training loss of each epoch."""
    losses = []
    for epoch in range(1, bench.config.train.epochs + 1):
        total, count = jnp.zeros(()), 0
        for examples in bench.train.epoch(epoch, seed=seed, shuffle=True):
            state, sums = step(state, examples, seed)
            total, count = total + sums.loss, count + int(examples.mask.sum())
        losses.append(float(total) / count)
    return state, losses


def _head(config: Config, num_classes: int, key: Key[Array, ""]) -> Arrays:
    network = MODELS[config.model.model](config.model, num_classes, rngs=nnx.Rngs(key))
    _, params, _ = functional.split(network)
    return {path: a for path, a in params.items() if not path.startswith(BACKBONE)}


def _empty(paths: Iterable[str]) -> Arrays:
    """Arrays in the place of a backbone's, which features leave unread."""
    return {path: jnp.zeros(0) for path in paths}
