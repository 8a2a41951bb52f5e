"""Settings of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flax_attn.config.setting import NOT_REPRODUCE, TRAIN, TRAINING, setting

# VGG16, configuration D of Simonyan and Zisserman (2015).
VGG16_WIDTHS = (64, 128, 256, 512, 512)
VGG16_DEPTHS = (2, 2, 3, 3, 3)

GATED = ("pool2", "pool3", "pool4")

Estimator = Literal["score_function", "straight_through"]
AttnDims = Literal["single", "multi"]
HeadMerge = Literal["concat", "mean"]


@dataclass(frozen=True)
class ModelConfig:
    """The network: its attention, its size, and the arithmetic it computes in."""

    model: str = setting("attn_vgg", "network", commands=TRAIN)
    norm: str = setting("sigmoid", "alignment of the attention scores", commands=TRAIN)
    score: str = setting("gate", "attention score", commands=TRAIN)
    attn_features: int = setting(256, "size of the attention projections", low=1)
    temperature: float | None = setting(
        None,
        "divides the scores: sharper below 1, flatter above (default: 1; not sigmoid)",
        commands=NOT_REPRODUCE,
    )
    window: float | None = setting(
        None,
        "window of local and sigmoid_softmax, as a share of the map's longer side",
        commands=NOT_REPRODUCE,
    )
    estimator: Estimator | None = setting(
        None, "gradient of hard attention (default: score_function)", commands=NOT_REPRODUCE
    )
    attn_dims: AttnDims = setting(
        "single",
        "weights of a location: one for all channels, or one for each channel",
        commands=NOT_REPRODUCE,
    )
    heads: int = setting(1, "attention maps of each gate", low=1, commands=NOT_REPRODUCE)
    head_merge: HeadMerge = setting("concat", "how the heads' vectors join", commands=NOT_REPRODUCE)
    hops: int = setting(
        1,
        "rounds of attention, each refining the query of the next",
        low=1,
        commands=NOT_REPRODUCE,
    )
    per_class: bool = setting(False, "gates of its own for each class", commands=NOT_REPRODUCE)
    self_attention: bool = setting(
        False, "self-attention over pool-5, before it guides", commands=NOT_REPRODUCE
    )
    gates: tuple[str, ...] = setting(
        ("pool3", "pool4"), "feature maps with a gate", commands=NOT_REPRODUCE
    )
    dropout: float | None = setting(
        None,
        "dropout rate before the classifier (default: 0.5 in vgg16_bn, 0 elsewhere)",
        low=0,
        high=0.99,
    )
    widths: tuple[int, ...] = setting(
        VGG16_WIDTHS, "channels of the five stages", commands=(*TRAINING, "port")
    )
    depths: tuple[int, ...] = setting(
        VGG16_DEPTHS, "convolutions in the five stages", commands=(*TRAINING, "port")
    )
    hidden: int = setting(4096, "width of vgg16_bn's dense layers", low=1)
    conv: Literal["auto", "exact"] = setting(
        "auto", "convolutions: the fastest known for the device, or XLA's own"
    )
    precision: Literal["f32", "bf16"] = setting(
        "f32", "arithmetic of convolutions and projections; all else is float32"
    )
    remat: bool = setting(
        False, "compute the backbone's activations again instead of keeping them: less memory"
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
    meta_features: int = setting(
        0, "numbers in the metadata of a case", low=0, decides="measured", commands=()
    )


def gated(model: ModelConfig) -> tuple[str, ...]:
    """Returns the feature maps that a network has a gate at; none of a network without gates."""
    return model.gates if model.model == "attn_vgg" else ()
