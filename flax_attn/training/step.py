"""The training and evaluation steps: pure functions over arrays, compiled once.

What is compiled for training and evaluation is compiled here, for the devices that share it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from flax_attn.config import TrainConfig
from flax_attn.models import functional
from flax_attn.models.functional import Arrays, Structure
from flax_attn.models.network import AttnOutput, Network
from flax_attn.models.paths import BACKBONE
from flax_attn.models.tasks import TASKS, Task
from flax_attn.models.vgg import Features
from flax_attn.ops.images import augment, normalize
from flax_attn.ops.losses import score_function_terms
from flax_attn.ops.metrics import LabelSums, Sums
from flax_attn.training.accumulation import accumulate, in_parts
from flax_attn.training.devices import ONE, Devices

Inputs = UInt8[Array, "b h w 3"] | Features


class TrainState(NamedTuple):
    """Everything a step reads and writes, as plain arrays.

    ``opt_state`` covers the trainable parameters only.
    """

    step: Int[Array, ""]
    params: Arrays
    stats: Arrays
    opt_state: optax.OptState


class Examples(NamedTuple):
    """A padded batch, on the host or the device: images, or features of a frozen backbone."""

    inputs: Any
    label: Int[Any, "b *k"]
    mask: Bool[Any, "b"]


class Prediction(NamedTuple):
    """What evaluation keeps of a batch."""

    probabilities: Float[Array, "b k"]
    loss: Float[Array, "b"]
    attention: dict[str, Float[Array, "b *g h w"]]


AnySums = Sums | LabelSums
TrainStep = Callable[..., tuple[TrainState, AnySums]]
EvalStep = Callable[[Arrays, Arrays, Examples], tuple[AnySums, Prediction]]


def trainable(params: Arrays, *, freeze_backbone: bool) -> Arrays:
    """The parameters that a run changes."""
    return {p: a for p, a in params.items() if not (freeze_backbone and p.startswith(BACKBONE))}


def init_state(
    params: Arrays, stats: Arrays, tx: optax.GradientTransformation, config: TrainConfig
) -> TrainState:
    """The state before the first step."""
    opt_state = tx.init(trainable(params, freeze_backbone=config.freeze_backbone))
    return TrainState(jnp.zeros((), jnp.int32), params, stats, opt_state)


def make_train_step(
    structure: Structure,
    tx: optax.GradientTransformation,
    config: TrainConfig,
    devices: Devices = ONE,
) -> TrainStep:
    """``step(state, examples, seed=config.seed) -> (state', sums)``, jitted, the state donated.

    The loss is the mean over the examples that the mask keeps. Randomness is folded from
    (seed, step), so a resumed run draws what the uninterrupted one would have drawn.

    With ``config.accumulate`` the batch is computed in as many parts, one after the other, and
    their gradients added up: that of the whole batch, but that batch normalisations see a part
    at a time, and that each part draws for itself.

    ``sums.loss`` also tells what was not finite: it is NaN when the loss was not, infinity when
    the gradient was not, minus infinity when a running statistic was not.
    """
    task = TASKS[config.task]

    def gradient(
        state: TrainState, examples: Examples, key: Array, kept: Array
    ) -> tuple[Arrays, AnySums, Arrays]:
        """That of the sum over these examples, divided by ``kept``; their sums; new statistics."""

        def objective(variable: Arrays) -> tuple[Array, tuple[AnySums, Arrays]]:
            model = functional.merge(structure, {**state.params, **variable}, state.stats)
            output = _train_output(model, examples.inputs, key, config)
            loss = task.loss(output.logits, examples.label, label_smoothing=config.label_smoothing)
            sums = task.sums.of(loss, output.logits, examples.label, examples.mask)
            total = jnp.where(examples.mask, loss + _terms(loss, output, config), 0).sum()
            return total / kept, (sums, functional.statistics(model))

        variable = trainable(state.params, freeze_backbone=config.freeze_backbone)
        (_, (sums, stats)), grads = jax.value_and_grad(objective, has_aux=True)(variable)
        return grads, sums, stats

    def step(
        state: TrainState, examples: Examples, seed: int | Array = config.seed
    ) -> tuple[TrainState, AnySums]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        kept = jnp.maximum(examples.mask.sum(), 1)
        if config.accumulate == 1:
            grads, sums, stats = gradient(state, examples, key, kept)
        else:
            keys = jax.random.split(key, config.accumulate)
            grads, sums, stats = accumulate(
                lambda stats, part, key: gradient(state._replace(stats=stats), part, key, kept),
                state.stats,
                (in_parts(examples, config.accumulate), keys),
            )
        # Without a barrier XLA would compute part of the gradient again for the look at it.
        grads = jax.lax.optimization_barrier(grads)
        variable = trainable(state.params, freeze_backbone=config.freeze_backbone)
        updates, opt_state = tx.update(grads, state.opt_state, variable)
        params = {**state.params, **optax.apply_updates(variable, updates)}
        loss = jnp.where(_finite(grads), sums.loss, jnp.inf)
        loss = jnp.where(_finite(stats), loss, -jnp.inf)
        sums = sums._replace(loss=jnp.where(jnp.isfinite(sums.loss), loss, jnp.nan))
        return TrainState(state.step + 1, params, stats, opt_state), sums

    return devices.jit(step, donate_argnums=0)


@jax.jit
def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether no number in a tree of arrays is NaN or infinite."""
    return _finite(tree)


def _finite(tree: Any) -> Bool[Array, ""]:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _terms(loss: Float[Array, "b"], output: AttnOutput, config: TrainConfig) -> Array:
    """What is minimised beside the loss that is reported: nothing for most networks."""
    terms = jnp.zeros_like(loss)
    if output.policy is not None:
        terms += score_function_terms(loss, output.policy.log_prob, output.policy.baseline)
    if output.overlap is not None and config.head_diversity:
        terms += config.head_diversity * output.overlap
    return terms


def _train_output(model: Network, inputs: Inputs, key: Array, config: TrainConfig) -> AttnOutput:
    augment_key, head_key = jax.random.split(key)
    if isinstance(inputs, Features):
        return model.classify(inputs, train=True, key=head_key)
    crop = None if config.crop_min_area is None else (config.crop_min_area, 1.0)
    image = normalize(augment(augment_key, inputs, flip=config.flip, crop_scale=crop))
    features = model.features(image, train=not config.freeze_backbone)
    return model.classify(features, train=True, key=head_key)


def make_eval_step(
    structure: Structure, task: Task = TASKS["multiclass"], devices: Devices = ONE
) -> EvalStep:
    """``step(params, stats, examples) -> (sums, prediction)``, jitted."""

    def step(params: Arrays, stats: Arrays, examples: Examples) -> tuple[AnySums, Prediction]:
        model = functional.merge(structure, params, stats)
        if isinstance(examples.inputs, Features):
            output = model.classify(examples.inputs, train=False)
        else:
            output = model(normalize(examples.inputs), train=False)
        loss = task.loss(output.logits, examples.label)
        sums = task.sums.of(loss, output.logits, examples.label, examples.mask)
        return sums, Prediction(task.probabilities(output.logits), loss, output.attention)

    return devices.jit(step)


def make_feature_step(
    structure: Structure, taps: tuple[str, ...], devices: Devices = ONE
) -> Callable[[Arrays, Arrays, UInt8[Array, "b h w 3"]], Features]:
    """``step(params, stats, image) -> features`` in evaluation mode, jitted.

    Only the maps named in ``taps`` are returned, the others are None.
    """

    def step(params: Arrays, stats: Arrays, image: UInt8[Array, "b h w 3"]) -> Features:
        model = functional.merge(structure, params, stats)
        return model.features(normalize(image), train=False).keep(*taps)

    return devices.jit(step)
