"""Claims and verdicts, and what a report is made of: sections of findings, pictures and tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from flax_attn.explain.methods import METHODS
from flax_attn.statistics import Interval

Verdict = Literal["supported", "not supported", "undecided"]

GATE_NAMES = {"pool3": "pool-3", "pool4": "pool-4"}
NETWORK_NAMES = {"sigmoid": "AttnVGG (sigmoid)", "softmax": "AttnVGG (softmax)"}


def above(value: Interval, threshold: float = 0.0) -> Verdict:
    """Judges that the value exceeds ``threshold``: its whole interval must lie on one side."""
    if not _known(value) or value.low <= threshold <= value.high:
        return "undecided"
    return "supported" if value.low > threshold else "not supported"


def below(value: Interval, threshold: float = 0.0) -> Verdict:
    """Judges that the value is less than ``threshold``; the mirror image of ``above``."""
    return above(Interval(-value.estimate, -value.high, -value.low), -threshold)


def within(value: Interval, low: float, high: float) -> Verdict:
    """Judges that the value lies in [low, high]: two one-sided tests, as of equivalence.

    Supported when the whole interval lies inside, not supported when all of it lies outside.
    """
    if not _known(value):
        return "undecided"
    if low <= value.low and value.high <= high:
        return "supported"
    return "not supported" if value.high < low or value.low > high else "undecided"


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Judges a claim of several parts: one refuted refutes it, one undecided leaves it open."""
    parts = list(verdicts)
    if "not supported" in parts:
        return "not supported"
    return "supported" if parts and set(parts) == {"supported"} else "undecided"


def _known(value: Interval) -> bool:
    return math.isfinite(value.low) and math.isfinite(value.high)


class Number(NamedTuple):
    """A measured value; ``form`` is a format specification such as ``.1%`` or ``+.3f``."""

    label: str
    value: Interval
    form: str = ".3f"

    def text(self) -> str:
        """Returns the estimate and, where something was sampled, its interval."""
        return interval_text(self.value, self.form)


class Finding(NamedTuple):
    """One of the paper's claims, what decides it, what was found, and the verdict."""

    claim: str
    rule: str
    numbers: Sequence[Number]
    verdict: Verdict


def leads_on_every_measure(claim: str, leads: Mapping[str, Interval], *, control: str) -> Finding:
    """Returns a finding on differences to a control, in shares, by measure: it takes all of them.

    Undecided where measures disagree.
    """
    verdicts = {above(lead) for lead in leads.values()}
    return Finding(
        claim,
        f"its difference to a {control} is above zero on every measure (not supported: below on "
        "every one; undecided: measures disagree)",
        [Number(measure, lead, "+.1%") for measure, lead in leads.items()],
        verdicts.pop() if len(verdicts) == 1 else "undecided",
    )


class Picture(NamedTuple):
    """An image file in the report's folder."""

    file: str
    caption: str


class ReportTable(NamedTuple):
    """Rows of text under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str


@dataclass(frozen=True)
class Section:
    """One of the paper's experiments: what it says, then what was found."""

    title: str
    quoted: str
    findings: Sequence[Finding] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[ReportTable] = ()
    remarks: Sequence[str] = field(default_factory=tuple)


def interval_text(value: Interval, form: str) -> str:
    """Returns ``0.512 [0.480, 0.544]`` or ``51.2 % [48.0, 54.4]``.

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
    """Returns ``5 points`` of 0.05, a difference of shares."""
    return f"{100 * share:.0f} points"


def percent(share: float, form: str = ".0%") -> str:
    """Returns ``51 %`` of 0.51."""
    return interval_text(Interval(share, math.nan, math.nan), form)


def gate_name(gate: str) -> str:
    """Returns ``pool-3`` of ``pool3``."""
    return GATE_NAMES[gate]


def map_name(name: str) -> str:
    """Returns ``Grad-CAM, block 4`` of ``grad_cam conv4``."""
    method, _, stage = name.partition(" ")
    if method == "attention":
        return f"Attention on {gate_name(stage)}"
    title = METHODS[method].title
    return f"{title}, block {stage.removeprefix('conv')}" if stage else title
