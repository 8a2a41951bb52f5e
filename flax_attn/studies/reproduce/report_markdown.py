"""The report as Markdown beside its pictures, and its numbers as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax_attn.studies.reproduce.claims import Finding, ReportTable, Section
from flax_attn.system.files import write_json, write_text


def write_markdown(
    sections: Sequence[Section], path: Path, *, title: str, summary: str, source: str
) -> None:
    """Writes every section with its findings, pictures, tables and remarks.

    ``source`` is the paper, in two words.
    """
    parts = [f"# {title}", summary]
    for number, section in enumerate(sections, 1):
        parts.append(f"## {number}. {section.title}")
        if section.quoted:
            parts.append(f"> {source}: {section.quoted}")
        if section.findings:
            header = ["claim", "decided by", "measured [95 %]", "verdict"]
            parts.append(_table(header, [_row(finding) for finding in section.findings]))
        parts += [f"![{p.caption}]({p.file})\n\n*{p.caption}*" for p in section.pictures]
        for table in section.tables:
            parts += [_table(table.header, table.rows), *([table.caption] if table.caption else [])]
        if section.remarks:
            parts.append("\n".join(f"- {remark}" for remark in section.remarks))
    write_text(path, "\n\n".join(parts) + "\n")


def write_numbers(
    sections: Sequence[Section], path: Path, *, conditions: Mapping[str, Any]
) -> None:
    """Writes every finding's numbers with intervals and its verdict, and every table's text.

    A number that is not defined is null.
    """
    values = {
        "conditions": dict(conditions),
        "sections": [
            {
                "title": section.title,
                "findings": [_finding(finding) for finding in section.findings],
                "tables": [_plain(table) for table in section.tables],
            }
            for section in sections
        ],
    }
    write_json(path, values)


def _finding(finding: Finding) -> dict[str, Any]:
    numbers = [
        {"label": n.label, **{k: float(v) for k, v in n.value._asdict().items()}}
        for n in finding.numbers
    ]
    return {
        "claim": finding.claim,
        "rule": finding.rule,
        "numbers": numbers,
        "verdict": finding.verdict,
    }


def _plain(table: ReportTable) -> dict[str, Any]:
    return {
        "caption": table.caption,
        "header": list(table.header),
        "rows": [list(row) for row in table.rows],
    }


def _row(finding: Finding) -> list[str]:
    numbers = "<br>".join(f"{number.label}: {number.text()}" for number in finding.numbers)
    return [finding.claim, finding.rule, numbers, f"**{finding.verdict}**"]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["--"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
