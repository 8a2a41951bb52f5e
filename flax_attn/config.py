"""Every setting of a run, defined once: name, default, range and help text.

The command line, the presets and ``config.json`` are all derived from these fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from flax_attn.errors import UsageError

Entry = TypeVar("Entry")

# What a setting decides:
# - numbers: what a step computes; order: which images a step is given; data: which images exist;
#   another value of one of these makes another run;
# - course: how long a run goes on and what it keeps; a resumed run may change it;
# - place, speed: where files lie, and how fast a run is; each process may have its own value;
# - measured: what a run found out by itself, under the others, and keeps; no command takes it.
Decides = Literal["numbers", "order", "data", "course", "place", "speed", "measured"]

# What a path names, of a setting that is one: an input that must be there, a cache that is made
# where it is missing, the output, or a folder within the data set. A run remembers all of them but
# the last as absolute ones (``runs/remembered_paths``).
PathKind = Literal["input", "cache", "output", "inner"]

# What a data set must have for a setting to mean something (``DatasetEntry``).
Ability = Literal["masks", "parts", "table"]

# The commands that take a setting, unless it says otherwise.
TRAINING = ("train", "ablate", "reproduce")
# Evaluation, explanation and export may look at other images than the run was trained on.
LOOKING = (*TRAINING, "eval", "explain", "export")


def flag_of(name: str) -> str:
    """Returns the flag of a setting, such as "--data-dir"."""
    return "--" + name.replace("_", "-")


def setting(
    default: Any,
    text: str,
    decides: Decides = "numbers",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    commands: Sequence[str] = TRAINING,
    path: PathKind | None = None,
    words: Sequence[str] = (),
    needs: Ability | None = None,
) -> Any:
    """Returns a field with its help text, what it decides, and the commands that take it.

    ``low`` and ``high`` are the inclusive range of a number, ``above`` a bound that it exceeds.
    ``path`` says what kind of path it is, if it is one, and ``words`` which values are none;
    ``needs`` what a data set must have for it. A new setting that decides numbers should do nothing
    by default: runs and studies begun before it are compared with its default.
    """
    told = {
        "help": text,
        "decides": decides,
        "low": low,
        "high": high,
        "above": above,
        "commands": commands,
        "path": path,
        "words": tuple(words),
        "needs": needs,
    }
    return field(default=default, metadata=told)


# VGG16, configuration D of Simonyan and Zisserman (2015).
VGG16_WIDTHS = (64, 128, 256, 512, 512)
VGG16_DEPTHS = (2, 2, 3, 3, 3)

MEGAPIXEL = 1_000_000

Estimator = Literal["score_function", "straight_through"]
AttnDims = Literal["single", "multi"]
HeadMerge = Literal["concat", "mean"]
Resize = Literal["crop", "stretch"]
Normalise = Literal["imagenet", "data"]
BadImagePolicy = Literal["fail", "quarantine"]
TaskChoice = Literal["auto", "multiclass", "multilabel"]
Loss = Literal["ce", "focal"]
RegionRatio = Literal["batch", "image"]
RegionSide = Literal["object", "background"]
Levels = Literal["apart", "via"]
ViewMerge = Literal["concat", "attend"]
MetaInto = Literal["query", "classifier", "both"]

_NOT_REPRODUCE = ("train", "ablate")  # ``reproduce`` takes the article's networks as they are
_TRAIN = ("train",)
_TAUGHT = ("train", "reproduce")  # which teaches the parent paper's networks

GATED = ("pool2", "pool3", "pool4")


@dataclass(frozen=True)
class ModelConfig:
    """The network: its attention, its size, and the arithmetic it computes in."""

    model: str = setting("attn_vgg", "network", commands=_TRAIN)
    norm: str = setting("sigmoid", "alignment of the attention scores", commands=_TRAIN)
    score: str = setting("gate", "attention score", commands=_TRAIN)
    attn_features: int = setting(256, "size of the attention projections", low=1)
    temperature: float | None = setting(
        None,
        "divides the scores: sharper below 1, flatter above (default: 1; not sigmoid)",
        commands=_NOT_REPRODUCE,
    )
    window: float | None = setting(
        None,
        "window of local and sigmoid_softmax, as a share of the map's longer side",
        commands=_NOT_REPRODUCE,
    )
    estimator: Estimator | None = setting(
        None, "gradient of hard attention (default: score_function)", commands=_NOT_REPRODUCE
    )
    attn_dims: AttnDims = setting(
        "single",
        "weights of a location: one for all channels, or one for each channel",
        commands=_NOT_REPRODUCE,
    )
    heads: int = setting(1, "attention maps of each gate", low=1, commands=_NOT_REPRODUCE)
    head_merge: HeadMerge = setting(
        "concat", "how the heads' vectors join", commands=_NOT_REPRODUCE
    )
    hops: int = setting(
        1,
        "rounds of attention, each refining the query of the next",
        low=1,
        commands=_NOT_REPRODUCE,
    )
    per_class: bool = setting(False, "gates of its own for each class", commands=_NOT_REPRODUCE)
    self_attention: bool = setting(
        False, "self-attention over pool-5, before it guides", commands=_NOT_REPRODUCE
    )
    gates: tuple[str, ...] = setting(
        ("pool3", "pool4"), "feature maps with a gate", commands=_NOT_REPRODUCE
    )
    relation: tuple[str, ...] = setting(
        ("own",),
        "how the pictures of a case attend to each other: own, interactive, parallel, alternating, "
        "rotatory, or several side by side",
        commands=_NOT_REPRODUCE,
    )
    query: tuple[str, ...] | None = setting(
        None,
        "what asks the gates beside the relation: guide, learned, meta, or none (default: guide "
        "for own, else none; and meta where cases have metadata)",
        commands=_NOT_REPRODUCE,
    )
    levels: Levels = setting(
        "apart",
        "gates apart, or via: each asked by what the next deeper one found",
        commands=_NOT_REPRODUCE,
    )
    view_merge: ViewMerge = setting(
        "concat",
        "how the vectors of a case's pictures join: concatenated, or attended to by a gate",
        commands=_NOT_REPRODUCE,
    )
    meta_into: MetaInto = setting(
        "query", "where metadata of a case go: query, classifier, both", commands=_NOT_REPRODUCE
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
    views_alike: bool = setting(
        False,
        "whether the pictures of a case may take each other's place, and share their gates",
        decides="measured",
        commands=(),
    )
    meta_features: int = setting(
        0, "numbers in the metadata of a case", low=0, decides="measured", commands=()
    )


@dataclass(frozen=True)
class DataConfig:
    """The images: which data set, where it lies, their size, and how they are read."""

    dataset: str = setting("drawn_pets", "data set", decides="data", commands=LOOKING)
    data_dir: str | None = setting(
        None,
        "folder of the data set (of all but drawn ones)",
        decides="place",
        commands=LOOKING,
        path="input",
    )
    train_dir: str | None = setting(
        None,
        "training images of folder, in DATA_DIR (default: by name; . takes its sub-folders as "
        "classes)",
        decides="place",
        commands=LOOKING,
        path="inner",
        needs="parts",
    )
    val_dir: str | None = setting(
        None,
        "validation images of folder (default: by name, else a share of the training images)",
        decides="place",
        commands=LOOKING,
        path="inner",
        needs="parts",
    )
    test_dir: str | None = setting(
        None,
        "test images of folder (default: by name)",
        decides="place",
        commands=LOOKING,
        path="inner",
        needs="parts",
    )
    mask_dir: str | None = setting(
        None,
        "masks of the images of folder, for --roi-weights and measures of maps (default: "
        "DATA_DIR_masks)",
        decides="place",
        commands=(*TRAINING, "explain"),
        path="input",
        needs="masks",
    )
    image_size: int = setting(
        224, "side of the images in pixels, a multiple of 32", low=32, decides="data"
    )
    resize: Resize = setting(
        "crop", "crop: shorter side, then centre crop; stretch: both sides", decides="data"
    )
    centre_crop: float | None = setting(
        None,
        "what is used of an image: its centre, of this share of the shorter side (resize crop)",
        above=0,
        high=1,
        decides="data",
    )
    crop_margin: int = setting(
        0,
        "pixels beyond IMAGE_SIZE to which images are scaled: training takes a window of "
        "IMAGE_SIZE at random, all else the centre",
        low=0,
        decides="data",
    )
    normalise: Normalise = setting(
        "imagenet",
        "colours: by the mean and deviation of ImageNet, or of the training images (data)",
    )
    train_count: int = setting(
        1200,
        "training pictures drawn (drawn_pets)",
        low=2,
        decides="data",
        commands=(*TRAINING, "explain"),
    )
    val_count: int = setting(
        300, "validation pictures drawn (drawn_pets)", low=2, decides="data", commands=LOOKING
    )
    val_fraction: float = setting(
        0.2, "validation share of a data set without a split", low=0.01, high=0.99, decides="data"
    )
    label_column: str | None = setting(
        None,
        "the column of labelled_csv that names labels (default: found by its header)",
        decides="data",
        commands=LOOKING,
        needs="table",
    )
    label_separator: str | None = setting(
        None,
        "what separates labels in a cell of labelled_csv, such as ';', space or comma; none: a "
        "cell is one label (default: | or what the cells show)",
        decides="data",
        commands=LOOKING,
        needs="table",
    )
    group_column: str | None = setting(
        None,
        "the column of labelled_csv whose equal cells keep images on one side of a split, such as "
        "patient_id (default: found by its header)",
        decides="data",
        commands=LOOKING,
        needs="table",
    )
    data_seed: int = setting(0, "seed of the drawn pictures", low=0, decides="data")
    max_megapixels: int = setting(
        50,
        "size of an image above which it is refused: raise it for large photographs",
        # Pillow itself refuses more.
        low=1,
        high=178,
        decides="course",
        commands=(*LOOKING, "predict"),
    )
    workers: int = setting(
        2, "threads that decode images", low=1, decides="speed", commands=LOOKING
    )
    on_bad_image: BadImagePolicy = setting(
        "fail",
        "unusable images: end the run, or set them aside and list them",
        decides="course",
        commands=LOOKING,
    )

    @property
    def window(self) -> int | None:
        """The side of the window that training takes of an image at random; None for all of it."""
        return self.image_size if self.crop_margin else None

    @property
    def max_pixels(self) -> int:
        """The number of pixels above which an image is refused."""
        return MEGAPIXEL * self.max_megapixels


@dataclass(frozen=True)
class TrainConfig:
    """The training: its task, length, batches, optimizer, losses and augmentation."""

    task: TaskChoice = setting(
        "multiclass",
        "one of several classes an image, any number of labels, or what the data set has",
        commands=_NOT_REPRODUCE,
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
        commands=("train", "reproduce", "eval"),
    )
    optimizer: str = setting("adam", "optimizer")
    learning_rate: float = setting(1e-3, "peak learning rate of gates and classifier", low=0)
    backbone_learning_rate: float = setting(1e-5, "peak learning rate of the backbone", low=0)
    schedule: str = setting("constant", "course of the learning rates")
    step_epochs: int = setting(10, "epochs between the drops of the step schedule", low=1)
    step_factor: float = setting(0.1, "factor of each drop of the step schedule", low=0, high=1)
    warmup_epochs: float = setting(0.0, "epochs of linear warm-up", low=0)
    weight_decay: float = setting(0.0, "weight decay (L2 for sgd, decoupled for adamw)", low=0)
    head_diversity: float = setting(
        0.0,
        "weight of the loss term that keeps the heads' maps apart",
        low=0,
        commands=_NOT_REPRODUCE,
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
    )
    roi_masks: RegionSide = setting(
        "object", "what the masks teach: the object, or all but it, as a control", commands=_TRAIN
    )
    label_smoothing: float = setting(0.0, "share of the target spread evenly", low=0, high=0.99)
    loss: Loss = setting(
        "ce",
        "cross entropy, or focal loss, which counts what is already right for less",
    )
    focal_gamma: float = setting(2.0, "exponent of the focal loss", low=0, high=100)
    class_weights: str = setting(
        "none",
        "weights of the classes in the loss: none, balanced, or those named, as in A=1,B=4",
    )
    oversample: str = setting(
        "none",
        "images of rarer classes shown more often: none, balanced, or how many times an epoch",
        decides="order",
    )
    flip: bool = setting(False, "random horizontal flips")
    crop_min_area: float | None = setting(
        None, "random resized crops of at least this share of the image", low=0.01, high=1
    )
    vertical_flip: bool = setting(False, "random vertical flips")
    quarter_turns: bool = setting(False, "random rotations by 0, 90, 180 or 270 degrees")
    freeze_backbone: bool = setting(
        True, "train gates and classifier only, on features computed once"
    )
    seed: int = setting(
        0,
        "seed of initialisation, order, augmentation and dropout",
        low=0,
        decides="order",
        commands=_TRAIN,
    )

    @property
    def region_weights(self) -> dict[str, float]:
        """The weight of the region term of each gate that masks teach.

        Raises:
          UsageError: an entry of ``roi_weights`` is not NAME=WEIGHT with a weight of at least 0, or
            names a gate again.
        """
        weights: dict[str, float] = {}
        for entry in self.roi_weights or ():
            name, _, number = entry.partition("=")
            try:
                weight = float(number)
            except ValueError:
                weight = -1.0
            if not name or not 0 <= weight < float("inf"):
                raise UsageError(
                    f"--roi-weights takes GATE=WEIGHT with a weight of at least 0, such as "
                    f"pool4=0.01, got {entry!r}"
                )
            if name in weights:
                raise UsageError(f"--roi-weights names {name} twice: keep one")
            weights[name] = weight
        return weights


@dataclass(frozen=True)
class RunConfig:
    """The run: where it lies, what it starts from, and what it keeps."""

    workdir: str | None = setting(
        None,
        "run directory (default: runs/<data set>-<model>-<norm>)",
        decides="place",
        commands=_TRAIN,
        path="output",
    )
    weights: str = setting(
        "imagenet",
        "imagenet, none, or a .safetensors file of ported weights",
        decides="place",
        path="input",
        words=("imagenet", "none"),
    )
    init_from: str | None = setting(
        None,
        "start from the best checkpoint of this run directory",
        decides="place",
        commands=_TRAIN,
        path="input",
    )
    feature_cache: str = setting(
        "runs/features", "folder of frozen-backbone features", decides="place", path="cache"
    )
    image_cache: str = setting(
        "runs/images",
        "folder of decoded images, 150 kB each at 224 pixels, or none",
        decides="place",
        commands=LOOKING,
        path="cache",
        words=("none",),
    )
    compilation_cache: str | None = setting(
        None,
        "folder of compiled programs, for later starts on this machine (default: none)",
        decides="place",
        commands=LOOKING,
        path="cache",
    )
    snapshot_epochs: tuple[int, ...] | None = setting(
        None,
        "epochs after which a light snapshot is kept, to see how attention changes",
        decides="course",
        commands=_TRAIN,
    )
    save_every: int | None = setting(
        None,
        "steps between checkpoints inside an epoch (default: only at its end)",
        low=1,
        decides="course",
        commands=_TRAIN,
    )
    keep_checkpoints: int = setting(
        2, "newest checkpoints kept, beside the best", low=1, decides="course", commands=_TRAIN
    )
    stop_within: float = setting(
        9.0,
        "seconds that SIGTERM or Ctrl-C leaves to reach the end of a step and save",
        low=0,
        decides="speed",
        commands=(*_TRAIN, "reproduce"),
    )
    resume_anyway: tuple[str, ...] | None = setting(
        None,
        "conditions that may differ from those of the run that is resumed",
        decides="course",
        commands=_TRAIN,
    )

    @property
    def image_folder(self) -> Path | None:
        """The folder of decoded images; None where none are kept."""
        return None if self.image_cache == "none" else Path(self.image_cache)


@dataclass(frozen=True)
class Config:
    """All settings of a run, in four sections.

    Args:
      model: the network.
      data: the images.
      train: the training.
      run: the run directory and what is kept.
    """

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    run: RunConfig = RunConfig()

    def updated(self, **values: Any) -> Config:
        """Returns a copy with settings replaced, each named without its section.

        Raises:
          UsageError: no section has a setting of this name.
        """
        sections = {}
        for section in fields(self):
            part = getattr(self, section.name)
            names = {f.name for f in fields(part)} & values.keys()
            sections[section.name] = replace(part, **{n: values.pop(n) for n in sorted(names)})
        if values:
            raise UsageError(f"unknown setting {', '.join(sorted(values))}")
        return Config(**sections)

    def to_json(self) -> dict[str, Any]:
        """Returns nested plain values, one object a section."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Config:
        """Returns the configuration that ``to_json`` gave; what is left out keeps its default.

        Raises:
          UsageError: an unknown section or setting.
        """
        flat: dict[str, Any] = {}
        for section, part in values.items():
            if section not in {f.name for f in fields(Config)}:
                raise UsageError(f"unknown section {section!r} in the configuration")
            for name, value in part.items():
                flat[name] = tuple(value) if isinstance(value, list) else value
        return Config().updated(**flat)


def settings(command: str | None = None) -> Iterator[Field[Any]]:
    """Yields the field of every setting, or of those that a command takes, in their order."""
    for section in fields(Config):
        for f in fields(section.default):  # type: ignore[arg-type]
            if command is None or command in f.metadata["commands"]:
                yield f


# Settings that name other images than those a run was trained on.
OTHER_IMAGES = frozenset({"dataset", "data_dir"})


def of_other_data(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings to change for a run to look at other images than its own.

    ``given`` are those that were asked for. Where they name another folder, places within the run's
    own are left behind; where another data set, all that only some data sets have.
    """
    if not OTHER_IMAGES & given.keys():
        return dict(given)
    left = [
        f.name
        for f in settings()
        if f.metadata["needs"] is not None
        and ("dataset" in given or f.metadata["decides"] == "place")
    ]
    return {**dict.fromkeys(left), **given}


def deciding(config: Config, *kinds: Decides) -> dict[str, Any]:
    """Returns the values of the settings that decide one of these kinds of things, by name."""
    flat = {name: value for part in asdict(config).values() for name, value in part.items()}
    return {f.name: flat[f.name] for f in settings() if f.metadata["decides"] in kinds}


@dataclass(frozen=True)
class DatasetEntry:
    """A row of ``DATASETS``: all that is known of a data set outside its own file.

    Args:
      module: the module whose ``open_set(config, request)`` opens the data set
        (``flax_attn.data.dataset.OpenSet``); it is imported only then.
      masks: "own" where the data set has masks of its objects, "files" where it reads those of
        ``--mask-dir``, None where it has none.
      data_dir: what ``--data-dir`` must name, in words; None where the data set needs no folder.
      defaults: settings that the data set changes; presets and flags override them.
      table: whether it reads labels from a table, as ``--label-column``, ``--label-separator`` and
        ``--group-column`` say.
      parts: whether ``--train-dir`` and the like may choose the folders of its parts.
    """

    module: str
    masks: Literal["own", "files"] | None = None
    data_dir: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    table: bool = False
    parts: bool = False


# Drawn pictures are small and few, so that the first command ends within minutes on a laptop.
_DRAWN = {"image_size": 128, "epochs": 20}

DATASETS: dict[str, DatasetEntry] = {
    "drawn_pets": DatasetEntry("flax_attn.data.drawn.pets", masks="own", defaults=_DRAWN),
    "drawn_pets_scenes": DatasetEntry(
        "flax_attn.data.drawn.scenes", masks="own", defaults={**_DRAWN, "task": "multilabel"}
    ),
    "folder": DatasetEntry(
        "flax_attn.data.sets.folder",
        masks="files",
        data_dir="a folder with a sub-folder a class",
        parts=True,
    ),
    "labelled_csv": DatasetEntry(
        "flax_attn.data.sets.labelled_csv",
        data_dir="a folder with images and labels.csv",
        table=True,
        defaults={"task": "auto"},
    ),
    "cats_vs_dogs": DatasetEntry("flax_attn.data.sets.cats_vs_dogs"),
    "oxford_iiit_pet": DatasetEntry("flax_attn.data.sets.oxford_iiit_pet", masks="own"),
}

PRESETS: dict[str, dict[str, Any]] = {
    # The article: end to end, Adam, no dropout, 20 epochs. It names no learning rate or
    # batch size; the rate is small because every layer starts from trained weights.
    "article": {
        "dataset": "cats_vs_dogs",
        "image_size": 224,
        "freeze_backbone": False,
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "backbone_learning_rate": 1e-4,
        "epochs": 20,
        "batch_size": 32,
    },
    # Yan, Kawahara and Hamarneh (2019); their region terms need masks: add --roi-weights.
    "parent_paper": {
        "centre_crop": 0.8,
        "image_size": 224,
        "crop_margin": 32,
        "normalise": "data",
        "quarter_turns": True,
        "flip": True,
        "vertical_flip": True,
        "loss": "focal",
        "oversample": "4",
        "freeze_backbone": False,
        "optimizer": "sgd",
        "learning_rate": 1e-2,
        "backbone_learning_rate": 1e-2,
        "weight_decay": 1e-4,
        "schedule": "step",
        "step_epochs": 10,
        "step_factor": 0.1,
        "epochs": 50,
        "batch_size": 32,
    },
}


def make_config(explicit: Mapping[str, Any], *, preset: str | None = None) -> Config:
    """Returns a checked configuration: defaults, the data set's, the preset's, then ``explicit``.

    Later ones override earlier ones.

    Raises:
      UsageError: an unknown preset or setting, a value outside its range, or settings that exclude
        each other.
    """
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    chosen = {**(PRESETS[preset] if preset else {}), **explicit}
    defaults = dataset_entry(chosen.get("dataset", DataConfig.dataset)).defaults
    config = Config().updated(**{**defaults, **chosen})
    validate(config)
    _check_taught(config)
    return config


def dataset_entry(name: str) -> DatasetEntry:
    """Returns the row of ``DATASETS`` for a data set.

    Raises:
      UsageError: there is no data set of this name.
    """
    return entry(DATASETS, name, "dataset")


def entry(table: Mapping[str, Entry], name: str, flag: str) -> Entry:
    """Returns the row of a table that the value of a setting names.

    Raises:
      UsageError: there is no row of this name.
    """
    if name not in table:
        raise UsageError(f"unknown --{flag} {name!r}: choose from {', '.join(table)}")
    return table[name]


def check_dataset(data: DataConfig) -> None:
    """Checks that a data set exists, has the folder it needs, and is given nothing it ignores.

    Raises:
      UsageError: an unknown data set, no ``--data-dir`` where it needs one, or a ``--mask-dir``,
        ``--train-dir``, ``--label-column`` or the like that it would not read.
    """
    name, row = data.dataset, dataset_entry(data.dataset)
    if row.data_dir is not None and data.data_dir is None:
        raise UsageError(f"--dataset {name} needs --data-dir, {row.data_dir}")
    if data.mask_dir is not None and row.masks != "files":
        readers = ", ".join(n for n, other in DATASETS.items() if other.masks == "files")
        has = "masks of its own" if row.masks == "own" else "no masks"
        raise UsageError(f"--mask-dir goes with --dataset {readers}, but {name} has {has}: drop it")
    for f in fields(data):
        needed = f.metadata["needs"]
        if getattr(data, f.name) is not None and needed is not None and not getattr(row, needed):
            readers = ", ".join(n for n, other in DATASETS.items() if getattr(other, needed))
            raise UsageError(
                f"{flag_of(f.name)} goes with --dataset {readers}, not with {name}: drop it"
            )


def validate(config: Config) -> None:
    """Checks the range of every setting, and that no two settings exclude each other.

    Raises:
      UsageError: a value is outside its range, or settings exclude each other.
    """
    validate_model(config.model)
    data, train, run = config.data, config.train, config.run
    for part in (data, train, run):
        _check_ranges(part)
    if data.image_size % 32:
        raise UsageError(f"--image-size must be a multiple of 32, got {data.image_size}")
    if run.snapshot_epochs and min(run.snapshot_epochs) < 1:
        raise UsageError(f"--snapshot-epochs count from 1, got {min(run.snapshot_epochs)}")
    check_dataset(data)
    if data.centre_crop is not None and data.resize != "crop":
        raise UsageError(
            f"--centre-crop goes with --resize crop, got {data.resize}: drop one of them"
        )
    if train.batch_size % train.accumulate:
        raise UsageError(
            f"--batch-size {train.batch_size} cannot be computed in --accumulate "
            f"{train.accumulate} equal parts: choose a multiple"
        )
    if not_gated := train.region_weights.keys() - set(gated(config.model)):
        raise UsageError(
            f"--roi-weights names {', '.join(sorted(not_gated))}, but the gates of --model "
            f"{config.model.model} are: {', '.join(gated(config.model)) or 'none'}"
        )
    if train.loss != "focal" and train.focal_gamma != TrainConfig.focal_gamma:
        raise UsageError(
            f"--focal-gamma {train.focal_gamma} goes with --loss focal, not with {train.loss}: add "
            "it, or drop --focal-gamma"
        )
    parse_class_weights(train.class_weights)
    parse_oversample(train.oversample)
    varied = _random_geometry(config)
    if train.freeze_backbone and varied:
        raise UsageError(
            "a frozen backbone sees every image once, so flips, turns and random crops "
            f"({', '.join(varied)}) have no effect: drop them, or add --no-freeze-backbone"
        )
    if train.freeze_backbone and run.weights == "none" and run.init_from is None:
        raise UsageError(
            "--weights none leaves the frozen backbone random: add --no-freeze-backbone"
        )


# A name, which may have commas and equals signs of its own, and its weight.
_WEIGHT = re.compile(r"(.+?)=([^=,]*)(?:,|$)", re.DOTALL)
HEAVIEST = 1e6
MOST_OFTEN = 1000


def parse_class_weights(text: str) -> dict[str, float] | str:
    """Returns the weights that ``--class-weights`` names, by class, or the word that it is.

    Raises:
      UsageError: it is neither, a weight is no number from 0 to ``HEAVIEST``, or a class is named
        twice.
    """
    if text in ("none", "balanced"):
        return text
    expected = f"none, balanced, or weights from 0 to {HEAVIEST:.0f} by class, as in A=1,B=4"
    found: dict[str, float] = {}
    place = 0
    while place < len(text) or not text:
        match = _WEIGHT.match(text, place)
        if match is None:
            raise UsageError(f"--class-weights takes {expected}; got {text[place:]!r}")
        name, value = match.group(1).strip(), _number(match.group(2))
        if value is None or not 0 <= value <= HEAVIEST:
            raise UsageError(
                f"--class-weights takes {expected}; got {match.group(2)!r} for class {name!r}"
            )
        if name in found:
            raise UsageError(f"--class-weights names the class {name!r} twice: name it once")
        found[name] = value
        place = match.end()
    return found


def parse_oversample(text: str) -> float | str:
    """Returns the factor that ``--oversample`` gives, or the word that it is.

    Raises:
      UsageError: it is neither, or no factor above 1 and up to ``MOST_OFTEN``.
    """
    if text in ("none", "balanced"):
        return text
    factor = _number(text)
    if factor is None or not 1 < factor <= MOST_OFTEN:
        raise UsageError(
            f"--oversample takes none, balanced, or a number above 1, at most {MOST_OFTEN}; "
            f"got {text!r}"
        )
    return factor


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _random_geometry(config: Config) -> list[str]:
    """Returns the flags of what varies an image from epoch to epoch."""
    train = config.train
    settings = {
        "flip": train.flip,
        "crop_min_area": train.crop_min_area is not None,
        "vertical_flip": train.vertical_flip,
        "quarter_turns": train.quarter_turns,
        "crop_margin": config.data.crop_margin > 0,
    }
    return [flag_of(name) for name, on in settings.items() if on]


def gated(model: ModelConfig) -> tuple[str, ...]:
    """Returns the feature maps that a network has a gate at; none of a network without gates."""
    return model.gates if model.model == "attn_vgg" else ()


def _check_taught(config: Config) -> None:
    """Checks that a training has masks where it is to learn from them.

    Not in ``validate``: a look at a trained run may be at images without masks.

    Raises:
      UsageError: ``--roi-weights`` of a data set without masks, or settings that do nothing
        without it.
    """
    train, name = config.train, config.data.dataset
    if train.roi_weights is None:
        for setting_name in ("roi_over", "roi_masks"):
            if getattr(train, setting_name) != getattr(TrainConfig, setting_name):
                raise UsageError(
                    f"{flag_of(setting_name)} goes with --roi-weights, and does nothing without: "
                    "add the weights, or drop it"
                )
    elif dataset_entry(name).masks is None:
        having = ", ".join(n for n, other in DATASETS.items() if other.masks is not None)
        raise UsageError(f"--roi-weights needs masks: {name} has none, but {having} may: drop it")


def validate_model(model: ModelConfig) -> None:
    """Checks the settings of a network, as ``validate`` does.

    Raises:
      UsageError: a value is outside its range.
    """
    _check_ranges(model)
    for name, sizes in (("widths", model.widths), ("depths", model.depths)):
        if len(sizes) != 5 or min(sizes) < 1:
            raise UsageError(f"--{name} takes five positive numbers, got {list(sizes)}")
    if not model.gates or len(set(model.gates)) < len(model.gates) or {*model.gates} - {*GATED}:
        raise UsageError(f"--gates takes different ones of {', '.join(GATED)}, got {model.gates}")
    mean, std = model.pixel_mean, model.pixel_std
    if (mean is None) != (std is None) or (
        mean is not None
        and std is not None
        and not (len(mean) == len(std) == 3 and min(std) > 0 and min(mean) >= 0 and max(mean) <= 1)
    ):
        raise UsageError(
            f"pixel_mean {mean} and pixel_std {std}: expected three numbers each in [0, 1], the "
            "deviations above 0"
        )


def _check_ranges(section: Any) -> None:
    hints = get_type_hints(type(section))
    for f in fields(section):
        _check_choice(f.name, getattr(section, f.name), hints[f.name])
        _check_range(f.name, getattr(section, f.name), f.metadata)


def _check_choice(name: str, value: Any, hint: Any) -> None:
    kinds = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal]
    choices = [choice for kind in kinds for choice in get_args(kind)]
    if choices and value is not None and value not in choices:
        raise UsageError(f"{flag_of(name)} must be one of {', '.join(choices)}, got {value!r}")


def _check_range(name: str, value: Any, told: Mapping[str, Any]) -> None:
    low, high, above = told["low"], told["high"], told["above"]
    if value is None or (low is None and high is None and above is None):
        return
    flag = flag_of(name)
    if not isinstance(value, int | float) or value != value:
        raise UsageError(f"{flag} takes a number, got {value!r}")
    fits = (low is None or value >= low) and (high is None or value <= high)
    if not fits or (above is not None and value <= above):
        least = f"above {above}" if above is not None else f"at least {low}"
        if high is None:
            bounds = least
        else:
            bounds = f"between {low} and {high}" if above is None else f"{least}, at most {high}"
        raise UsageError(f"{flag} must be {bounds}, got {value}")
