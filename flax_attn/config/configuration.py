"""The configuration of a run: its four sections, and what can be asked of all settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, asdict, dataclass, fields, replace
from functools import partial
from typing import Any

from flax_attn.config.data_settings import DataConfig
from flax_attn.config.model_settings import ModelConfig
from flax_attn.config.run_settings import RunConfig
from flax_attn.config.setting import Decides
from flax_attn.config.train_settings import TrainConfig
from flax_attn.errors import UsageError


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
          UsageError: no section has a setting of this name, or there is no such backbone.
        """
        sections: dict[str, Any] = {}
        for section in fields(self):
            part = getattr(self, section.name)
            names = {f.name for f in fields(part)} & values.keys()
            change = part.replaced if isinstance(part, ModelConfig) else partial(replace, part)
            sections[section.name] = change(**{n: values.pop(n) for n in sorted(names)})
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
    own are left behind; where another data set, all that only some data sets have, with all that
    goes with it. Folds are left behind in either case.
    """
    if not OTHER_IMAGES & given.keys():
        return dict(given)
    left = [
        f.name
        for f in settings()
        if f.metadata["needs"] is not None
        and ("dataset" in given or f.metadata["decides"] == "place")
    ]
    left += [f.name for f in settings() if f.metadata["only_with"].keys() & set(left)]
    left += ["folds", "fold"]
    return {**{f.name: f.default for f in settings() if f.name in left}, **given}


def values_of(config: Config) -> dict[str, Any]:
    """Returns the value of every setting, by its name."""
    return {name: value for part in asdict(config).values() for name, value in part.items()}


def deciding(config: Config, *kinds: Decides) -> dict[str, Any]:
    """Returns the values of the settings that decide one of these kinds of things, by name."""
    values = values_of(config)
    return {f.name: values[f.name] for f in settings() if f.metadata["decides"] in kinds}
