"""Settings of the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flax_attn.config.setting import GIVEN, NOT_REPRODUCE, TRAIN, TRAINING, UNFROZEN, setting
from flax_attn.config.values import parse_roi_weights

TaskChoice = Literal["auto", "multiclass", "multilabel"]
Loss = Literal["ce", "focal"]
RegionRatio = Literal["batch", "image"]
RegionSide = Literal["object", "background"]
FeatureDtype = Literal["f32", "f16", "u8"]
FeatureOrder = Literal["any", "blocks"]

_TAUGHT = (*TRAIN, "reproduce")  # which teaches the parent paper's networks


@dataclass(frozen=True)
class TrainConfig:
    """The training: its task, length, batches, optimizer, losses and augmentation."""

    task: TaskChoice = setting(
        "multiclass",
        "one of several classes an image, any number of labels, or what the data set has",
        commands=NOT_REPRODUCE,
    )
    epochs: int = setting(20, "passes over the training images", low=1, decides="course")
    batch_size: int = setting(
        32, "images in a step", low=1, decides="order", commands=(*TRAINING, "eval")
    )
    accumulate: int = setting(
        1, "parts a step's batch is computed in, one after the other: less memory", low=1
    )
    devices: int | None = setting(
        None,
        "devices that share each batch (default: all there are)",
        low=1,
        commands=(*TRAIN, "reproduce", "eval"),
    )
    optimizer: str = setting("adam", "optimizer")
    patience: int | None = setting(
        None,
        "end the run after this many epochs without a better one, by validation ROC AUC, of equal "
        "ones by loss (default: never)",
        low=1,
        decides="course",
        commands=TRAIN,
    )
    learning_rate: float = setting(1e-3, "peak learning rate of gates and classifier", low=0)
    backbone_learning_rate: float = setting(
        1e-5, "peak learning rate of the backbone", low=0, only_with=UNFROZEN
    )
    schedule: str = setting("constant", "course of the learning rates")
    step_epochs: int = setting(
        10, "epochs between the drops of the step schedule", low=1, only_with={"schedule": "step"}
    )
    step_factor: float = setting(
        0.1,
        "factor of each drop of the step schedule",
        low=0,
        high=1,
        only_with={"schedule": "step"},
    )
    warmup_epochs: float = setting(0.0, "epochs of linear warm-up", low=0)
    weight_decay: float = setting(0.0, "weight decay (L2 for sgd, decoupled for adamw)", low=0)
    clip_norm: float | None = setting(
        None,
        "norm of the gradient of all parameters above which it is scaled down (default: never)",
        above=0,
        commands=TRAIN,
    )
    ema: float | None = setting(
        None,
        "judge and keep the moving average of the weights, with this decay a step, such as 0.99 "
        "(default: the weights)",
        above=0,
        high=0.99999,
        commands=TRAIN,
    )
    head_diversity: float = setting(
        0.0,
        "weight of the loss term that keeps the heads' maps apart",
        low=0,
        commands=NOT_REPRODUCE,
        only_with={"heads": GIVEN},
    )
    roi_weights: tuple[str, ...] | None = setting(
        None,
        "gates whose maps learn from masks, each with the weight of its loss term, such as "
        "pool3=0.001 pool4=0.01 (default: none)",
        commands=_TAUGHT,
        needs="masks",
    )
    roi_over: RegionRatio = setting(
        "batch",
        "overlap of maps and masks: one ratio over a batch, or the mean of the images' own",
        commands=_TAUGHT,
        only_with={"roi_weights": GIVEN},
    )
    roi_masks: RegionSide = setting(
        "object",
        "what the masks teach: the object, or all but it, as a control",
        commands=TRAIN,
        only_with={"roi_weights": GIVEN},
    )
    label_smoothing: float = setting(0.0, "share of the target spread evenly", low=0, high=0.99)
    loss: Loss = setting(
        "ce",
        "cross entropy, or focal loss, which counts what is already right for less",
    )
    focal_gamma: float = setting(
        2.0, "exponent of the focal loss", low=0, high=100, only_with={"loss": "focal"}
    )
    class_weights: str = setting(
        "none",
        "weights of the classes in the loss: none, balanced, or those named, as in A=1,B=4",
    )
    oversample: str = setting(
        "none",
        "images of rarer classes shown more often: none, balanced, or how many times an epoch",
        decides="order",
    )
    shuffle: Literal["cases", "pictures"] = setting(
        "cases",
        "what an epoch shuffles: cases, or pictures, so that all cases whose first "
        "picture is the same come one after the other",
        decides="order",
        commands=NOT_REPRODUCE,
    )
    flip: bool = setting(False, "random horizontal flips", only_with=UNFROZEN)
    crop_min_area: float | None = setting(
        None,
        "random resized crops of at least this share of the image",
        low=0.01,
        high=1,
        only_with=UNFROZEN,
    )
    vertical_flip: bool = setting(False, "random vertical flips", only_with=UNFROZEN)
    quarter_turns: bool = setting(
        False, "random rotations by 0, 90, 180 or 270 degrees", only_with=UNFROZEN
    )
    colour_jitter: float = setting(
        0.0,
        "random factors of brightness, contrast and saturation: up to this far from 1",
        low=0,
        high=1,
        commands=TRAIN,
        only_with=UNFROZEN,
    )
    random_erasing: float = setting(
        0.0,
        "probability that a rectangle of an image is replaced by random pixels",
        low=0,
        high=1,
        commands=TRAIN,
        only_with=UNFROZEN,
    )
    mixup: float = setting(
        0.0,
        "mix pairs of images, or of their features, and their labels: alpha of the beta "
        "distribution of the shares (0: do not mix)",
        low=0,
        high=100,
        commands=TRAIN,
    )
    freeze_backbone: bool = setting(
        True, "train gates and classifier only, on features computed once"
    )
    feature_dtype: Literal["auto", "f32", "f16", "u8"] = setting(
        "auto",
        "how features are kept: as they are, in half the bytes, in a quarter, or in half where "
        "they would take more than half of the memory",
        # Blocks are of so many bytes.
        decides="order",
        only_with={"freeze_backbone": True},
    )
    feature_order: Literal["auto", "any", "blocks"] = setting(
        "auto",
        "how an epoch shuffles features: freely, in blocks that a disk reads in one go, or in "
        "blocks where they take more than half of the memory",
        decides="order",
        only_with={"freeze_backbone": True, "shuffle": "cases"},
    )
    kept_dtype: FeatureDtype = setting(
        "f32", "how the features of this run are kept", decides="measured", commands=()
    )
    kept_order: FeatureOrder = setting(
        "any", "how an epoch of this run shuffles features", decides="measured", commands=()
    )
    seed: int = setting(
        0,
        "seed of initialisation, order, augmentation and dropout",
        low=0,
        decides="order",
        commands=TRAIN,
    )

    @property
    def region_weights(self) -> dict[str, float]:
        """The weight of the region term of each gate that masks teach.

        Raises:
          UsageError: as ``parse_roi_weights``.
        """
        return parse_roi_weights(self.roi_weights or ())
