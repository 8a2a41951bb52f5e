from __future__ import annotations

from dataclasses import fields

from flax_attn.config import DATASETS, Config
from flax_attn.training.choices import CHOICES


def test_tables_agree_with_the_names_in_use() -> None:
    known = {f.name for section in fields(Config) for f in fields(section.default)}
    assert CHOICES.keys() <= known
    assert all(entry.defaults.keys() <= known for entry in DATASETS.values())
