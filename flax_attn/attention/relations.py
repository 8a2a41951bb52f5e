"""Relations between the pictures of a case: whose map a gate attends to, and what asks it.

A case shows one or several views. A relation is data: the passes over them, each of which attends
to the local map of one view under a query of named sources. To add one, write its passes and a row
of ``RELATIONS``; ``run_passes`` is what runs them all.

Equations are those of Brauwers and Frasincar (2023); docs/attention.md has them for images. "Input
1" of an equation is the local map of a view at a gate, "input 2" the guide of another view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from flax_attn.attention.gate import AttentionGate, GateOutput


class Ask(NamedTuple):
    """A source of a pass's query.

    Args:
      source: its name, one of the gate's ``SOURCES``.
      of: the views whose guides it is made of; of ``context`` the number of an earlier pass.
    """

    source: str
    of: tuple[int, ...] = ()


class Pass(NamedTuple):
    """One look of a gate at the local map of a view.

    Args:
      view: whose local map is attended to.
      asks: the sources of the query.
      role: tells gates apart that look at one view.
      after: another view that the look is due to: the gate is that view's, and without that view
        there is no look.
      kept: whether the context is classified, or only asks in a later pass.
    """

    view: int
    asks: tuple[Ask, ...] = ()
    role: str = ""
    after: int | None = None
    kept: bool = True


Passes = tuple[Pass, ...]


class Relation(NamedTuple):
    """How the views of a case attend to each other.

    Args:
      passes: the passes over so many views, in their order.
      query: what else asks in each pass, unless ``--query`` says so.
      views: how many a case must have.
    """

    passes: Callable[[int], Passes]
    query: tuple[str, ...] = ()
    views: int = 2


def _each_by_others(source: str) -> Callable[[int], Passes]:
    def passes(views: int) -> Passes:
        everyone = range(views)
        others = (tuple(j for j in everyone if j != i) for i in everyone)
        return tuple(Pass(i, (Ask(source, of),)) for i, of in enumerate(others))

    return passes


def _alternating(views: int) -> Passes:
    onwards = tuple(Pass(i, (Ask("context", (i - 1,)),)) for i in range(1, views))
    return (Pass(0, kept=False), *onwards, Pass(0, (Ask("context", (views - 1,)),)))


def _rotatory(views: int) -> Passes:
    around = tuple(Pass(j, (Ask("others", (0,)),)) for j in range(1, views))
    target = (Pass(0, (Ask("context", (j - 1,)),), "target", after=j) for j in range(1, views))
    return (*around, *target)


RELATIONS: dict[str, Relation] = {
    # Each view by itself: the article, for one view.
    "own": Relation(lambda views: tuple(map(Pass, range(views))), query=("guide",), views=1),
    # Equations 10 and 11: each view by the mean of the others.
    "interactive": Relation(_each_by_others("others")),
    # Equations 12, 14 and 15: each location by its affinity with the others' locations.
    "parallel": Relation(_each_by_others("affinity")),
    # Equations 7 to 9: each view by what was found in the one before, the first one last again.
    "alternating": Relation(_alternating),
    # Equations 17 to 20: each view by the mean of the first, then the first once by each context.
    "rotatory": Relation(_rotatory),
}


class CaseMaps(NamedTuple):
    """What passes read at one gate.

    Args:
      local: the map that is attended to, of each view.
      guides: the map that guides, of each view.
      present: which views a case has; None for all. The first one is always there.
      meta: the embedded metadata; None without.
      deeper: what the next deeper gate pooled in each pass; None where it does not ask.
    """

    local: Float[Array, "b v h w c"]
    guides: Float[Array, "b v hg wg cg"]
    present: Bool[Array, "b v"] | None = None
    meta: Float[Array, "b m"] | None = None
    deeper: Sequence[Float[Array, "b *g cd"]] | None = None


def run_passes(
    passes: Passes,
    gates: Sequence[AttentionGate],
    maps: CaseMaps,
    keys: Sequence[Key[Array, ""] | None],
) -> list[GateOutput]:
    """Returns the output of each pass, by the gate and the key of the same place.

    What is asked of a missing view is zero; its context, where it is to ask in turn, is the one
    that asked for it: a case with a missing view is the shorter case.
    """
    outputs: list[GateOutput] = []
    contexts: list[Array] = []
    for number, (look, gate) in enumerate(zip(passes, gates, strict=True)):
        query = {ask.source: _array(ask, maps, contexts, number) for ask in look.asks}
        out = gate(maps.local[:, look.view], query, key=keys[number])
        there = None if maps.present is None else present_in(maps.present, look)
        outputs.append(out if there is None else _only_where(there, out))
        before = query.get("context")
        contexts.append(out.pooled if there is None else _where(there, out.pooled, before))
    return outputs


def present_in(present: Bool[Array, "b v"], look: Pass) -> Bool[Array, "b"]:
    """Returns which cases have all views that a pass needs."""
    there = present[:, look.view]
    return there if look.after is None else there & present[:, look.after]


def _array(ask: Ask, maps: CaseMaps, contexts: Sequence[Array], number: int) -> Array:
    """Returns the array of a source."""
    if ask.source == "guide":
        return maps.guides[:, ask.of[0]]
    if ask.source == "context":
        return contexts[ask.of[0]]
    if ask.source == "meta" and maps.meta is not None:
        return maps.meta
    if ask.source == "deeper" and maps.deeper is not None:
        return maps.deeper[number]
    if ask.source not in ("others", "affinity"):
        raise ValueError(f"nothing was given for the source {ask.source!r} of a query")
    of = np.asarray(ask.of)
    guides = maps.guides[:, of]
    if maps.present is not None:
        guides = jnp.where(maps.present[:, of, None, None, None], guides, 0)
    b, views, h, w, c = guides.shape
    locations = guides.reshape(b, views * h * w, c)
    if ask.source == "affinity":
        return locations  # a location of zeros adds nothing to the sum over them
    total = locations.sum(1, dtype=jnp.promote_types(locations.dtype, jnp.float32))
    count = views if maps.present is None else maps.present[:, of].sum(1, keepdims=True)
    return total / (jnp.maximum(count, 1) * h * w)


def _where(there: Bool[Array, "b"], x: Array, other: Array | None = None) -> Array:
    return jnp.where(there.reshape(-1, *[1] * (x.ndim - 1)), x, 0 if other is None else other)


def _only_where(there: Bool[Array, "b"], out: GateOutput) -> GateOutput:
    return jax.tree.map(lambda x: _where(there, x), out)
