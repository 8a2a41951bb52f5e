"""What a report is made of: sections of findings, pictures and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from flax_attn.explain.intervals import Interval
from flax_attn.studies.reproduce.verdicts import Verdict


class Number(NamedTuple):
    """A measured value; ``form`` is a format specification such as ``.1%`` or ``+.3f``."""

    label: str
    value: Interval
    form: str = ".3f"

    def text(self) -> str:
        """The estimate and, where something was sampled, its interval."""
        return interval_text(self.value, self.form)


class Finding(NamedTuple):
    """One of the article's claims, what decides it, what was found, and the verdict."""

    claim: str
    rule: str
    numbers: Sequence[Number]
    verdict: Verdict


class Picture(NamedTuple):
    """An image file in the report's folder."""

    file: str
    caption: str


class Table(NamedTuple):
    """Rows of text under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str


@dataclass(frozen=True)
class Section:
    """One of the article's experiments: its words, then ours."""

    title: str
    article: str
    findings: Sequence[Finding] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    remarks: Sequence[str] = field(default_factory=tuple)


def interval_text(value: Interval, form: str) -> str:
    """``0.512 [0.480, 0.544]`` or ``51.2 % [48.0, 54.4]``.

    Without bounds where there are none or nothing was sampled.
    """
    if not math.isfinite(value.estimate):
        return "undefined"
    text = format(value.estimate, form)
    if math.isfinite(value.low) and value.low != value.high:
        bounds = [format(bound, form).removesuffix("%") for bound in (value.low, value.high)]
        text += f" [{bounds[0]}, {bounds[1]}]"
    return text.replace("-", "\N{MINUS SIGN}").replace("%", "\N{NO-BREAK SPACE}%")


def points(share: float) -> str:
    """``5 points`` of 0.05, a difference of shares."""
    return f"{100 * share:.0f} points"


def percent(share: float, form: str = ".0%") -> str:
    """``51 %`` of 0.51."""
    return interval_text(Interval(share, math.nan, math.nan), form)
