"""Every setting of a run, defined once: name, default, range, help text and tags.

The command line, the presets and ``config.json`` are all derived from these fields, and what
follows from a setting (resuming, studies, several processes, refusals) from its tags
(``setting``). Four files hold the settings of a section each: ``model_settings``,
``data_settings``, ``train_settings`` and ``run_settings``; ``configuration`` joins them. A file
imports only files before it: ``setting``, ``values``, ``derived_views``, ``backbones``, the
sections, ``configuration``, ``datasets``, ``ranges``, ``checks``, ``presets``.

Refuses anything but plain values: no arrays, no files, and never jax.

Read ``setting`` first, then ``configuration``.
"""

from flax_attn.config.backbones import (
    BACKBONES,
    FAMILIES,
    RESNET_FAMILY,
    RESNETS,
    VGG_FAMILY,
    VGGS,
    Backbone,
    Family,
    check_depths,
    each_family,
)
from flax_attn.config.checks import (
    OF_SOME_NETWORKS,
    check_dense,
    require_pictures_alone,
    unmet,
    validate,
    validate_model,
)
from flax_attn.config.configuration import (
    OTHER_IMAGES,
    Config,
    deciding,
    of_other_data,
    settings,
)
from flax_attn.config.data_settings import MEGAPIXEL, BadImagePolicy, DataConfig, Normalise, Resize
from flax_attn.config.datasets import DATASETS, DatasetEntry, check_dataset, dataset_entry
from flax_attn.config.derived_views import DerivedView, DerivedViews, parse_views
from flax_attn.config.model_settings import (
    Estimator,
    HeadMerge,
    ModelConfig,
    gated,
)
from flax_attn.config.presets import PRESETS, brought_along, make_config
from flax_attn.config.ranges import check_ranges
from flax_attn.config.run_settings import RunConfig
from flax_attn.config.setting import PathKind, entry, flag_of, types_of
from flax_attn.config.train_settings import FeatureDtype, TaskChoice, TrainConfig
from flax_attn.config.values import parse_class_weights, parse_oversample

__all__ = [
    "BACKBONES",
    "Backbone",
    "BadImagePolicy",
    "Config",
    "DATASETS",
    "DataConfig",
    "DatasetEntry",
    "DerivedView",
    "DerivedViews",
    "Estimator",
    "FAMILIES",
    "Family",
    "FeatureDtype",
    "HeadMerge",
    "MEGAPIXEL",
    "ModelConfig",
    "Normalise",
    "OF_SOME_NETWORKS",
    "OTHER_IMAGES",
    "PRESETS",
    "PathKind",
    "RESNETS",
    "RESNET_FAMILY",
    "Resize",
    "RunConfig",
    "TaskChoice",
    "TrainConfig",
    "VGGS",
    "VGG_FAMILY",
    "check_dense",
    "check_dataset",
    "check_depths",
    "check_ranges",
    "dataset_entry",
    "deciding",
    "each_family",
    "entry",
    "flag_of",
    "gated",
    "brought_along",
    "make_config",
    "of_other_data",
    "parse_class_weights",
    "parse_oversample",
    "parse_views",
    "require_pictures_alone",
    "settings",
    "types_of",
    "unmet",
    "validate",
    "validate_model",
]
