"""Settings of the network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from flax_attn.config.backbones import BACKBONES, Backbone, each_family
from flax_attn.config.derived_views import parse_views
from flax_attn.config.setting import GIVEN, NOT_REPRODUCE, TRAIN, TRAINING, UNFROZEN, entry, setting

Estimator = Literal["score_function", "straight_through"]
AttnDims = Literal["single", "multi"]
HeadMerge = Literal["concat", "mean"]
Levels = Literal["apart", "via"]
ViewMerge = Literal["concat", "attend"]
MetaInto = Literal["query", "classifier", "both"]

# Of settings of the gates, which the networks beside AttnVGG have not.
GATED = {"model": "attn_vgg"}


@dataclass(frozen=True)
class ModelConfig:
    """The network: its attention, its size, and the arithmetic it computes in."""

    model: str = setting("attn_vgg", "network", commands=TRAIN)
    backbone: str = setting(
        "vgg16_bn",
        "backbone of the network: a VGG, with batch normalisation (_bn) or without, or a ResNet",
        commands=(*TRAINING, "port"),
    )
    norm: str = setting(
        "sigmoid", "alignment of the attention scores", commands=TRAIN, only_with=GATED
    )
    score: str = setting("gate", "attention score", commands=TRAIN, only_with=GATED)
    attn_features: int = setting(256, "size of the attention projections", low=1, only_with=GATED)
    temperature: float | None = setting(
        None,
        "divides the scores: sharper below 1, flatter above (default: 1; not sigmoid)",
        commands=NOT_REPRODUCE,
        only_with=GATED,
    )
    window: float | None = setting(
        None,
        "window of local and sigmoid_softmax, as a share of the map's longer side",
        commands=NOT_REPRODUCE,
        only_with=GATED,
    )
    estimator: Estimator | None = setting(
        None,
        "gradient of hard attention (default: score_function)",
        commands=NOT_REPRODUCE,
        only_with=GATED,
    )
    attn_dims: AttnDims = setting(
        "single",
        "weights of a location: one for all channels, or one for each channel",
        commands=NOT_REPRODUCE,
        only_with=GATED,
    )
    heads: int = setting(
        1, "attention maps of each gate", low=1, commands=NOT_REPRODUCE, only_with=GATED
    )
    head_merge: HeadMerge = setting(
        "concat", "how the heads' vectors join", commands=NOT_REPRODUCE, only_with={"heads": GIVEN}
    )
    hops: int = setting(
        1,
        "rounds of attention, each refining the query of the next",
        low=1,
        commands=NOT_REPRODUCE,
        only_with=GATED,
    )
    per_class: bool = setting(
        False, "gates of its own for each class", commands=NOT_REPRODUCE, only_with=GATED
    )
    self_attention: bool = setting(
        False,
        "self-attention over the last map, before it guides",
        commands=NOT_REPRODUCE,
        only_with=GATED,
    )
    gates: tuple[str, ...] = setting(
        None,
        f"feature maps with a gate (default: {each_family('gates')})",
        commands=NOT_REPRODUCE,
        only_with=GATED,
    )
    relation: tuple[str, ...] = setting(
        ("own",),
        "how the pictures of a case attend to each other: own, interactive, parallel, alternating, "
        "rotatory, or several side by side",
        commands=TRAIN,
        only_with=GATED,
    )
    query: tuple[str, ...] | None = setting(
        None,
        "what asks the gates beside the relation: guide, learned, meta, or none (default: guide "
        "for own, else none; and meta where cases have metadata)",
        commands=TRAIN,
        only_with=GATED,
    )
    levels: Levels = setting(
        "apart",
        "gates apart, or via: each asked by what the next deeper one found",
        commands=NOT_REPRODUCE,
        only_with=GATED,
    )
    views: str | None = setting(
        None,
        "views that are made of each picture on the device: crops:N, an N x N grid that overlaps; "
        "scales:N, the whole and its centre ever larger; or some of rgb,lab,edges",
        commands=NOT_REPRODUCE,
        only_with={"model": "attn_vgg"},
    )
    view_merge: ViewMerge = setting(
        "concat",
        "how the vectors of a case's pictures join: concatenated, or attended to by a gate",
        commands=TRAIN,
        only_with=GATED,
    )
    meta_into: MetaInto = setting(
        "query",
        "where metadata of a case go: query, classifier, both",
        commands=NOT_REPRODUCE,
        only_with=GATED,
    )
    dropout: float | None = setting(
        None,
        "dropout rate before the classifier (default: 0.5 in vgg, 0 elsewhere)",
        low=0,
        high=0.99,
    )
    widths: tuple[int, ...] = setting(
        None,
        "channels of the stages (default: those of BACKBONE)",
        commands=(*TRAINING, "port"),
    )
    depths: tuple[int, ...] = setting(
        None,
        "convolutions or blocks in the stages (default: those of BACKBONE)",
        commands=(*TRAINING, "port"),
    )
    hidden: int = setting(
        4096,
        "width of the dense layers of vgg",
        low=1,
        commands=("train", "cross-validate", "reproduce"),
        only_with={"model": "vgg"},
    )
    conv: Literal["auto", "exact"] = setting(
        "auto", "convolutions: the fastest known for the device, or XLA's own"
    )
    precision: Literal["f32", "bf16"] = setting(
        "f32", "arithmetic of convolutions and projections; all else is float32"
    )
    remat: bool = setting(
        False,
        "compute the backbone's activations again instead of keeping them: less memory",
        only_with=UNFROZEN,
    )
    pixel_mean: tuple[float, ...] | None = setting(
        None,
        "mean of red, green and blue in [0, 1] (default: ImageNet's)",
        decides="measured",
        commands=(),
    )
    pixel_std: tuple[float, ...] | None = setting(
        None,
        "standard deviation of red, green and blue in [0, 1] (default: ImageNet's)",
        decides="measured",
        commands=(),
    )
    view_names: tuple[str, ...] = setting(
        (), "the pictures of a case (default: one)", decides="measured", commands=()
    )
    views_alike: bool = setting(
        False,
        "whether the pictures of a case may take each other's place, and share their gates",
        decides="measured",
        commands=(),
    )
    meta_features: int = setting(
        0, "numbers in the metadata of a case", low=0, decides="measured", commands=()
    )

    def __post_init__(self) -> None:
        for name, own in entry(BACKBONES, self.backbone, "backbone").defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, own)

    @property
    def all_views(self) -> tuple[str, ...]:
        """What a network attends to in a case: its pictures, or the views derived of its only one.

        None is the picture itself.
        """
        return parse_views(self.views).names or self.view_names

    @property
    def share_gates(self) -> bool:
        """Whether the views can take each other's place."""
        return self.views_alike or parse_views(self.views).alike

    @property
    def row(self) -> Backbone:
        """What is told of its backbone."""
        return BACKBONES[self.backbone]

    def replaced(self, **values: Any) -> ModelConfig:
        """Returns a copy with settings replaced; sizes and gates of the backbone's follow it.

        Raises:
          UsageError: there is no backbone of this name.
        """
        own = self.row.defaults.items()
        following = {name: None for name, value in own if getattr(self, name) == value}
        return replace(self, **{**following, **values})


def gated(model: ModelConfig) -> tuple[str, ...]:
    """Returns the feature maps that a network has a gate at; none of a network without gates."""
    return model.gates if model.model == "attn_vgg" else ()
