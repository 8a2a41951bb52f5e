"""Do maps change when the network's weights are drawn anew? (Adebayo et al. 2018)"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from flax_attn.explain.forward import NetworkForward, network_forward
from flax_attn.explain.measures.agreement import randomize, spearman
from flax_attn.explain.methods import METHODS, OF_IMAGE
from flax_attn.models import build_model, functional
from flax_attn.models.functional import Arrays
from flax_attn.models.paths import BACKBONE
from flax_attn.studies.reproduce.experiment_plan import GATES
from flax_attn.studies.reproduce.networks import Trained
from flax_attn.studies.reproduce.stages import Stage
from flax_attn.training.step import EvalStep, Examples, make_eval_step
from flax_attn.training.trainer import bar

STAGES = ("conv4", "conv5")
# What is drawn anew: the part above the backbone, or everything.
HEAD, ALL = "head", "all"

# Integrated gradients at as few points as rank correlations allow.
_IG_STEPS = 8

# Randomised networks that methods with a backward pass are tried on; attention costs less.
_DRAWS_OF_METHODS = 3

Maps = dict[str, Float[np.ndarray, "n h w"]]


def rank_correlations(
    trained: Trained,
    epoch: int,
    images: UInt8[np.ndarray, "n s s 3"],
    *,
    methods: Sequence[str],
    draws: int,
    seed: int,
) -> Stage:
    """Spearman's correlation of each image's map before and after, by ``level/map`` [d, n].

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
        settings = {"steps": _IG_STEPS} if name == "integrated_gradients" else {}
        for stage in ("image",) if name in OF_IMAGE else STAGES:
            maps = METHODS[name](network, images, jnp.asarray(class_index), stage, **settings)
            found[name if name in OF_IMAGE else f"{name} {stage}"] = np.asarray(maps)
    return found
