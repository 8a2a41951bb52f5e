"""What a step minimises for each example: the loss of the task by a run's settings, and terms."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from flax_attn.config import TrainConfig
from flax_attn.models.network import AttnOutput
from flax_attn.models.tasks import Task
from flax_attn.ops.losses import score_function_terms
from flax_attn.ops.mixup import Mix


def loss_options(
    config: TrainConfig, class_weights: Float[np.ndarray, "k"] | None
) -> dict[str, Any]:
    """Returns the options of ``Task.loss`` by which it is other than the plain cross entropy."""
    options: dict[str, Any] = {}
    if config.label_smoothing:
        options["label_smoothing"] = config.label_smoothing
    if config.loss == "focal":
        options["focal_gamma"] = config.focal_gamma
    if class_weights is not None:
        options["class_weights"] = jnp.asarray(class_weights)
    return options


def label_loss(
    task: Task,
    logits: Float[Array, "b k"],
    labels: Int[Any, "b *k"],
    mix: Mix | None,
    options: dict[str, Any],
) -> Float[Array, "b"]:
    """Returns the loss of each example; of mixed ones that of both labels, in their shares.

    All forms of the loss are linear in the target, so that this is the loss of the mixed target;
    and weights of classes add up over a batch to what they add up to without mixing.
    """
    own = task.loss(logits, labels, **options)
    if mix is None:
        return own
    return mix.loss(own, task.loss(logits, jnp.asarray(labels)[mix.partner], **options))


def mean_weight(
    task: Task,
    class_weights: Float[np.ndarray, "k"] | None,
    labels: Int[Any, "b *k"],
    kept: Bool[Any, "b"],
) -> Array | None:
    """Returns the mean weight of a whole batch's examples; infinity where all weigh nothing."""
    if class_weights is None:
        return None
    weights = task.weigh(jnp.asarray(class_weights), labels)
    mean = jnp.where(kept, weights, 0).sum() / jnp.maximum(kept.sum(), 1)
    return jnp.where(mean > 0, mean, jnp.inf)


def extra_terms(loss: Float[Array, "b"], output: AttnOutput, config: TrainConfig) -> Array:
    """Returns the loss terms beside the one that is reported; zero for most networks."""
    terms = jnp.zeros_like(loss)
    if output.policy is not None:
        terms += score_function_terms(loss, output.policy.log_prob, output.policy.baseline)
    if output.overlap is not None and config.head_diversity:
        terms += config.head_diversity * output.overlap
    return terms
