"""The axes of a grid: which settings of the network vary, by which flags, and their combinations.

To add an axis, write a row of ``AXES`` and a field of ``Combination``, and let the setting it
varies leave ``ablate`` (``commands`` in ``config/model_settings``).
"""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple, get_args

from flax_attn.config import Config
from flax_attn.config.model_settings import ViewMerge
from flax_attn.config.names import ALIGNMENT_NAMES, QUERIES, RELATION_NAMES, SCORE_NAMES
from flax_attn.errors import UsageError

# What a value of several names is joined by, and the value that leaves a setting at its default.
TOGETHER = "+"
DEFAULT = "default"


class Axis(NamedTuple):
    """One setting that a grid varies.

    Args:
      flag: of the command, without dashes.
      known: the names that there are.
      chosen: the values where the flag is not given.
      text: the help of the flag.
      several: whether a value may be several names, joined by ``TOGETHER``.
    """

    flag: str
    known: tuple[str, ...]
    chosen: tuple[str, ...]
    text: str
    several: bool = False


AXES: dict[str, Axis] = {
    "score": Axis("scores", SCORE_NAMES, SCORE_NAMES, "attention scores"),
    "norm": Axis("norms", ALIGNMENT_NAMES, ALIGNMENT_NAMES, "alignments"),
    "relation": Axis(
        "relations",
        RELATION_NAMES,
        ("own",),
        "relations between the pictures of a case; several side by side as own+parallel",
        several=True,
    ),
    "query": Axis(
        "queries",
        (DEFAULT, *QUERIES),
        (DEFAULT,),
        "what asks the gates; several together as guide+meta; default: what each relation has",
        several=True,
    ),
    "view_merge": Axis(
        "view_merges", get_args(ViewMerge), ("concat",), "how the pictures' vectors join"
    ),
}


class Combination(NamedTuple):
    """One cell of the grid: a value of each axis."""

    score: str
    norm: str
    relation: str = "own"
    query: str = DEFAULT
    view_merge: str = "concat"

    def of(self, config: Config) -> Config:
        """Returns the configuration with these values."""
        values = {name: _setting(name, value) for name, value in self._asdict().items()}
        return replace(config, model=replace(config.model, **values))


def _setting(name: str, value: str) -> Any:
    if not AXES[name].several:
        return value
    return None if value == DEFAULT else tuple(value.split(TOGETHER))


def add_axes(parser: ArgumentParser) -> None:
    """Adds the flag of each axis."""
    for axis in AXES.values():
        known = ", ".join(axis.known)
        # Names that stand together are no choices that the parser knows.
        told: dict[str, Any] = {} if axis.several else {"choices": axis.known}
        parser.add_argument(
            _flag(axis),
            nargs="+",
            default=list(axis.chosen),
            help=axis.text + (f" ({known}; default: {axis.chosen[0]})" if axis.several else ""),
            **told,
        )


def take_grid(given: Mapping[str, Any]) -> list[Combination]:
    """Returns all combinations of the values that were typed.

    Raises:
      UsageError: an unknown name, or one twice.
    """
    values: dict[str, Sequence[str]] = {}
    for name, axis in AXES.items():
        values[name] = list(dict.fromkeys(given[axis.flag]))
        for value in values[name]:
            names = value.split(TOGETHER) if axis.several else [value]
            alone = DEFAULT in names and len(names) > 1
            if {*names} - {*axis.known} or len(set(names)) < len(names) or alone:
                raise UsageError(
                    f"{_flag(axis)} takes {', '.join(axis.known)}, or different ones side by side "
                    f"such as {TOGETHER.join(axis.known[-2:])}, got {value!r}"
                )
    # Alignments first, then scores, as the table of two axes always was.
    others = [name for name in AXES if name not in ("norm", "score")]
    order = ("norm", "score", *others)
    cells = product(*(values[name] for name in order))
    return [Combination(**dict(zip(order, cell, strict=True))) for cell in cells]


def varied(combinations: Sequence[Combination]) -> list[str]:
    """Returns the axes that a table shows: score and norm, and what else differs."""
    return [
        name
        for name in AXES
        if name in ("score", "norm") or len({getattr(c, name) for c in combinations}) > 1
    ]


def combination_of(row: Mapping[str, Any]) -> Combination:
    """Returns the combination that a row of a grid is of."""
    return Combination(**{name: row[name] for name in AXES})


def _flag(axis: Axis) -> str:
    return f"--{axis.flag.replace('_', '-')}"


def by_axes(message: str) -> str:
    """Returns a message in which settings that are axes have the flags of the axes."""
    for name, axis in AXES.items():
        flag = f"--{name.replace('_', '-')}"
        message = re.sub(rf"{flag}(?![-\w])", _flag(axis), message)
    return message
