"""Cases of several pictures and metadata: their axes, and how their vectors join."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from flax_attn.attention import SCORES, AttentionGate, make_alignment
from flax_attn.attention.queries import passes_of_maps, query_of
from flax_attn.attention.relations import present_in
from flax_attn.attention.scores import he_normal_init
from flax_attn.config import ModelConfig, entry
from flax_attn.models.network import VIEWS, global_average, named_maps, projected_in


def by_view(x: Float[Array, "b *v h w c"], views: int) -> Float[Array, "b v h w c"]:
    """Returns maps with an axis for the views, which those of single pictures may lack.

    Raises:
      ValueError: there are not so many views.
    """
    x = x if x.ndim == 5 else x[:, None]
    if x.shape[1] != views:
        raise ValueError(
            f"features: got {x.shape[1]} pictures in a case, expected {views} (of a network with "
            "--views, images go through its own normalize)"
        )
    return x


def only_present(
    present: Bool[Array, "b v"] | None, view: int, x: Float[Array, "b c"]
) -> Float[Array, "b c"]:
    """Returns a view's vectors, zero where the view is missing."""
    return x if present is None else jnp.where(present[:, view, None], x, 0)


def mean_of_views(
    maps: Float[Array, "b v h w c"], present: Bool[Array, "b v"] | None
) -> Float[Array, "b c"]:
    """Returns the mean over all locations of the views that a case has."""
    averages = [global_average(maps[:, view]) for view in range(maps.shape[1])]
    if len(averages) == 1:
        return averages[0]
    each = jnp.stack(averages, axis=1)
    if present is None:
        return each.mean(1)
    return jnp.where(present[..., None], each, 0).sum(1) / present.sum(1, keepdims=True)


def embeds_meta(config: ModelConfig) -> bool:
    """Returns whether a network reads the metadata of its cases."""
    asks = any("meta" in query_of(config, relation) for relation in config.relation)
    return config.meta_features > 0 and (asks or config.meta_into != "query")


class MetaEmbedding(nnx.Module):
    """``relu(W m + b)`` of a case's metadata m; every gate projects it by itself."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.features = config.meta_features
        self.dense = nnx.Linear(
            config.meta_features,
            config.attn_features,
            kernel_init=he_normal_init,
            dtype=projected_in(config),
            rngs=rngs,
        )

    def __call__(self, meta: Float[Array, "b m"] | None) -> Float[Array, "b d"]:
        """Embeds metadata.

        Raises:
          ValueError: there are none, or of another number of features.
        """
        if meta is None or meta.shape[-1] != self.features:
            got = None if meta is None else meta.shape[-1]
            raise ValueError(f"meta: got {got} numbers a case, expected {self.features}")
        return jax.nn.relu(self.dense(meta))


def maps_by_view(
    attention: Mapping[str, Any], config: ModelConfig, classes: Sequence[str]
) -> list[dict[str, Float[np.ndarray, "b _ _"]]]:
    """Returns the maps of each picture of a case as ``named_maps``, without the picture's name.

    Those of networks of single pictures are of the only one.
    """
    if not config.all_views:
        return [named_maps(attention, config, classes)]
    passes = passes_of_maps(config)
    found = []
    for view, word in enumerate(config.all_views):
        kept = {name for name, look in passes.items() if look.view == view}
        own = {name: value for name, value in attention.items() if name in kept}
        maps = named_maps(own, config, classes)
        found.append({name.removeprefix(f"{word} "): value for name, value in maps.items()})
    return found


def maps_there(
    config: ModelConfig, present: Bool[np.ndarray, "b v"]
) -> dict[str, Bool[np.ndarray, "b"]]:
    """Returns for which cases there is each map of ``AttnOutput.attention``, by its name.

    A case has none of a picture that is missing, nor one that such a picture would have asked for:
    what stands in its place is zero, and no map.
    """
    known = jnp.asarray(present)
    passes = passes_of_maps(config).items()
    return {name: np.asarray(present_in(known, look)) for name, look in passes}


def maps_there_by_view(
    config: ModelConfig, classes: Sequence[str], present: Bool[np.ndarray, "b v"]
) -> list[dict[str, Bool[np.ndarray, "b"]]]:
    """Returns ``maps_there`` by the names of ``maps_by_view``."""
    groups = config.heads * (len(classes) if config.per_class and len(classes) > 1 else 1)
    alike = {
        name: np.repeat(there.astype(np.float32)[:, None, None, None], groups, axis=1)
        for name, there in maps_there(config, present).items()
    }
    by_view = maps_by_view(alike, config, classes)
    return [{name: value[:, 0, 0] > 0 for name, value in each.items()} for each in by_view]


def view_weights(
    attention: Mapping[str, Any], probabilities: Float[np.ndarray, "b k"]
) -> Float[np.ndarray, "b v"] | None:
    """Returns the weight of each picture of a case; None where no gate joins the pictures.

    Where classes weigh the pictures by themselves, it is the likeliest class's.
    """
    if VIEWS not in attention:
        return None
    found = np.asarray(attention[VIEWS])
    each = found.reshape(len(found), -1, found.shape[-1])
    likeliest = probabilities.argmax(-1) if each.shape[1] > 1 else np.zeros(len(each), int)
    return each[np.arange(len(each)), likeliest]


def view_gate(config: ModelConfig, features: int, *, rngs: nnx.Rngs) -> AttentionGate:
    """Returns the gate that weighs the views of a case by their vectors of so many features.

    Its query is learned: with the scores ``gate`` and ``additive`` it is the bias of equation 7,
    with others that of equation 34 (Brauwers and Frasincar, 2023). Where metadata ask the other
    gates, they ask this one, too. Weights sum to one, by softmax.
    """
    meta = any("meta" in query_of(config, relation) for relation in config.relation)
    return AttentionGate(
        local_features=features,
        sources={"learned": 1, **({"meta": config.attn_features} if meta else {})},
        attn_features=config.attn_features,
        score=entry(SCORES, config.score, "score")(),
        alignment=make_alignment("softmax"),
        dtype=projected_in(config),
        rngs=rngs,
    )


def merge_views(
    gate: AttentionGate,
    views: Sequence[Float[Array, "b *k f"]],
    present: Bool[Array, "b v"] | None,
    meta: Float[Array, "b d"] | None,
) -> tuple[Float[Array, "b *k f"], Float[Array, "b *k 1 v"]]:
    """Returns the weighted sum of the views' vectors, and the weights as a map of one row.

    Classes that have vectors of their own weigh the views by themselves.
    """
    stacked = jnp.stack(views, axis=-2)  # [b, *k, v, f]
    each = stacked.shape[:-2]
    rows = stacked.reshape(-1, 1, *stacked.shape[-2:])
    copies = math.prod(each[1:])
    query = {}
    if "meta" in gate.sources and meta is not None:
        query["meta"] = jnp.repeat(meta, copies, axis=0)
    mask = None if present is None else jnp.repeat(present, copies, axis=0)[:, None]
    out = gate(rows, query, mask=mask)
    return out.pooled.reshape(*each, -1), out.attention.reshape(*each, 1, -1)
