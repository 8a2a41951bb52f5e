"""Schedules and optimizers by name, built from the configuration with Optax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optax

from flax_attn.config import TrainConfig, entry
from flax_attn.models.functional import BACKBONE


def constant(peak: float, config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """Returns a constant schedule."""
    del config, steps_per_epoch
    return optax.constant_schedule(peak)


def step(peak: float, config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """Returns ``peak``, multiplied by ``step_factor`` after every ``step_epochs`` epochs.

    The parent paper multiplies by 0.1 after every 10.
    """
    period = config.step_epochs * steps_per_epoch
    return optax.exponential_decay(peak, period, config.step_factor, staircase=True)


def cosine(peak: float, config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """Returns half a cosine from ``peak`` to 0 over the whole run (Loshchilov and Hutter 2017)."""
    return optax.cosine_decay_schedule(peak, config.epochs * steps_per_epoch)


SCHEDULES: dict[str, Callable[[float, TrainConfig, int], optax.Schedule]] = {
    "constant": constant,
    "step": step,
    "cosine": cosine,
}


def adam(schedule: optax.Schedule, config: TrainConfig) -> optax.GradientTransformation:
    """Returns Adam (Kingma and Ba 2015); weight decay is L2, added to the gradient."""
    return optax.chain(optax.add_decayed_weights(config.weight_decay), optax.adam(schedule))


def adamw(schedule: optax.Schedule, config: TrainConfig) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov and Hutter 2019): weight decay apart from the gradient."""
    return optax.adamw(schedule, weight_decay=config.weight_decay)


def sgd(schedule: optax.Schedule, config: TrainConfig) -> optax.GradientTransformation:
    """Returns SGD with Nesterov momentum 0.9 and L2 weight decay, as in the parent paper."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(schedule, momentum=0.9, nesterov=True),
    )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
}


def make_schedule(peak: float, config: TrainConfig, *, steps_per_epoch: int) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up, times the named schedule.

    The warm-up lasts ``warmup_epochs``.
    """
    course = entry(SCHEDULES, config.schedule, "schedule")(peak, config, steps_per_epoch)
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if warmup == 0:
        return course
    ramp = optax.linear_schedule(1 / warmup, 1.0, warmup - 1 if warmup > 1 else 1)
    return lambda count: ramp(count) * course(count)


def make_optimizer(config: TrainConfig, *, steps_per_epoch: int) -> optax.GradientTransformation:
    """Returns the named optimizer, with learning rates of their own for backbone and head.

    It works on flat dictionaries; parameters whose path starts with ``backbone/`` are the
    backbone's. The tree of its state is part of the checkpoint format: a transformation that is
    added by a setting must leave it as it is where the setting is off.
    """

    def group(peak: float) -> optax.GradientTransformation:
        schedule = make_schedule(peak, config, steps_per_epoch=steps_per_epoch)
        return entry(OPTIMIZERS, config.optimizer, "optimizer")(schedule, config)

    def label(params: Mapping[str, Any]) -> dict[str, str]:
        return {path: "backbone" if path.startswith(BACKBONE) else "head" for path in params}

    tx = optax.multi_transform(
        {"backbone": group(config.backbone_learning_rate), "head": group(config.learning_rate)},
        label,
    )
    return tx if config.clip_norm is None else _clipped(tx, config.clip_norm)


def _clipped(tx: optax.GradientTransformation, norm: float) -> optax.GradientTransformation:
    """Returns an optimizer of gradients that are scaled down to ``norm``, all of them as one.

    Clipping has no state, and leaves the tree of the optimizer's as it is: a run may begin or cease
    to clip (``--resume-anyway``).

    Source: Pascanu, Mikolov and Bengio (2013), algorithm 1.
    """
    clip = optax.clip_by_global_norm(norm)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        clipped, _ = clip.update(updates, optax.EmptyState(), params)
        return tx.update(clipped, state, params)

    return optax.GradientTransformation(tx.init, update)
