"""What the documents list is what there is, and their Python runs (see test_library for that)."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from flax_attn.attention import ALIGNMENTS, QUERIES, RELATIONS, SCORES
from flax_attn.attention.gate import SOURCES
from flax_attn.config import BACKBONES, DATASETS, PRESETS
from flax_attn.explain.measures import MEASURES
from flax_attn.models import MODELS
from flax_attn.system.cli import COMMANDS

ROOT = Path(__file__).parents[1]

# Each table of names, and the documents that must name all of them.
LISTED = {
    "scores": (SCORES, ["README.md", "docs/attention.md"]),
    "alignments": (ALIGNMENTS, ["README.md", "docs/attention.md"]),
    "relations": (RELATIONS, ["docs/attention.md"]),
    "queries": ((*QUERIES, *SOURCES), ["docs/attention.md"]),
    "networks": (MODELS, ["README.md"]),
    "backbones": (BACKBONES, ["README.md", "docs/library.md"]),
    "data sets": (DATASETS, ["README.md"]),
    "presets": (PRESETS, ["README.md"]),
    "measures": (MEASURES, ["docs/explain.md"]),
    "commands": (COMMANDS, ["README.md"]),
}


@pytest.mark.parametrize("kind", LISTED)
def test_every_name_of_a_table_is_documented(kind: str) -> None:
    names, documents = LISTED[kind]
    for document in documents:
        text = (ROOT / document).read_text(encoding="utf-8")
        assert [name for name in names if name not in text] == [], document


def test_every_document_is_on_the_site() -> None:
    shown = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    documents = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert [name for name in documents if name not in shown] == []


@cache
def _messages() -> str:
    """The texts in the package's code; a value in the middle of one is …."""
    texts = []
    for path in (ROOT / "flax_attn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_troubleshooting_quotes_messages_that_there_are() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    tables = text[: text.index("## Commands")]
    quoted = re.findall(r"^\| `([^`]+)` \|", tables, re.MULTILINE)
    assert len(quoted) > 8
    parts = [part.strip(" ,") for line in quoted for part in line.split("…")]
    assert [part for part in parts if part and part not in _messages()] == []


def test_there_is_one_recipe_for_a_folder_of_ones_own() -> None:
    """In the order in which a newcomer types it, the same wherever one begins to read."""
    recipes = []
    for name in ("README.md", "docs/index.md"):
        blocks = re.findall(
            r"^```sh\n(.*?)^```$", (ROOT / name).read_text(encoding="utf-8"), re.S | re.M
        )
        recipes.append(next(block for block in blocks if "--data-dir photos" in block))
    first, second = recipes
    assert first == second
    typed = [line.split()[1] for line in first.splitlines()]
    assert typed == ["train", "predict", "explain", "publish"]
