"""The parts that every network shares: a backbone, a head that reads its maps, and the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key, UInt8

from flax_attn.config import ModelConfig, check_depths, parse_views, validate_model
from flax_attn.errors import UsageError
from flax_attn.models.backbone import AnyArray, Features, StagedBackbone, without_views
from flax_attn.models.derived import derive_views
from flax_attn.models.recompute import staged_features
from flax_attn.models.resnet import ResNet
from flax_attn.models.vgg import VGG
from flax_attn.ops.images import IMAGENET, PixelScale, require_bytes, standardize
from flax_attn.ops.initial_values import normal

# The name of the weights of a case's pictures among the maps: a map of one row for each class.
VIEWS = "views"

# What builds the backbones of each family.
BUILDERS: dict[str, type[StagedBackbone]] = {kind.family.name: kind for kind in (VGG, ResNet)}

classifier_init = normal(0.01)


class Policy(NamedTuple):
    """The inputs of the score-function estimator, for alignments that draw their weights.

    ``log_prob`` is that of all draws for an image, in nats; ``baseline`` is a prediction of
    its loss.
    """

    log_prob: Float[Array, "b"]
    baseline: Float[Array, "b"]


class AttnOutput(NamedTuple):
    """The output of a network for a batch; unused parts cost nothing under jit.

    Axes for the classes (``per_class``) and the heads stand before those of maps and vectors, in
    that order, where there are several.

    Args:
      logits: of each class or label.
      attention: a map for each gate, by feature map; empty for networks without gates. Of cases of
        several pictures one for each picture, such as "clinic pool3", zero where it is missing; and
        their weights, a map of one row without an axis for heads, as "views", where a gate joins
        them.
      pooled: the vectors that the classifier reads, by feature map.
      features: the maps of the backbone.
      policy: for the score-function estimator; None where no draw is to be learned from.
      overlap: the similarity of the heads' maps, in [0, 1]; None for a single head.
      soft: what drawn maps were drawn from, in the form of ``attention``; None without a draw.
    """

    logits: Float[Array, "b k"]
    attention: dict[str, Float[Array, "b *g _ _"]]
    pooled: dict[str, Float[Array, "b ..."]]
    features: Features
    policy: Policy | None = None
    overlap: Float[Array, "b"] | None = None
    soft: dict[str, Float[Array, "b *g _ _"]] | None = None


class Network(nnx.Module):
    """A backbone and a head that reads some of its feature maps (``taps``).

    Args:
      config: the settings; by default those of the article.
      num_classes: how many logits there are.
      rngs: whose ``params`` stream the initial values are drawn from.
      settings: fields of ``ModelConfig`` that replace the configuration's, such as ``backbone``,
        ``norm``, ``score``, ``gates`` or ``heads``.

    Raises:
      TypeError: a name that is no setting of a network.
      UsageError: a value outside its range, or settings that exclude each other.
    """

    backbone: StagedBackbone
    dropout: float
    precision: str = "f32"
    remat: bool = False
    # What ``--views`` named.
    views: str | None = None
    # Whether it takes cases of several pictures, and metadata.
    takes_cases = False

    @classmethod
    def taps(cls, config: ModelConfig) -> tuple[str, ...]:
        """Returns the names of the feature maps that the head of this configuration reads."""
        raise NotImplementedError

    def __init__(
        self,
        config: ModelConfig | None = None,
        num_classes: int = 2,
        *,
        rngs: nnx.Rngs,
        **settings: Any,
    ):
        config = configured(config, settings)
        if not self.takes_cases and (len(config.all_views) > 1 or config.meta_features):
            raise UsageError(
                f"--model {config.model} takes single pictures without metadata: choose attn_vgg"
            )
        self.views = config.views
        self.backbone = backbone(config, rngs)
        self.dropout = config.dropout or 0.0
        self.precision = config.precision
        self.remat = config.remat
        self.add_head(config, num_classes, rngs=rngs)

    def add_head(self, config: ModelConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        """Makes the layers that ``classify`` applies."""
        raise NotImplementedError

    def normalize(self, image: UInt8[AnyArray, "b *v h w 3"]) -> Float[Array, "b *u h w 3"]:
        """Returns bytes as the normalised images that this network takes.

        Of single pictures these are the views that it derives from them, where it does (``views``);
        what has an axis for views already has been derived.
        """
        derived = parse_views(self.views)
        if image.ndim == 5 or not derived.views:
            return self.backbone.normalize(image)
        require_bytes(image)
        return standardize(derive_views(image, derived), scale=self.backbone.pixels)

    def features(self, image: Float[Array, "b *v h w 3"], *, train: bool) -> Features:
        """Computes the maps of normalised images; ``train`` normalises by the batch.

        Those of cases of several pictures have their axis; the batch is then that of all pictures.
        They are bfloat16 under ``precision`` bf16; a head takes either type.
        """
        if image.ndim == 5:
            return self.features(without_views(image), train=train).of_cases(*image.shape[:2])
        if self.precision == "bf16":
            image = image.astype(jnp.bfloat16)
        if train and self.remat:
            return staged_features(self.backbone, image)
        return self.backbone(image, train=train)

    def classify(
        self,
        features: Features,
        *,
        train: bool,
        key: Key[Array, ""] | None = None,
        meta: Float[Array, "b m"] | None = None,
        present: Bool[Array, "b v"] | None = None,
    ) -> AttnOutput:
        """Classifies from feature maps; ``key`` feeds dropout and drawn weights in training.

        ``meta`` are the metadata of each case, and ``present`` says which of its pictures it has;
        the first one is always there. What stands in the place of a missing one is not looked at.
        """
        raise NotImplementedError

    def region_maps(self, output: AttnOutput) -> dict[str, Float[Array, "b k g _ _"]]:
        """Returns the maps that masks of objects can teach, in [0, 1], of ``classify``'s output.

        k counts the classes that have maps of their own, or is 1; g counts the heads. A network
        without gates has none.
        """
        return {}

    def __call__(
        self,
        image: Float[Array, "b *v h w 3"],
        *,
        train: bool,
        key: Key[Array, ""] | None = None,
        meta: Float[Array, "b m"] | None = None,
        present: Bool[Array, "b v"] | None = None,
    ) -> AttnOutput:
        """Computes the output for normalised images: ``classify`` of ``features``."""
        features = self.features(image, train=train)
        return self.classify(features, train=train, key=key, meta=meta, present=present)

    def with_activations(
        self,
        image: Float[Array, "b *v h w 3"],
        *,
        perturb: Mapping[str, Float[Array, "_ _ _ _"]] | None = None,
        meta: Float[Array, "b m"] | None = None,
        present: Bool[Array, "b v"] | None = None,
    ) -> tuple[AttnOutput, dict[str, Float[Array, "_ _ _ _"]]]:
        """Evaluates, and returns the last activation of each stage (``StagedBackbone``).

        Activations, and what perturbs them, are those of all pictures one after the other.
        """
        flat = without_views(image) if image.ndim == 5 else image
        features, activations = self.backbone.with_activations(flat, train=False, perturb=perturb)
        if image.ndim == 5:
            features = features.of_cases(*image.shape[:2])
        return self.classify(features, train=False, meta=meta, present=present), activations

    def drop(
        self, x: Float[Array, "b *k c"], key: Key[Array, ""] | None, *, train: bool
    ) -> Float[Array, "b *k c"]:
        """Drops values at the network's dropout rate, in training only.

        Raises:
          ValueError: there is no key in training, and the rate is not 0.
        """
        if not train or self.dropout == 0:
            return x
        if key is None:
            raise ValueError("dropout needs a key in training, got None")
        keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
        return jnp.where(keep, x / (1 - self.dropout), 0)


def configured(config: ModelConfig | None, settings: Mapping[str, Any]) -> ModelConfig:
    """Returns a configuration (the default one for None) with some settings replaced.

    Raises:
      TypeError: a name that is no setting of a network.
      UsageError: a value outside its range, or settings that exclude each other.
    """
    known = {f.name for f in fields(ModelConfig)}
    if unknown := settings.keys() - known:
        raise TypeError(
            f"no setting {', '.join(sorted(unknown))} of a network; there are "
            f"{', '.join(sorted(known))}"
        )
    check_depths(settings)
    config = (config or ModelConfig()).replaced(**settings)
    validate_model(config)
    return config


def linear(
    in_features: int, features: int, rngs: nnx.Rngs, *, dtype: DTypeLike | None = None
) -> nnx.Linear:
    """Returns a linear layer of a classifier, drawn from N(0, 0.01²), its product in ``dtype``."""
    return nnx.Linear(in_features, features, dtype=dtype, kernel_init=classifier_init, rngs=rngs)


def projected_in(config: ModelConfig) -> DTypeLike | None:
    """Returns the dtype of products before scores and logits; None takes the inputs'."""
    return jnp.bfloat16 if config.precision == "bf16" else None


def global_average(x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """Averages over all locations, in at least float32."""
    return x.mean((-3, -2), dtype=jnp.promote_types(x.dtype, jnp.float32))


def backbone(config: ModelConfig, rngs: nnx.Rngs) -> StagedBackbone:
    """Builds the backbone of a configuration."""
    return BUILDERS[config.row.family.name].of(config, pixels=pixel_scale(config), rngs=rngs)


def pixel_scale(config: ModelConfig) -> PixelScale:
    """Returns the scale by which a network's images are normalised."""
    if config.pixel_mean is None or config.pixel_std is None:
        return IMAGENET
    (r, g, b), (dr, dg, db) = config.pixel_mean, config.pixel_std
    return PixelScale((r, g, b), (dr, dg, db))


def channels(config: ModelConfig) -> dict[str, int]:
    """Returns the number of channels of each map, by name."""
    widths = (width * config.row.expansion for width in config.widths)
    return dict(zip(config.row.family.maps, widths, strict=True))


def named_maps(
    attention: Mapping[str, Any], config: ModelConfig, classes: Sequence[str]
) -> dict[str, Float[np.ndarray, "b _ _"]]:
    """Returns the maps of ``AttnOutput.attention`` by names that tell class and head.

    Names are those of the feature maps, followed by the class and the head where there are
    several: "pool3", "pool3 cat", "pool3 head 2", "pool3 cat head 2".
    """
    of_class = [f" {name}" for name in classes] if config.per_class and len(classes) > 1 else [""]
    of_head = [f" head {i}" for i in range(1, config.heads + 1)] if config.heads > 1 else [""]
    maps = {}
    for gate, value in attention.items():
        each = np.asarray(value)
        heads = of_head if gate != VIEWS else [""]
        each = each.reshape(len(each), len(of_class), len(heads), *each.shape[-2:])
        for i, j in product(range(len(of_class)), range(len(heads))):
            maps[gate + of_class[i] + heads[j]] = each[:, i, j]
    return maps
