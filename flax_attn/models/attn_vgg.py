"""AttnVGG: a VGG, or another backbone, with attention gates in place of its dense layers."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from flax_attn.attention import (
    SCORES,
    AttentionGate,
    GateOutput,
    SelfAttention,
    alignment_of,
    check_asked,
    merge_heads,
    overlap,
    region_map,
)
from flax_attn.attention.queries import (
    deeper_gates,
    every_pass,
    gate_name,
    gates_at,
    map_name,
    relation_passes,
    view_count,
)
from flax_attn.attention.relations import CaseMaps, present_in, run_passes
from flax_attn.config import ModelConfig, entry
from flax_attn.models.backbone import Features, without_views
from flax_attn.models.cases import (
    MetaEmbedding,
    by_view,
    embeds_meta,
    mean_of_views,
    merge_views,
    only_present,
    view_gate,
)
from flax_attn.models.network import (
    VIEWS,
    AttnOutput,
    Network,
    Policy,
    channels,
    global_average,
    linear,
    projected_in,
)

# The outputs of every pass at a gate, by the gate's feature map.
Found = dict[str, list[GateOutput]]


class AttnVGG(Network):
    """A backbone (by default VGG16_bn) with attention gates and a linear classifier.

    pool-3 and pool-4 (``gates``) are attended under the guidance of pool-5 and pooled; pool-5
    is averaged; the vectors, concatenated in the order pool-5, pool-3, pool-4, are classified.
    Source: Yan, Kawahara and Hamarneh (2019), figure 1; the article's AttnVGG.

    ``per_class`` gives each class gates of its own, and its logit their vectors alone;
    ``self_attention`` refines pool-5 before it guides and is averaged. Of another backbone these
    are the maps that its ``Family`` names: layer-2, layer-3 and layer-4 of a ResNet.

    A case may show several pictures (``view_names``) and have metadata (``meta_features``):
    ``relation`` and ``query`` say what asks the gates, ``levels`` whether deeper gates ask the
    others, ``view_merge`` how the vectors of the pictures join (docs/attention.md).
    """

    takes_cases = True

    @classmethod
    def taps(cls, config: ModelConfig) -> tuple[str, ...]:
        return (*config.gates, config.row.family.guide)

    def add_head(self, config: ModelConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        check_asked(config)
        self.config = config
        self.gated = config.gates
        self.guide = guide = config.row.family.guide
        self.classes = num_classes if config.per_class else 1
        self.heads = config.heads
        self.head_merge = config.head_merge
        widths = channels(config)
        alignment = alignment_of(config)
        self.gates = nnx.Dict(
            {
                name: AttentionGate(
                    local_features=widths[tap],
                    sources=sources,
                    attn_features=config.attn_features,
                    score=entry(SCORES, config.score, "score")(),
                    alignment=alignment,
                    groups=self.classes * self.heads,
                    per_channel=config.attn_dims == "multi",
                    hops=config.hops,
                    dtype=projected_in(config),
                    rngs=rngs,
                )
                for tap in config.gates
                for name, sources in gates_at(tap, widths, config).items()
            }
        )
        self.classifier = linear(self._joined_features(), num_classes, rngs)
        self.self_attention = (
            SelfAttention(
                widths[guide],
                attn_features=config.attn_features,
                dtype=projected_in(config),
                rngs=rngs,
            )
            if config.self_attention
            else None
        )
        self.samples = alignment.sample is not None
        self.sums_to_one = alignment.sums_to_one
        self.baseline = linear(widths[guide], 1, rngs) if alignment.policy_gradient else None
        self.embed = MetaEmbedding(config, rngs=rngs) if embeds_meta(config) else None
        merged = self._view_features(0)
        self.view_gate = (
            view_gate(config, merged, rngs=rngs) if config.view_merge == "attend" else None
        )

    def classify(
        self,
        features: Features,
        *,
        train: bool,
        key: Key[Array, ""] | None = None,
        meta: Float[Array, "b m"] | None = None,
        present: Bool[Array, "b v"] | None = None,
    ) -> AttnOutput:
        config = self.config
        dropout_key, gate_keys = self._keys(key, train=train)
        guides = by_view(features.take(self.guide), view_count(config))
        if self.self_attention is not None:
            guides = self.self_attention(without_views(guides)).reshape(guides.shape)
        embedded = None if self.embed is None else self.embed(meta)
        found = self._attend(features, guides, present, embedded, gate_keys)
        by_name = self._vectors(guides, found, present)
        views = [self._join(list(vectors.values())) for vectors in by_name]
        attention = self._named({tap: [o.attention for o in found[tap]] for tap in self.gated})
        if self.view_gate is None:
            joined = self._join(views)
        else:
            joined, attention[VIEWS] = merge_views(self.view_gate, views, present, embedded)
        if embedded is not None and config.meta_into != "query":
            joined = self._join([joined, embedded])
        every = [out for outputs in found.values() for out in outputs]
        return AttnOutput(
            logits=self._logits(self.drop(joined, dropout_key, train=train)),
            attention=attention,
            pooled={name: vector for vectors in by_name for name, vector in vectors.items()},
            features=features,
            policy=self._policy(every, guides, present),
            overlap=None if self.heads == 1 else self._overlap(found, present),
            soft=self._named({tap: [o.soft for o in found[tap]] for tap in self.gated}) or None,
        )

    def region_maps(self, output: AttnOutput) -> dict[str, Float[Array, "b k g _ _"]]:
        """Returns each gate's maps as masks teach them (``region_map``), by class and head.

        A map that was drawn has no gradient; what it was drawn from takes its place.
        """
        maps = output.soft or output.attention
        return {
            name: region_map(
                m.reshape(m.shape[0], self.classes, self.heads, *m.shape[-2:]),
                sums_to_one=self.sums_to_one,
            )
            for name, m in maps.items()
            if name != VIEWS
        }

    def _keys(
        self, key: Key[Array, ""] | None, *, train: bool
    ) -> tuple[Key[Array, ""] | None, dict[str, Sequence[Key[Array, ""] | None]]]:
        """Returns a key for dropout and, where the alignment draws weights, one for each pass."""
        if key is None and train and self.samples:
            raise ValueError("an alignment that samples needs a key in training, got None")
        passes = len(every_pass(self.config))
        if key is None or not train:
            return None, dict.fromkeys(self.gated, [None] * passes)
        keys = jax.random.split(key, 1 + passes * len(self.gated))
        return keys[0], {
            tap: list(keys[1 + i * passes : 1 + (i + 1) * passes])
            for i, tap in enumerate(self.gated)
        }

    def _attend(
        self,
        features: Features,
        guides: Float[Array, "b v h w c"],
        present: Bool[Array, "b v"] | None,
        meta: Float[Array, "b d"] | None,
        keys: dict[str, Sequence[Key[Array, ""] | None]],
    ) -> Found:
        config, found = self.config, Found()
        for tap, deeper in deeper_gates(config).items():
            local = by_view(features.take(tap), view_count(config))
            outputs: list[GateOutput] = []
            for name, passes in relation_passes(config, deeper=deeper is not None):
                part = slice(len(outputs), len(outputs) + len(passes))
                asked = None if deeper is None else [o.pooled for o in found[deeper][part]]
                gates = [self.gates[gate_name(tap, name, look, config)] for look in passes]
                maps = CaseMaps(local, guides, present, meta, asked)
                outputs += run_passes(passes, gates, maps, keys[tap][part])
            found[tap] = outputs
        return found

    def _vectors(
        self,
        guides: Float[Array, "b v h w c"],
        found: Found,
        present: Bool[Array, "b v"] | None,
    ) -> list[dict[str, Float[Array, "b ..."]]]:
        """Returns the vectors of each view by name; those of a missing view are zero."""
        looks = every_pass(self.config)
        names = self.config.all_views
        views = []
        for view in range(view_count(self.config)):
            average = only_present(present, view, global_average(guides[:, view]))
            vectors = {f"{names[view]} {self.guide}" if len(names) > 1 else self.guide: average}
            for tap in self.gated:
                for (relation, look), out in zip(looks, found[tap], strict=True):
                    if look.kept and look.view == view:
                        name = map_name(tap, relation, look, self.config)
                        vectors[name] = self._merge(out.pooled)
            views.append(vectors)
        return views

    def _named(self, found: dict[str, list[Array | None]]) -> dict[str, Float[Array, "b *k _ _"]]:
        """Returns the maps of the passes that are classified, by name, as ``_maps`` splits them."""
        looks = every_pass(self.config)
        return {
            map_name(tap, relation, look, self.config): self._maps(value)
            for tap, values in found.items()
            for (relation, look), value in zip(looks, values, strict=True)
            if look.kept and value is not None
        }

    def _view_features(self, view: int) -> int:
        """Returns the size of a view's vectors together."""
        widths = channels(self.config)
        copies = self.heads if self.head_merge == "concat" else 1
        looks = sum(look.kept and look.view == view for _, look in every_pass(self.config))
        return widths[self.guide] + looks * copies * sum(widths[tap] for tap in self.gated)

    def _joined_features(self) -> int:
        """Returns the size of what the classifier reads."""
        config = self.config
        views = 1 if config.view_merge == "attend" else view_count(config)
        meta = config.attn_features if embeds_meta(config) and config.meta_into != "query" else 0
        return sum(map(self._view_features, range(views))) + meta

    def _merge(self, pooled: Float[Array, "b *g c"]) -> Float[Array, "b *k d"]:
        """Merges the heads into one vector, or one for each class where classes have gates."""
        if self.heads == 1:
            return pooled
        grouped = pooled.reshape(pooled.shape[0], self.classes, self.heads, -1)
        merged = merge_heads(grouped, self.head_merge)
        return merged if self.classes > 1 else merged[:, 0]

    def _join(self, vectors: Sequence[Float[Array, "b ..."]]) -> Float[Array, "b *k f"]:
        """Concatenates vectors; one that classes share goes to each that has vectors of its own."""
        if self.classes > 1:
            vectors = [
                jnp.broadcast_to(v[:, None], (v.shape[0], self.classes, v.shape[-1]))
                if v.ndim == 2
                else v
                for v in vectors
            ]
        return jnp.concatenate(vectors, axis=-1)

    def _logits(self, joined: Float[Array, "b *k f"]) -> Float[Array, "b k"]:
        if self.classes == 1:
            return self.classifier(joined)
        # Class k reads its own vector: the diagonal of the classifier's logits for all vectors.
        return jnp.diagonal(self.classifier(joined), axis1=-2, axis2=-1)

    def _maps(self, attention: Float[Array, "b *g h w"]) -> Float[Array, "b *k h w"]:
        """Splits the groups' axis into classes and heads; leaves out an axis of size one."""
        b, *_, h, w = attention.shape
        groups = [size for size in (self.classes, self.heads) if size > 1]
        return attention.reshape(b, *groups, h, w)

    def _overlap(self, found: Found, present: Bool[Array, "b v"] | None) -> Float[Array, "b"]:
        """Returns the mean overlap of the heads over all passes that a case has the views for."""
        passes = [
            (look, self._maps(out.attention))
            for outputs in found.values()
            for (_, look), out in zip(every_pass(self.config), outputs, strict=True)
        ]
        each = jnp.stack([overlap(m).reshape(m.shape[0], -1).mean(-1) for _, m in passes])
        if present is None:
            return each.mean(0)
        there = jnp.stack([present_in(present, look) for look, _ in passes])
        # A case may have the views for no pass at all.
        return (each * there).sum(0) / jnp.maximum(there.sum(0), 1)

    def _policy(
        self,
        outputs: list[GateOutput],
        guides: Float[Array, "b v h w c"],
        present: Bool[Array, "b v"] | None,
    ) -> Policy | None:
        drawn = [out.log_prob for out in outputs if out.log_prob is not None]
        if self.baseline is None or not drawn:
            return None
        # Fitting the baseline must not change the features that it reads.
        read = jax.lax.stop_gradient(mean_of_views(guides, present))
        return Policy(jnp.stack(drawn).sum(0), self.baseline(read)[:, 0])
