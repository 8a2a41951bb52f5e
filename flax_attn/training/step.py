"""The training and evaluation steps: pure functions over arrays, compiled once.

A batch may be computed in parts, one after the other, in the memory of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from flax_attn.config import TrainConfig
from flax_attn.models import functional
from flax_attn.models.backbone import Features
from flax_attn.models.functional import Arrays, Structure, trainable
from flax_attn.models.network import AttnOutput, Network
from flax_attn.models.tasks import TASKS, Task
from flax_attn.ops.metrics import LabelSums, Sums
from flax_attn.ops.mixup import Mix
from flax_attn.ops.symmetries import Symmetry
from flax_attn.runs.state import TrainState
from flax_attn.training.accumulation import accumulate, in_parts
from flax_attn.training.augmentation import augment_images, draw_mixup
from flax_attn.training.devices import ONE, Devices
from flax_attn.training.feature_format import PackedFeatures, unpack
from flax_attn.training.finiteness import is_finite
from flax_attn.training.objective import extra_terms, label_loss, loss_options, mean_weight
from flax_attn.training.region_term import Regions, RegionSums, counted_images, region_dice
from flax_attn.training.test_time import Judged, average_under
from flax_attn.training.weight_average import next_average, start_average

Inputs = UInt8[Array, "b *v h w 3"] | Features | PackedFeatures


class Examples(NamedTuple):
    """A padded batch, on the host or the device: images, or features of a frozen backbone.

    Features may be packed into fewer bytes (``feature_format``): a step unpacks them.
    ``roi`` are masks of objects, which the region term needs; they lie on the images as given,
    before these are augmented. Of cases of several pictures the inputs have an axis for them, and
    ``present`` says which there are; ``meta`` are the metadata of each case.
    """

    inputs: Any
    label: Int[Any, "b *k"]
    mask: Bool[Any, "b"]
    roi: Regions | None = None
    meta: Float[Any, "b m"] | None = None
    present: Bool[Any, "b v"] | None = None

    @property
    def beside(self) -> dict[str, Any]:
        """What a network is given beside pixels, by name; nothing of pictures alone."""
        found = {"meta": self.meta, "present": self.present}
        return {name: value for name, value in found.items() if value is not None}


class Prediction(NamedTuple):
    """The results of a batch in evaluation; ``loss`` is in nats."""

    probabilities: Float[Array, "b k"]
    loss: Float[Array, "b"]
    attention: dict[str, Float[Array, "b *g _ _"]]
    logits: Float[Array, "b k"]


AnySums = Sums | LabelSums | RegionSums


class StepOutput(NamedTuple):
    """The new state, the sums over the batch, and whether each of ``CHECKED`` was finite."""

    state: TrainState
    sums: AnySums
    finite: Bool[Array, "3"]


TrainStep = Callable[..., StepOutput]
EvalStep = Callable[[Arrays, Arrays, Examples], tuple[AnySums, Prediction]]


def init_state(
    params: Arrays, stats: Arrays, tx: optax.GradientTransformation, config: TrainConfig
) -> TrainState:
    """Returns the state before the first step."""
    opt_state = tx.init(trainable(params, freeze_backbone=config.freeze_backbone))
    average = start_average(params, stats, config)
    return TrainState(jnp.zeros((), jnp.int32), params, stats, opt_state, average)


def make_train_step(
    structure: Structure,
    tx: optax.GradientTransformation,
    config: TrainConfig,
    devices: Devices = ONE,
    *,
    class_weights: Float[np.ndarray, "k"] | None = None,
    window: int | None = None,
) -> TrainStep:
    """Returns ``step(state, examples, seed=config.seed) -> StepOutput``, jitted.

    The state is donated: a step destroys what it is given.

    The loss is the mean over the examples that the mask keeps, with ``class_weights`` the mean by
    the weights of the whole batch's labels (``Task.weigh``). The sums hold the plain cross entropy,
    whatever is minimised, so that it compares with that of evaluation. Randomness is folded from
    (seed, step), so a resumed run draws what the uninterrupted one would have drawn.

    With ``config.accumulate`` the batch is computed in as many parts, one after the other, and
    their gradients added up: equal to one large batch except that batch normalisation, random
    draws and the one ratio of the region term are per part.

    ``window`` is the side of the part that a step sees of each image, anywhere in it; None the
    whole image. Where masks teach maps (``config.roi_weights``), examples must have them
    (``Examples.roi``).
    """
    task = TASKS[config.task]

    def gradient(
        state: TrainState, examples: Examples, key: Array, counts: _Counts
    ) -> tuple[Arrays, AnySums, Arrays]:
        """Returns the gradient of the mean loss, the metric sums, and the new batch statistics."""

        def objective(variable: Arrays) -> tuple[Array, tuple[AnySums, Arrays]]:
            model = functional.merge(structure, {**state.params, **variable}, state.stats)
            output, roi, mix = _train_output(model, examples, key, config, window)
            options = loss_options(config, class_weights)
            loss = label_loss(task, output.logits, examples.label, mix, options)
            plain = loss
            if options:
                plain = label_loss(task, output.logits, examples.label, mix, {})
            if counts.weight is not None:
                loss = loss / counts.weight
            sums: Any = task.sums.of(plain, output.logits, examples.label, examples.mask)
            total = jnp.where(examples.mask, loss + extra_terms(loss, output, config), 0).sum()
            mean = total / counts.kept
            if roi is not None and config.region_weights:
                term, sums = _region_term(model, output, examples._replace(roi=roi), sums, config)
                mean += term / counts.taught
            return mean, (sums, functional.statistics(model))

        variable = trainable(state.params, freeze_backbone=config.freeze_backbone)
        (_, (sums, stats)), grads = jax.value_and_grad(objective, has_aux=True)(variable)
        return grads, sums, stats

    def step(state: TrainState, examples: Examples, seed: int | Array = config.seed) -> StepOutput:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        counts = _counts(examples, config, task, class_weights)
        if config.accumulate == 1:
            grads, sums, stats = gradient(state, examples, key, counts)
        else:
            keys = jax.random.split(key, config.accumulate)
            grads, sums, stats = accumulate(
                lambda stats, part, key: gradient(state._replace(stats=stats), part, key, counts),
                state.stats,
                (in_parts(examples, config.accumulate), keys),
            )
        # Without a barrier XLA would compute part of the gradient again for the check below.
        grads = jax.lax.optimization_barrier(grads)
        variable = trainable(state.params, freeze_backbone=config.freeze_backbone)
        updates, opt_state = tx.update(grads, state.opt_state, variable)
        params = {**state.params, **optax.apply_updates(variable, updates)}
        finite = jnp.array([is_finite(sums.loss), is_finite(grads), is_finite(stats)])
        count = state.step + 1
        average = next_average(state.average, {**params, **stats}, count, config)
        return StepOutput(TrainState(count, params, stats, opt_state, average), sums, finite)

    return devices.jit(step, donate_argnums=0)


class _Counts(NamedTuple):
    """What the sums over a batch, or over its parts, are divided by: numbers of the whole batch.

    ``kept`` examples count, of ``taught`` of them the mask is known, and ``weight`` is the mean
    weight of their classes; None where classes have none.
    """

    kept: Array
    taught: Array
    weight: Array | None


def _counts(
    examples: Examples,
    config: TrainConfig,
    task: Task,
    class_weights: Float[np.ndarray, "k"] | None,
) -> _Counts:
    kept = jnp.maximum(examples.mask.sum(), 1)
    weight = mean_weight(task, class_weights, examples.label, examples.mask)
    if not config.region_weights:
        return _Counts(kept, kept, weight)
    if examples.roi is None:
        raise ValueError("roi_weights needs examples with masks: Examples.roi is None")
    taught = jnp.maximum(counted_images(examples.roi, examples.mask).sum(), 1)
    return _Counts(kept, taught, weight)


def _region_term(
    model: Network,
    output: AttnOutput,
    examples: Examples,
    sums: Sums | LabelSums,
    config: TrainConfig,
) -> tuple[Array, RegionSums]:
    """Returns the weighted region term times the images that it is of, and the sums with it."""
    assert examples.roi is not None
    counted = counted_images(examples.roi, examples.mask)
    found = region_dice(model.region_maps(output), examples.roi, examples.label, counted, config)
    images = counted.sum(dtype=jnp.int32)
    dice = {gate: term * images for gate, term in found.items()}
    total = sum(weight * dice[gate] for gate, weight in config.region_weights.items())
    return jnp.asarray(total), RegionSums(sums, dice, images)


def _train_output(
    model: Network, examples: Examples, key: Array, config: TrainConfig, window: int | None
) -> tuple[AttnOutput, Regions | None, Mix | None]:
    """Returns the output for augmented images, their masks moved with them, and how they are mixed.

    Images are mixed once they are normalised, which is the same; features of a frozen backbone as
    they are.
    """
    augment_key, head_key = jax.random.split(key)
    inputs, roi = unpack(examples.inputs), examples.roi
    mix = draw_mixup(augment_key, examples.mask, config)
    frozen = isinstance(inputs, Features)
    if not frozen:
        mask = None if roi is None else roi.mask
        image, mask = augment_images(augment_key, inputs, mask, config, window)
        inputs = model.normalize(image)
        roi = None if roi is None or mask is None else Regions(mask, roi.known)
    if mix is not None:
        inputs = mix.inputs(inputs)
    features = inputs
    if not frozen:
        features = model.features(inputs, train=not config.freeze_backbone)
    return model.classify(features, train=True, key=head_key, **examples.beside), roi, mix


def make_eval_step(
    structure: Structure,
    task: Task = TASKS["multiclass"],
    devices: Devices = ONE,
    *,
    under: Sequence[Symmetry] = (),
) -> EvalStep:
    """Returns ``step(params, stats, examples) -> (sums, prediction)``, jitted."""

    def step(params: Arrays, stats: Arrays, examples: Examples) -> tuple[AnySums, Prediction]:
        model = functional.merge(structure, params, stats)

        def judge(inputs: Any) -> Judged:
            if isinstance(inputs, Features):
                output = model.classify(inputs, train=False, **examples.beside)
            else:
                output = model(model.normalize(inputs), train=False, **examples.beside)
            return output.logits, output.attention

        logits, attention = average_under(under, judge, unpack(examples.inputs), task)
        loss = task.loss(logits, examples.label)
        sums = task.sums.of(loss, logits, examples.label, examples.mask)
        return sums, Prediction(task.probabilities(logits), loss, attention, logits)

    return devices.jit(step)


def make_feature_step(
    structure: Structure, taps: tuple[str, ...], devices: Devices = ONE
) -> Callable[[Arrays, Arrays, UInt8[Array, "b h w 3"]], Features]:
    """Returns ``step(params, stats, image) -> features`` in evaluation mode, jitted.

    The features hold the maps named in ``taps``.
    """

    def step(params: Arrays, stats: Arrays, image: UInt8[Array, "b h w 3"]) -> Features:
        model = functional.merge(structure, params, stats)
        return model.features(model.normalize(image), train=False).keep(*taps)

    return devices.jit(step)
