"""The report as one HTML file with its pictures inside, that needs nothing else to be read."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from flax_attn.explain.page import fill
from flax_attn.studies.reproduce.claims import Finding, Number, ReportTable, Section, Verdict
from flax_attn.system.files import write_text

TEMPLATE = files("flax_attn.studies.reproduce") / "template"


def write_page(
    sections: Sequence[Section], path: Path, *, title: str, summary: str, source: str
) -> None:
    """Writes the page; pictures are read from its folder. ``source`` is the paper, in two words."""
    body = [_overview(sections, source)]
    for number, section in enumerate(sections, 1):
        body.append(_section(section, number, path.parent, source))
    page = fill(
        TEMPLATE / "report.html",
        title=_text(title),
        summary=_text(summary),
        css=(TEMPLATE / "report.css").read_text(encoding="utf-8"),
        body="\n".join(body),
    )
    write_text(path, page)


def _overview(sections: Sequence[Section], source: str) -> str:
    rows = []
    for number, section in enumerate(sections, 1):
        for place, finding in enumerate(section.findings):
            link = (
                f'<td rowspan="{len(section.findings)}">'
                f'<a href="#s{number}">{number}. {_text(section.title)}</a></td>'
            )
            rows.append(
                f"<tr>{link if place == 0 else ''}<td>{_sentence(finding.claim)}</td>"
                f"<td>{_numbers(finding.numbers[:1])}</td><td>{_badge(finding.verdict)}</td></tr>"
            )
    head = "<th>figure or table</th><th>claim</th><th>measured [95 %]</th><th>verdict</th>"
    return f"<section><h2>{_text(source)}'s claims</h2>{_table(head, rows, '')}</section>"


def _section(section: Section, number: int, folder: Path, source: str) -> str:
    parts = [f"<h2>{number}. {_text(section.title)}</h2>"]
    if section.quoted:
        quoted = _text(section.quoted)
        parts.append(f"<blockquote><b>{_text(source)}</b>{quoted}</blockquote>")
    if section.findings:
        head = "<th>claim, and what decides it</th><th>measured [95 %]</th><th>verdict</th>"
        parts.append(_table(head, [_finding(finding) for finding in section.findings], ""))
    for picture in section.pictures:
        caption = _text(picture.caption)
        parts.append(
            f'<figure><img src="{_data_url(folder / picture.file)}" alt="{caption}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    parts += [_plain_table(table) for table in section.tables]
    if section.remarks:
        items = "".join(f"<li>{_text(remark)}</li>" for remark in section.remarks)
        parts.append(f'<ul class="remarks">{items}</ul>')
    return f'<section id="s{number}">' + "\n".join(parts) + "</section>"


def _finding(finding: Finding) -> str:
    return (
        f'<tr><td><span class="claim">{_sentence(finding.claim)}</span>'
        f'<span class="rule">{_sentence(finding.rule)}.</span></td>'
        f"<td>{_numbers(finding.numbers)}</td><td>{_badge(finding.verdict)}</td></tr>"
    )


def _numbers(numbers: Iterable[Number]) -> str:
    return "".join(
        f'<span class="number"><i>{_text(number.label)}</i><b>{_text(number.text())}</b></span>'
        for number in numbers
    )


def _badge(verdict: Verdict) -> str:
    return f'<span class="verdict {verdict.replace(" ", "-")}">{verdict}</span>'


def _plain_table(table: ReportTable) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in table.header)
    rows = ["<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.rows]
    return _table(head, rows, table.caption)


def _cell(text: str) -> str:
    """A cell; an interval stays in one line."""
    return f'<td class="value">{_text(text)}</td>' if "[" in text else f"<td>{_text(text)}</td>"


def _table(head: str, rows: Sequence[str], caption: str) -> str:
    below = f"<caption>{_text(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide"><table>{below}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _data_url(path: Path) -> str:
    kind = {".png": "png", ".webp": "webp"}[path.suffix]
    return f"data:image/{kind};base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _text(text: str) -> str:
    return html.escape(text)


def _sentence(text: str) -> str:
    return _text(text[:1].upper() + text[1:])
