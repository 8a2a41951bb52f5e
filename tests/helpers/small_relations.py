"""The gates of one relation at one feature map, small enough to be tried in great number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from flax_attn.attention import ALIGNMENTS, SCORES, AttentionGate
from flax_attn.attention.alignments import Alignment
from flax_attn.attention.gate import GateOutput
from flax_attn.attention.queries import gate_name, gates_at, relation_passes
from flax_attn.attention.relations import CaseMaps, Passes, run_passes
from flax_attn.attention.scores import Score
from flax_attn.config import ModelConfig
from flax_attn.models import functional
from flax_attn.models.network import channels

B, C, CG, D, SIDE = 2, 5, 6, 4, 3
TAP = "pool4"
NAMES = ("left", "centre", "right", "back")


class Gates(NamedTuple):
    """The passes of a relation, the name of each one's gate, and the gates' arrays by path."""

    passes: Passes
    names: Sequence[str]
    structure: Any
    params: functional.Arrays

    def run(
        self, params: functional.Arrays, maps: CaseMaps, key: jax.Array | None = None
    ) -> list[GateOutput]:
        """Runs the relation with these arrays."""
        gates = functional.merge(self.structure, params, {})
        count = len(self.passes)
        keys = [None] * count if key is None else list(jax.random.split(key, count))
        return run_passes(self.passes, [gates[name] for name in self.names], maps, keys)


def build(
    relation: str,
    *,
    views: int = 3,
    alike: bool = False,
    query: tuple[str, ...] | None = None,
    score: Score | None = None,
    alignment: Alignment | None = None,
    **settings: Any,
) -> Gates:
    """Builds the gates of a relation, additive with softmax unless said otherwise."""
    config = ModelConfig(
        relation=(relation,),
        view_names=NAMES[:views] if views > 1 else (),
        views_alike=alike,
        query=query,
        gates=(TAP,),
        widths=(1, 1, 1, C, CG),
        attn_features=D,
    )
    ((_, passes),) = relation_passes(config)

    def gates() -> nnx.Dict:
        return nnx.Dict(
            {
                name: AttentionGate(
                    local_features=C,
                    sources=sources,
                    attn_features=D,
                    score=score or SCORES["additive"](),
                    alignment=alignment or ALIGNMENTS["softmax"](),
                    rngs=nnx.Rngs(0),
                    **settings,
                )
                for name, sources in gates_at(TAP, channels(config), config).items()
            }
        )

    structure, params, _ = functional.abstract(gates)
    names = [gate_name(TAP, relation, look, config) for look in passes]
    return Gates(passes, names, structure, draw(params))


def draw(params: functional.Arrays, seed: int = 0) -> functional.Arrays:
    """Draws arrays of these shapes: none starts at zero, where a wrong term would hide.

    Not as a network does, which compiles a program for each shape.
    """
    rng = np.random.default_rng(seed)
    return {
        path: rng.normal(0.1, 0.5, array.shape).astype(np.float32)
        for path, array in sorted(params.items())
    }


def case_maps(views: int = 3, *, seed: int = 0, side: int = SIDE, **more: Any) -> CaseMaps:
    """Returns maps of cases; the guide is of the local map's size, so that nothing is enlarged."""
    rng = np.random.default_rng(seed)
    local = rng.normal(size=(B, views, side, side, C))
    return CaseMaps(local, rng.normal(size=(B, views, side, side, CG)), **more)


def of_gate(params: functional.Arrays, name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of one gate, in float64, by their paths within it."""
    start = f"{name}/"
    return {
        path.removeprefix(start): np.asarray(array, np.float64)
        for path, array in params.items()
        if path.startswith(start)
    }
