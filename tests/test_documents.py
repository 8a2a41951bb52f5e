"""What the documents list is what there is, and their Python runs (see test_library for that)."""

from __future__ import annotations

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
