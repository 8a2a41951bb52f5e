"""What the two networks cost: parameters and operations counted, training steps timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_attn.config import ModelConfig, TrainConfig
from flax_attn.models import build_model, functional
from flax_attn.models.functional import Arrays
from flax_attn.studies.reproduce.stages import Stage
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import Examples, init_state, make_eval_step, make_train_step
from flax_attn.training.trainer import bar

# Attention first, as everywhere in the report.
NAMES = ("attn_vgg", "vgg16_bn")


def count(models: tuple[ModelConfig, ModelConfig], *, size: int) -> Stage:
    """Parameters, and floating-point operations of a forward pass for one image."""
    found: Stage = {}
    for name, model in zip(NAMES, models, strict=True):
        parameters, operations = _count(replace(model, conv="exact"), size)
        found[f"parameters_{name}"] = np.array(parameters)
        found[f"operations_{name}"] = np.array(operations)
    return found


def _count(model: ModelConfig, size: int) -> tuple[int, float]:
    """Operations are those of XLA's program, a multiplication and an addition counted as two."""
    structure, params, stats = functional.abstract(lambda: build_model(model, num_classes=2))

    def forward(params: Arrays, stats: Arrays, image: jax.Array) -> jax.Array:
        return functional.merge(structure, params, stats)(image, train=False).logits

    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    cost: Any = jax.jit(forward).lower(params, stats, image).cost_analysis()
    return sum(int(np.prod(a.shape)) for a in params.values()), float(cost["flops"])


def time_steps(
    models: tuple[ModelConfig, ModelConfig],
    train: TrainConfig,
    *,
    size: int,
    batch: int,
    rounds: int,
) -> Stage:
    """Seconds of a training step of every layer, and of judging one image, in each round.

    In a round each network takes a step, so that whatever else the machine does meets both.
    """
    config = replace(train, freeze_backbone=False, batch_size=batch)
    training = [_training_step(model, config, size, batch) for model in models]
    found = _alternate("train", training, rounds, "timing training steps")
    del training
    judging = [_judging_step(model, size) for model in models]
    return {**found, **_alternate("judge", judging, 3 * rounds, "timing single images")}


def _alternate(kind: str, steps: list[Callable[[], None]], rounds: int, text: str) -> Stage:
    for step in steps:
        step()  # compiles
    seconds = np.empty((rounds, len(steps)))
    for number in bar(range(rounds), rounds, text):
        for place, step in enumerate(steps):
            started = time.perf_counter()
            step()
            seconds[number, place] = time.perf_counter() - started
    return {f"{kind}_{name}": seconds[:, place] for place, name in enumerate(NAMES)}


def _training_step(
    model: ModelConfig, config: TrainConfig, size: int, batch: int
) -> Callable[[], None]:
    structure, params, stats = functional.split(build_model(model, num_classes=2))
    tx = make_optimizer(config, steps_per_epoch=1)
    step = make_train_step(structure, tx, config)
    state = init_state(params, stats, tx, config)
    examples = _examples(size, batch)

    def run() -> None:
        nonlocal state
        state, sums = step(state, examples)
        jax.block_until_ready((state, sums))

    return run


def _judging_step(model: ModelConfig, size: int) -> Callable[[], None]:
    structure, params, stats = functional.split(build_model(model, num_classes=2))
    step = make_eval_step(structure)
    examples = _examples(size, 1)

    def run() -> None:
        jax.block_until_ready(step(params, stats, examples))

    return run


def _examples(size: int, batch: int) -> Examples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    return Examples(images, np.arange(batch, dtype=np.int32) % 2, np.ones(batch, bool))
