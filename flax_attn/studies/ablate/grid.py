"""The trainings of a grid: one compiled step a combination, its seeds in turn."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from flax_attn.attention import alignment_of, check_asked
from flax_attn.config import Config
from flax_attn.data.dataset import Split, masks_of
from flax_attn.errors import UsageError
from flax_attn.explain.measures.concentration import (
    area_holding,
    area_holding_inside,
    normalized_entropy,
    share_attended,
)
from flax_attn.explain.measures.localisation import energy_inside, pointing_game
from flax_attn.models import MODELS, abstract_model, functional
from flax_attn.models.cases import maps_there
from flax_attn.models.functional import BACKBONE, Arrays
from flax_attn.models.network import VIEWS, named_maps
from flax_attn.models.tasks import TASKS
from flax_attn.runs.state import TrainState
from flax_attn.studies.ablate.axes import Combination, by_axes
from flax_attn.training.class_weights import resolve_class_weights
from flax_attn.training.evaluation import evaluate_examples
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.sources import ExampleSource, steps_per_epoch
from flax_attn.training.step import EvalStep, init_state, make_eval_step, make_train_step

Row = dict[str, Any]


class Bench(NamedTuple):
    """What all trainings of a grid share: the examples are features of a frozen backbone."""

    config: Config
    classes: tuple[str, ...]
    train: ExampleSource
    val: ExampleSource
    objects: Bool[np.ndarray, "n k s s"] | None
    present: Bool[np.ndarray, "n v"] | None = None


def check_grid(grid: Sequence[Combination], config: Config, *, cases_known: bool) -> None:
    """Checks that each combination is a network, of cases that have what it needs.

    Raises:
      UsageError: one is not; settings that are axes are named by the flags of the axes.
    """
    for combination in grid:
        model = combination.of(config).model
        try:
            alignment_of(model)
            check_asked(model, cases_known=cases_known)
        except UsageError as error:
            raise UsageError(by_axes(str(error))) from error


def run_combination(bench: Bench, combination: Combination, seeds: Sequence[int]) -> Iterator[Row]:
    """Trains one combination for each seed; yields how it does on the validation examples.

    All trainings have the same epochs, batches and optimizer; a seed decides initialisation,
    order of the examples and draws. Seconds are of training alone, compilation left out.
    """
    config = combination.of(bench.config)
    num_classes = len(bench.classes)
    structure, params, stats = abstract_model(config.model, num_classes=num_classes)
    unread = [path for path in params if path.startswith(BACKBONE)]
    tx = make_optimizer(config.train, steps_per_epoch=steps_per_epoch(bench.train))
    class_weights = resolve_class_weights(
        config.train.class_weights, np.asarray(bench.train.labels), bench.classes
    )
    step = make_train_step(structure, tx, config.train, class_weights=class_weights)
    judge = make_eval_step(structure, TASKS[config.train.task])
    # The backbone's random arrays, not returned, are never computed.
    fresh = jax.jit(lambda key: _head(config, num_classes, key))

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
        yield {
            **combination._asdict(),
            "seed": seed,
            **_judge(judge, state, bench, config),
            "first_loss": losses[0],
            "last_loss": losses[-1],
            "parameters": sum(a.size for a in state.params.values()),
            "seconds": seconds,
        }


def _train(step: Any, state: TrainState, bench: Bench, seed: int) -> tuple[TrainState, list[float]]:
    """The trained state, and the mean training loss of each epoch."""
    losses = []
    for epoch in range(1, bench.config.train.epochs + 1):
        total, count = jnp.zeros(()), 0
        for examples in bench.train.epoch(epoch, seed=seed, shuffle=True):
            state, sums, _ = step(state, examples, seed)
            total, count = total + sums.loss, count + int(examples.mask.sum())
        losses.append(float(total) / count)
    return state, losses


def _judge(step: EvalStep, state: TrainState, bench: Bench, config: Config) -> dict[str, float]:
    """Metrics on the validation examples, and how far the attention spreads."""
    judged = evaluate_examples(
        step,
        state.params,
        state.stats,
        bench.val,
        num_classes=len(bench.classes),
        task=TASKS[config.train.task],
        keep_attention=True,
    )
    # Of images that were lost meanwhile nothing is judged.
    present, objects = (
        None if known is None else known[judged.judged] for known in (bench.present, bench.objects)
    )
    there = {} if present is None else maps_there(config.model, present)
    measured: dict[str, float] = {}
    for gate, value in judged.attention.items():
        if gate != VIEWS:  # whose map has a place for each picture, and none in any of them
            maps = named_maps({gate: value}, config.model, bench.classes)
            measured |= measure(maps, objects, there.get(gate))
    metrics = {k: v for k, v in judged.metrics.items() if k != "images_per_second"}
    return {**metrics, **measured}


def _head(config: Config, num_classes: int, key: Key[Array, ""]) -> Arrays:
    network = MODELS[config.model.model](config.model, num_classes, rngs=nnx.Rngs(key))
    _, params, _ = functional.split(network)
    return {path: a for path, a in params.items() if not path.startswith(BACKBONE)}


def _empty(paths: Iterable[str]) -> Arrays:
    """Arrays in the place of a backbone's, which features leave unread."""
    return {path: jnp.zeros(0) for path in paths}


def object_masks(split: Split) -> Bool[np.ndarray, "n k s s"] | None:
    """Returns the masks of all images, padded with empty ones to one number; None without any."""
    found = [masks_of(split, i) for i in range(len(split.labels))]
    known = [masks for masks in found if masks is not None]
    if not known:
        return None
    none = known[0][:0]
    each = [none if masks is None else masks for masks in found]
    most = max(len(masks) for masks in each)
    return np.stack([np.pad(m, ((0, most - len(m)), (0, 0), (0, 0))) for m in each])


def measure(
    attention: Mapping[str, Float[np.ndarray, "n _ _"]],
    objects: Bool[np.ndarray, "n k s s"] | None,
    there: Bool[np.ndarray, "n"] | None = None,
) -> dict[str, float]:
    """Returns means over the images, or over those whose maps are ``there``, by measure and map.

    ``entropy`` is normalised to [0, 1]; ``area90`` the share of the image that holds 90 % of the
    attention. With objects: ``energy`` inside them, ``pointing`` game, ``attended`` share of the
    objects, and ``inside90``, the share of each attended object that holds 90 % of what it gets.
    """
    found: dict[str, float] = {}
    for name, value in attention.items():
        maps = jnp.asarray(value if there is None else value[there])
        if not len(maps):
            continue
        measures = {"entropy": normalized_entropy(maps), "area90": area_holding(maps)}
        if objects is not None:
            known = objects if there is None else objects[there]
            masks, union = jnp.asarray(known), jnp.asarray(known.any(1))
            measures |= {
                "energy": energy_inside(maps, union),
                "pointing": pointing_game(maps, union),
                "attended": share_attended(maps, masks, among_objects=True),
                "inside90": area_holding_inside(maps, masks),
            }
        for measure_name, values in measures.items():
            found[f"{measure_name}_{name}"] = _mean(np.asarray(values))
    return found


def mean_over_maps(row: Mapping[str, float], measure_name: str) -> float:
    """Returns a measure averaged over the maps it was taken of; NaN where it was not taken."""
    values = [v for key, v in row.items() if key.startswith(f"{measure_name}_")]
    return _mean(np.asarray(values)) if values else float("nan")


def _mean(values: np.ndarray | Sequence[float]) -> float:
    kept = np.asarray(values)[np.isfinite(values)]
    return float(kept.mean()) if kept.size else float("nan")
