"""Settings together: which exclude each other, and which have no effect under the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from flax_attn.config.backbones import VGG_FAMILY, VGGS
from flax_attn.config.configuration import Config, settings, values_of
from flax_attn.config.data_settings import DataConfig
from flax_attn.config.datasets import check_dataset
from flax_attn.config.derived_views import parse_views
from flax_attn.config.model_settings import ModelConfig, gated
from flax_attn.config.ranges import check_ranges
from flax_attn.config.setting import GIVEN, flag_of
from flax_attn.config.values import parse_class_weights, parse_oversample
from flax_attn.errors import UsageError

_FIELDS = {f.name: f for f in settings()}


# What some networks of a study have and others have not.
OF_SOME_NETWORKS = frozenset(n for n, f in _FIELDS.items() if "model" in f.metadata["only_with"])


def validate(config: Config, *, of_photographs: bool = False, idle: Collection[str] = ()) -> None:
    """Checks the range of every setting, and that no two settings exclude each other.

    With ``of_photographs`` no data set is looked at: what it needs may be missing. Settings that
    are ``idle`` may have no effect under the others.

    Raises:
      UsageError: a value is outside its range, or settings exclude each other.
    """
    validate_model(config.model)
    for part in (config.data, config.train, config.run):
        check_ranges(part)
    _check_sizes(config)
    if not of_photographs:
        check_dataset(config.data)
    _check_effects(config, idle)
    _check_fold(config.data)
    _check_taught_gates(config)
    if config.train.mixup and config.train.region_weights:
        raise UsageError(
            f"--mixup {config.train.mixup} mixes images whose masks --roi-weights needs apart: "
            "drop one of the two"
        )
    if config.model.views and config.train.region_weights:
        raise UsageError(
            f"--views {config.model.views} has maps of views, not of the picture whose mask "
            "--roi-weights needs: drop one of the two"
        )
    parse_class_weights(config.train.class_weights)
    parse_oversample(config.train.oversample)
    run = config.run
    if config.train.freeze_backbone and run.weights == "none" and run.init_from is None:
        raise UsageError(
            "--weights none leaves the frozen backbone random: add --no-freeze-backbone"
        )


def validate_model(model: ModelConfig) -> None:
    """Checks the settings of a network, as ``validate`` does.

    Raises:
      UsageError: a value is outside its range.
    """
    check_ranges(model)
    parse_views(model.views)
    family = model.row.family
    for name, sizes in (("widths", model.widths), ("depths", model.depths)):
        if len(sizes) != len(family.maps) or min(sizes) < 1:
            raise UsageError(
                f"--{name} takes {len(family.maps)} positive numbers with --backbone "
                f"{model.backbone}, one for each stage, got {list(sizes)}"
            )
    gates = set(model.gates)
    if not gates or len(gates) < len(model.gates) or gates - set(family.gated):
        raise UsageError(
            f"--gates takes different ones of {', '.join(family.gated)} with --backbone "
            f"{model.backbone}, got {' '.join(model.gates) or 'none'}"
        )
    if model.model == "vgg":
        check_dense(model)
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


def require_pictures_alone(model: ModelConfig, what: str) -> None:
    """Checks that a network reads single pictures, for ``what`` can give it nothing else.

    Raises:
      UsageError: its cases have several pictures, or metadata.
    """
    if model.view_names or model.meta_features:
        taken, has = "single pictures", "several pictures"
        if not model.view_names:
            taken, has = "single pictures without metadata", "metadata"
        raise UsageError(
            f"{what} takes networks of {taken}, and the cases of this one have {has}: look at it "
            "with flax-attn eval"
        )


def check_dense(model: ModelConfig) -> None:
    """Checks that a backbone is one that has torchvision's dense layers: a VGG.

    Raises:
      UsageError: it is another.
    """
    if model.row.family is not VGG_FAMILY:
        raise UsageError(
            f"--model vgg has the dense layers of a VGG, got --backbone {model.backbone}: choose "
            f"another model, such as vgg_gap, or one of {', '.join(VGGS)}"
        )


def unmet(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a setting would need of others to have an effect (``only_with``), by name.

    Nothing where it has one under these values.
    """
    found = {}
    for other, wanted in _FIELDS[name].metadata["only_with"].items():
        value = values[other]
        met = value != _FIELDS[other].default if wanted is GIVEN else value == wanted
        if not met:
            found[other] = wanted
    return found


def _check_effects(config: Config, idle_ones: Collection[str]) -> None:
    """Checks that no setting is changed that has no effect under the others.

    Raises:
      UsageError: one is; the line names all that lack the same.
    """
    values = values_of(config)
    defaults = {name: f.default for name, f in _FIELDS.items()} | config.model.row.defaults
    idle: dict[tuple[str, Any], list[str]] = {}
    for name, default in defaults.items():
        if values[name] != default and name not in idle_ones:
            for lacking in unmet(name, values).items():
                idle.setdefault(lacking, []).append(name)
    for (other, wanted), names in idle.items():
        shown = ", ".join(_typed(name, values[name]) for name in names)
        got = values[other]
        if wanted is GIVEN:
            instead = "without"
        else:
            instead = f"with {_typed(other, got) if isinstance(got, bool) else got}"
        raise UsageError(
            f"{shown} {'goes' if len(names) == 1 else 'go'} with {_typed(other, wanted)}, not "
            f"{instead}: add it, or drop {', '.join(map(flag_of, names))}"
        )


def _typed(name: str, value: Any) -> str:
    """Returns a setting as it is typed; of ``GIVEN`` the flag alone."""
    if isinstance(value, bool):
        return flag_of(name if value else f"no_{name}")
    if value is GIVEN:
        return flag_of(name)
    return f"{flag_of(name)} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _check_sizes(config: Config) -> None:
    data, train, run = config.data, config.train, config.run
    if data.image_size % 32:
        raise UsageError(f"--image-size must be a multiple of 32, got {data.image_size}")
    if run.snapshot_epochs and min(run.snapshot_epochs) < 1:
        raise UsageError(f"--snapshot-epochs count from 1, got {min(run.snapshot_epochs)}")
    if train.batch_size % train.accumulate:
        raise UsageError(
            f"--batch-size {train.batch_size} cannot be computed in --accumulate "
            f"{train.accumulate} equal parts: choose a multiple"
        )


def _check_fold(data: DataConfig) -> None:
    if data.folds is None:
        return
    if data.fold is None or data.fold > data.folds:
        got = "none" if data.fold is None else data.fold
        raise UsageError(
            f"--folds {data.folds} goes with --fold 1 to {data.folds}, got {got}: name the fold "
            "that validates, or train them all by flax-attn cross-validate"
        )
    if data.val_fraction != DataConfig.val_fraction:
        raise UsageError(
            f"--val-fraction {data.val_fraction} has no effect with --folds, which validate a part "
            f"of {data.folds}: drop one of the two"
        )


def _check_taught_gates(config: Config) -> None:
    model = config.model
    if not_gated := config.train.region_weights.keys() - set(gated(model)):
        raise UsageError(
            f"--roi-weights names {', '.join(sorted(not_gated))}, but the gates of --model "
            f"{model.model} are: {', '.join(gated(model)) or 'none'}"
        )
