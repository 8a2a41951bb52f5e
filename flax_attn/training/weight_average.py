"""The exponential moving average of a network's arrays, which is judged in their place."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from flax_attn.config import TrainConfig
from flax_attn.models.functional import Arrays, trainable


def start_average(params: Arrays, stats: Arrays, config: TrainConfig) -> Arrays | None:
    """Returns the average before the first step, which has no weight; None where none is kept.

    It is of all that training changes: parameters, and the running statistics of normalisation,
    which are those of the averaged network only if they are averaged with it.
    """
    if config.ema is None:
        return None
    changing = trainable({**params, **stats}, freeze_backbone=config.freeze_backbone)
    return jax.tree.map(jnp.copy, changing)  # a step is given each buffer once


def next_average(
    average: Arrays | None, arrays: Arrays, steps: Int[Array, ""], config: TrainConfig
) -> Arrays | None:
    """Returns the average after ``steps`` steps, of which ``arrays`` are the newest.

    With the decay d it is ``Σ_i d^(t-i) a_i / Σ_i d^(t-i)`` over the arrays a_1 to a_t after each
    step: the moving average without the bias towards its start, as Kingma and Ba (2015) correct
    it, so that a short run does not judge the arrays it began with.
    """
    if average is None or config.ema is None:
        return None
    # 1 - d and 1 - d^t; the first step has all the weight, whatever the two are rounded to.
    one, all_steps = math.expm1(math.log(config.ema)), jnp.expm1(steps * math.log(config.ema))
    share = jnp.where(steps == 1, 1, one / all_steps)
    newest = {path: arrays[path] for path in average}
    return optax.incremental_update(newest, average, share)
