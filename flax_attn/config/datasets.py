"""The data sets there are, and what each of them takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from flax_attn.config.configuration import Config
from flax_attn.config.data_settings import DataConfig
from flax_attn.config.setting import entry, flag_of
from flax_attn.errors import UsageError


@dataclass(frozen=True)
class DatasetEntry:
    """A row of ``DATASETS``: all that is known of a data set outside its own file.

    Args:
      module: the module whose ``open_set(config, request)`` opens the data set
        (``flax_attn.data.dataset.OpenSet``); it is imported only then.
      masks: "own" where the data set may have masks of its objects, "files" where it reads those
        of ``--mask-dir``, None where it has none.
      data_dir: what ``--data-dir`` must name, in words; None where the data set needs no folder.
      defaults: settings that the data set changes; presets and flags override them.
      table: whether it reads labels from a table, as ``--label-column``, ``--label-separator`` and
        ``--group-column`` say.
      parts: whether ``--train-dir`` and the like may choose the folders of its parts.
      questions: whether its cases ask something, as ``--question`` says how.
    """

    module: str
    masks: Literal["own", "files"] | None = None
    data_dir: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    table: bool = False
    parts: bool = False
    questions: bool = False

    @property
    def may_have_cases(self) -> bool:
        """Whether a case may be more than one picture, which is known once the set is open."""
        return self.table or self.questions


# Drawn pictures are small and few, so that the first command ends within minutes on a laptop.
_DRAWN = {"image_size": 128, "epochs": 20}

DATASETS: dict[str, DatasetEntry] = {
    "drawn_pets": DatasetEntry("flax_attn.data.drawn.pets", masks="own", defaults=_DRAWN),
    "drawn_pets_scenes": DatasetEntry(
        "flax_attn.data.drawn.scenes", masks="own", defaults={**_DRAWN, "task": "multilabel"}
    ),
    "drawn_pets_asked": DatasetEntry(
        "flax_attn.data.drawn.asked",
        masks="own",
        defaults={**_DRAWN, "task": "auto"},
        questions=True,
    ),
    "folder": DatasetEntry(
        "flax_attn.data.sets.folder",
        masks="files",
        data_dir="a folder with a sub-folder a class",
        parts=True,
    ),
    "labelled_csv": DatasetEntry(
        "flax_attn.data.sets.labelled_csv",
        masks="own",
        data_dir="a folder with images and labels.csv",
        table=True,
        defaults={"task": "auto"},
    ),
    "cats_vs_dogs": DatasetEntry("flax_attn.data.sets.cats_vs_dogs"),
    "oxford_iiit_pet": DatasetEntry("flax_attn.data.sets.oxford_iiit_pet", masks="own"),
}


def dataset_entry(name: str) -> DatasetEntry:
    """Returns the row of ``DATASETS`` for a data set.

    Raises:
      UsageError: there is no data set of this name.
    """
    return entry(DATASETS, name, "dataset")


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


def check_needs(config: Config) -> None:
    """Checks that a data set has what the settings of a training need of it, such as masks.

    Not in ``validate``: a look at a trained run may be at images without masks.

    Raises:
      UsageError: a setting needs what the data set does not have.
    """
    name, row = config.data.dataset, dataset_entry(config.data.dataset)
    for section in (config.model, config.train, config.run):
        for f in fields(section):
            needed = f.metadata["needs"]
            if needed is None or getattr(section, f.name) == f.default or getattr(row, needed):
                continue
            having = ", ".join(n for n, other in DATASETS.items() if getattr(other, needed))
            raise UsageError(
                f"{flag_of(f.name)} needs {needed}: {name} has none, but {having} may: drop it"
            )
