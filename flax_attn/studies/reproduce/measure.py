"""What the trained networks are measured by: maps and masks, a sanity check, costs.

The sanity check asks whether maps change when the network's weights are drawn anew (Adebayo et
al. 2018).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from flax_attn.config import ModelConfig, TrainConfig
from flax_attn.data import Split, read_image
from flax_attn.data.drawn.pets import DrawnPets
from flax_attn.data.drawn.plan import plan_scene
from flax_attn.explain.cam import grad_cam
from flax_attn.explain.forward import NetworkForward, network_forward
from flax_attn.explain.measures.agreement import randomize, spearman
from flax_attn.explain.methods import METHODS
from flax_attn.models import abstract_model, build_model, functional
from flax_attn.models.functional import BACKBONE, Arrays
from flax_attn.studies.reproduce.experiment_plan import GATES
from flax_attn.studies.reproduce.networks import Trained, judge
from flax_attn.studies.reproduce.stages import Stage
from flax_attn.system.console import bar
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.sources import ExampleSource
from flax_attn.training.step import EvalStep, Examples, init_state, make_eval_step, make_train_step

# Names of what is kept of a network: Grad-CAM at the stages, and the probabilities.
CAMS = {"grad_cam_conv4": "conv4", "grad_cam_conv5": "conv5"}
PROBABILITIES = "probabilities"

# The networks whose cost is compared; attention first, as everywhere in the report.
NAMES = ("attn_vgg", "vgg")

STAGES = ("conv4", "conv5")
# What is drawn anew: the part above the backbone, or everything.
HEAD, ALL = "head", "all"

# Integrated gradients at as few points as rank correlations allow.
_IG_STEPS = 8

# Randomised networks that methods with a backward pass are tried on; attention costs less.
_DRAWS_OF_METHODS = 3

Maps = dict[str, Float[np.ndarray, "n _ _"]]


def attention_name(gate: str, epoch: int) -> str:
    """Returns the name under which the maps of a gate after an epoch are kept."""
    return f"{gate}@{epoch}"


def attention(
    trained: Trained, source: ExampleSource, epochs: Sequence[int], places: Sequence[int]
) -> Stage:
    """Returns both gates' maps at ``places`` after each epoch, and all last probabilities."""
    found: Stage = {}
    for epoch in epochs:
        judged = judge(trained, epoch, source)
        for gate in GATES if judged.attention else ():
            found[attention_name(gate, epoch)] = judged.attention[gate][list(places)]
        found[PROBABILITIES] = judged.probabilities
    return found


def images_at(split: Split, places: Sequence[int]) -> UInt8[np.ndarray, "n s s 3"]:
    """Returns the images of a split at these places."""
    return np.stack([read_image(split, i)[0] for i in places])


def heads(split: Split, places: Sequence[int]) -> Bool[np.ndarray, "n s s"] | None:
    """Returns a disc around each animal's head; None where the data set does not say where."""
    if not isinstance(split, DrawnPets):
        return None
    return np.stack([_head(split, i) for i in places])


def _head(split: DrawnPets, index: int) -> Bool[np.ndarray, "s s"]:
    stance = plan_scene(seed=split.seed, index=split.first_index + index).stances[0]
    x, y, radius = stance.face
    # The animal is turned about the point it stands on.
    c, s = math.cos(math.radians(stance.angle)), math.sin(math.radians(stance.angle))
    dx, dy = x - stance.x, y - stance.y
    centre_x, centre_y = stance.x + c * dx - s * dy, stance.y + s * dx + c * dy
    pixels = (np.arange(split.size) + 0.5) / split.size
    return (pixels - centre_x) ** 2 + (pixels[:, None] - centre_y) ** 2 <= radius**2


def cams(
    network: NetworkForward,
    images: UInt8[np.ndarray, "n s s 3"],
    class_index: Int[np.ndarray, "n"],
    *,
    stages: Sequence[str],
    batch_size: int,
    text: str,
) -> Stage:
    """Returns Grad-CAM of each image's class at each stage, by the stage's name."""
    found: dict[str, list[np.ndarray]] = {stage: [] for stage in stages}
    batches = list(full_batches(len(images), batch_size))
    for wanted, places in bar(batches, len(batches), text):
        for stage, parts in found.items():
            index = jnp.asarray(class_index[places])
            maps = np.asarray(grad_cam(network, images[places], index, stage))
            parts.append(maps[:wanted])
    return {stage: np.concatenate(parts) for stage, parts in found.items()}


def full_batches(n: int, size: int) -> Iterator[tuple[int, Int[np.ndarray, "b"]]]:
    """Yields the places of a batch's images, and how many of them, from the first, are wanted.

    The last batch has the shape of the others: it is filled with the first images.
    """
    size = min(size, n)
    for start in range(0, n, size):
        yield min(size, n - start), np.arange(start, start + size) % n


def rank_correlations(
    trained: Trained,
    epoch: int,
    images: UInt8[np.ndarray, "n s s 3"],
    *,
    methods: Sequence[str],
    draws: int,
    seed: int,
) -> Stage:
    """Returns Spearman's correlation of maps before and after, by ``level/map`` [d, n].

    d is ``draws`` for attention, at most three for the ``methods``. NaN where a map is constant.
    The class explained is the one the trained network says.
    """
    step = make_eval_step(trained.structure)
    params, stats = trained.at(epoch)
    examples = Examples(images, np.zeros(len(images), np.int32), np.ones(len(images), bool))
    class_index = np.asarray(step(params, stats, examples)[1].probabilities).argmax(-1)

    def of(params: Arrays, stats: Arrays, methods: Sequence[str]) -> Maps:
        network = network_forward(
            trained.config.model, params, stats, num_classes=len(trained.run.classes)
        )
        shown = _attention(step, params, stats, examples)
        return {**shown, **_explanations(network, images, class_index, methods)}

    before = of(params, stats, methods)
    found: dict[str, list[np.ndarray]] = {}
    for draw in bar(range(draws), draws, "randomised networks"):
        fresh = build_model(
            trained.config.model, num_classes=len(trained.run.classes), seed=seed + draw
        )
        _, fresh_params, fresh_stats = functional.split(fresh)
        for level, arrays in _levels(params, stats, fresh_params, fresh_stats):
            tried = methods if draw < _DRAWS_OF_METHODS else ()
            for name, maps in of(*arrays, tried).items():
                correlation = spearman(jnp.asarray(before[name]), jnp.asarray(maps))
                found.setdefault(f"{level}/{name}", []).append(np.asarray(correlation))
    return {name: np.stack(parts) for name, parts in found.items()}


def _levels(
    params: Arrays, stats: Arrays, fresh_params: Arrays, fresh_stats: Arrays
) -> Iterator[tuple[str, tuple[Arrays, Arrays]]]:
    """The cascade at two places: once all above the backbone is drawn anew, and at its end."""
    head: tuple[Arrays, Arrays] = params, stats
    everything = head
    for changed in randomize(params, stats, fresh_params, fresh_stats):
        everything = changed.params, changed.stats
        if not changed.level.startswith(BACKBONE):
            head = everything
    yield HEAD, head
    yield ALL, everything


def _attention(step: EvalStep, params: Arrays, stats: Arrays, examples: Examples) -> Maps:
    attention = step(params, stats, examples)[1].attention
    return {f"attention {gate}": np.asarray(attention[gate]) for gate in GATES}


def _explanations(
    network: NetworkForward,
    images: UInt8[np.ndarray, "n s s 3"],
    class_index: Int[np.ndarray, "n"],
    methods: Sequence[str],
) -> Maps:
    found = {}
    for name in methods:
        method = METHODS[name]
        settings = {"steps": _IG_STEPS} if name == "integrated_gradients" else {}
        for stage in ("",) if method.of_image else STAGES:
            maps = method(network, images, jnp.asarray(class_index), stage, **settings)
            found[f"{name} {stage}".strip()] = np.asarray(maps)
    return found


def count(models: tuple[ModelConfig, ModelConfig], *, size: int) -> Stage:
    """Counts parameters, and floating-point operations of a forward pass for one image."""
    found: Stage = {}
    for name, model in zip(NAMES, models, strict=True):
        parameters, operations = _count(replace(model, conv="exact"), size)
        found[f"parameters_{name}"] = np.array(parameters)
        found[f"operations_{name}"] = np.array(operations)
    return found


def _count(model: ModelConfig, size: int) -> tuple[int, float]:
    """Operations are those of XLA's program, a multiplication and an addition counted as two."""
    structure, params, stats = abstract_model(model, num_classes=2)

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
    """Takes the seconds of a training step of every layer, and of judging one image, by round.

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
        state, sums, _ = step(state, examples)
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
