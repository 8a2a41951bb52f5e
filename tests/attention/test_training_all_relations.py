"""Every relation with every score and every alignment: built, trained, finite, compiled once.

A program for each relation takes the number of the score and of the alignment as data, so that 80
trainings of a relation share one compilation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_attn.attention import ALIGNMENTS, RELATIONS, SCORES
from flax_attn.attention.alignments import Alignment, Sampled
from flax_attn.attention.relations import CaseMaps
from flax_attn.attention.scores import Score
from tests.helpers.small_relations import B, C, Gates, build, case_maps

PAIRS = list(product(range(len(SCORES)), range(len(ALIGNMENTS))))
STEPS = 80
PRESENT = np.array([[True, True], [True, False]])


def any_score(number: list[jax.Array]) -> Score:
    """Returns a score that has the parameters of all, and computes the one of a traced number."""
    each = {name: make() for name, make in SCORES.items()}

    def init(key, *, dq, dk):
        return {
            f"{name}_{path}": array
            for name, score in each.items()
            for path, array in score.init(key, dq=dq, dk=dk).items()
        }

    def apply(params, query, keys):
        def of(name):
            start = f"{name}_"
            own = {p.removeprefix(start): a for p, a in params.items() if p.startswith(start)}
            return lambda: each[name].apply(own, query, keys)

        # "general_…" is not the start of another score's name, so that each has its own alone.
        return jax.lax.switch(number[0], [of(name) for name in each])

    return Score(init, apply)


def any_alignment(number: list[jax.Array]) -> Alignment:
    """Returns an alignment that draws as the one of a traced number does; weights sum as its do."""
    each = [make() for make in ALIGNMENTS.values()]

    def sample(scores, *, key, shape=None):
        def of(alignment):
            def drawn():
                if alignment.sample is None:
                    weights = alignment.apply(scores, shape=shape)
                    share = 1 if alignment.sums_to_one else scores.shape[-1]
                    return weights / share, jnp.zeros(scores.shape[:-1])
                found = alignment.sample(scores, key=key, shape=shape)
                return found.weights, found.log_prob

            return drawn

        return Sampled(*jax.lax.switch(number[0], [of(alignment) for alignment in each]))

    return Alignment(lambda scores, shape=None: scores, True, sample)


@cache
def trained(relation: str) -> tuple[Gates, Callable, list]:
    """Returns ``train(score, alignment, params, maps) -> (losses, params)``, and its traces."""
    score_number, alignment_number, traces = [None], [None], []
    gates = build(
        relation,
        views=2 if RELATIONS[relation].views == 2 else 1,
        score=any_score(score_number),
        alignment=any_alignment(alignment_number),
    )
    tx = optax.adam(3e-2)
    kept = [look.kept for look in gates.passes]

    @jax.jit
    def train(score, alignment, params, maps, target):
        traces.append(relation)

        def loss(params, key):
            score_number[0], alignment_number[0] = score, alignment
            found = gates.run(params["gates"], maps, key)
            contexts = [out.pooled for out, keep in zip(found, kept, strict=True) if keep]
            read = jnp.concatenate(contexts, -1) @ params["readout"] + params["bias"]
            error = (read - target) ** 2
            draws = sum(out.log_prob for out in found)
            return error.mean() + (jax.lax.stop_gradient(error) * draws).mean(), error.mean()

        def step(state, key):
            params, moments = state
            gradient, error = jax.grad(loss, has_aux=True)(params, key)
            updates, moments = tx.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments), error

        keys = jax.random.split(jax.random.key(0), STEPS)
        (params, _), errors = jax.lax.scan(step, (params, tx.init(params)), keys)
        return errors, params

    return gates, train, traces


# In short the relation that has most to it: an affinity with a mask. The others in the long form.
@pytest.mark.parametrize(
    "relation",
    [r if r == "parallel" else pytest.param(r, marks=pytest.mark.faults) for r in RELATIONS],
)
def test_every_score_and_alignment_trains(relation: str) -> None:
    gates, train, traces = trained(relation)
    views = 1 + max(look.view for look in gates.passes)
    maps = case_maps(views, present=PRESENT[:, :views])
    # A location tells the class, so that there is something to attend to.
    maps.local[0, :, 0, 0] += 2
    maps = CaseMaps(*(np.asarray(x, np.float32) for x in maps[:2]), maps.present)
    kept = sum(look.kept for look in gates.passes)
    readout = 0.1 * jax.random.normal(jax.random.key(1), (kept * C,))
    target = np.array([1.0, -1.0], np.float32)
    assert target.shape == (B,)
    for score, alignment in PAIRS:
        params = {"gates": gates.params, "readout": readout, "bias": np.zeros((), np.float32)}
        errors, after = train(score, alignment, params, maps, target)
        named = f"{list(SCORES)[score]} with {list(ALIGNMENTS)[alignment]}"
        assert np.isfinite(errors).all(), named
        assert errors[-20:].mean() < 0.8 * errors[:5].mean(), named
        for path, array in after["gates"].items():
            assert np.isfinite(array).all(), (named, path)
    assert traces == [relation]


def test_how_many() -> None:
    assert len(RELATIONS) * len(PAIRS) == 400
