"""What is told of a setting: its default, range, help text, and tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_type_hints

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
Ability = Literal["masks", "parts", "table", "questions"]

# The commands that take a setting, unless it says otherwise.
TRAINING = ("train", "cross-validate", "ablate", "reproduce")
# Evaluation, explanation and export may look at other images than the run was trained on.
LOOKING = (*TRAINING, "eval", "explain", "export")
# ``reproduce`` takes the article's networks as they are.
NOT_REPRODUCE = ("train", "cross-validate", "ablate")
TRAIN = ("train", "cross-validate")

# Of a setting that another goes with: any value but its default.
GIVEN = object()
# The same of one that has no effect where the backbone is frozen, which sees each image once.
UNFROZEN = {"freeze_backbone": False}


def flag_of(name: str) -> str:
    """Returns the flag of a setting, such as "--data-dir"."""
    return "--" + name.replace("_", "-")


@lru_cache
def types_of(section: type) -> Mapping[str, Any]:
    """Returns the type of each setting of a section, by the setting's name."""
    return MappingProxyType(get_type_hints(section))


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
    only_with: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Returns a field with its help text, what it decides, and the commands that take it.

    ``low`` and ``high`` are the inclusive range of a number, ``above`` a bound that it exceeds.
    ``path`` says what kind of path it is, if it is one, and ``words`` which values are none;
    ``needs`` what a data set must have for it; ``only_with`` the values of other settings without
    which it has no effect, and is refused (``GIVEN`` is any but the default). A new setting that
    decides numbers should do nothing by default: runs and studies begun before it are compared with
    its default.
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
        "only_with": only_with,
    }
    return field(default=default, metadata=told)


def entry(table: Mapping[str, Entry], name: str, flag: str) -> Entry:
    """Returns the row of a table that the value of a setting names.

    Raises:
      UsageError: there is no row of this name.
    """
    if name not in table:
        raise UsageError(f"unknown --{flag} {name!r}: choose from {', '.join(table)}")
    return table[name]
