"""AttnVGG: a VGG, or another backbone, with attention gates in place of its dense layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from flax_attn.attention import (
    SCORES,
    AttentionGate,
    GateOutput,
    SelfAttention,
    alignment_of,
    merge_heads,
    overlap,
    region_map,
)
from flax_attn.config import ModelConfig, entry
from flax_attn.models.backbone import Features
from flax_attn.models.network import (
    AttnOutput,
    Network,
    Policy,
    channels,
    global_average,
    linear,
    projected_in,
)


class AttnVGG(Network):
    """A backbone (by default VGG16_bn) with attention gates and a linear classifier.

    pool-3 and pool-4 (``gates``) are attended under the guidance of pool-5 and pooled; pool-5
    is averaged; the vectors, concatenated in the order pool-5, pool-3, pool-4, are classified.
    Source: Yan, Kawahara and Hamarneh (2019), figure 1; the article's AttnVGG.

    ``per_class`` gives each class gates of its own, and its logit their vectors alone;
    ``self_attention`` refines pool-5 before it guides and is averaged. Of another backbone these
    are the maps that its ``Family`` names: layer-2, layer-3 and layer-4 of a ResNet.
    """

    @classmethod
    def taps(cls, config: ModelConfig) -> tuple[str, ...]:
        return (*config.gates, config.row.family.guide)

    def add_head(self, config: ModelConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
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
                    local_features=widths[name],
                    guide_features=widths[guide],
                    attn_features=config.attn_features,
                    score=entry(SCORES, config.score, "score")(),
                    alignment=alignment,
                    groups=self.classes * self.heads,
                    per_channel=config.attn_dims == "multi",
                    hops=config.hops,
                    dtype=projected_in(config),
                    rngs=rngs,
                )
                for name in config.gates
            }
        )
        copies = self.heads if self.head_merge == "concat" else 1
        joined = widths[guide] + copies * sum(widths[name] for name in config.gates)
        self.classifier = linear(joined, num_classes, rngs)
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

    def classify(
        self, features: Features, *, train: bool, key: Key[Array, ""] | None = None
    ) -> AttnOutput:
        dropout_key, gate_keys = self._keys(key, train=train)
        guide = features.take(self.guide)
        if self.self_attention is not None:
            guide = self.self_attention(guide)
        out = {
            name: self.gates[name](features.take(name), guide, key=gate_keys[name])
            for name in self.gated
        }
        pooled = {self.guide: global_average(guide)}
        for name in out:
            pooled[name] = self._merge(out[name].pooled)
        joined = self.drop(self._join(pooled), dropout_key, train=train)
        return AttnOutput(
            logits=self._logits(joined),
            attention={name: self._maps(o.attention) for name, o in out.items()},
            pooled=pooled,
            features=features,
            policy=self._policy(list(out.values()), pooled[self.guide]),
            overlap=None if self.heads == 1 else self._overlap(list(out.values())),
            soft=self._soft(out),
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
        }

    def _keys(
        self, key: Key[Array, ""] | None, *, train: bool
    ) -> tuple[Key[Array, ""] | None, dict[str, Key[Array, ""] | None]]:
        """Returns a key for dropout and, where the alignment draws weights, one for each gate."""
        if key is None and train and self.samples:
            raise ValueError("an alignment that samples needs a key in training, got None")
        if key is None or not train:
            return None, dict.fromkeys(self.gated)
        keys = jax.random.split(key, 1 + len(self.gated))
        return keys[0], dict(zip(self.gated, keys[1:], strict=True))

    def _merge(self, pooled: Float[Array, "b *g c"]) -> Float[Array, "b *k d"]:
        """Merges the heads into one vector, or one for each class where classes have gates."""
        if self.heads == 1:
            return pooled
        grouped = pooled.reshape(pooled.shape[0], self.classes, self.heads, -1)
        merged = merge_heads(grouped, self.head_merge)
        return merged if self.classes > 1 else merged[:, 0]

    def _join(self, pooled: dict[str, Float[Array, "b ..."]]) -> Float[Array, "b *k f"]:
        vectors = list(pooled.values())
        if self.classes > 1:
            shape = (vectors[0].shape[0], self.classes, vectors[0].shape[-1])
            vectors[0] = jnp.broadcast_to(vectors[0][:, None], shape)
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

    def _soft(self, out: dict[str, GateOutput]) -> dict[str, Float[Array, "b *k _ _"]] | None:
        return {n: self._maps(o.soft) for n, o in out.items() if o.soft is not None} or None

    def _overlap(self, gates: list[GateOutput]) -> Float[Array, "b"]:
        maps = [self._maps(gate.attention) for gate in gates]
        each = [overlap(m).reshape(m.shape[0], -1).mean(-1) for m in maps]
        return jnp.stack(each).mean(0)

    def _policy(self, gates: list[GateOutput], average: Float[Array, "b c"]) -> Policy | None:
        drawn = [gate.log_prob for gate in gates if gate.log_prob is not None]
        if self.baseline is None or not drawn:
            return None
        # Fitting the baseline must not change the features that it reads.
        baseline = self.baseline(jax.lax.stop_gradient(average))[:, 0]
        return Policy(jnp.stack(drawn).sum(0), baseline)
