"""The names that each setting may take, read from the tables that define them."""

from __future__ import annotations

from flax_attn.attention import ALIGNMENTS, QUERIES, RELATIONS, SCORES
from flax_attn.config import BACKBONES, DATASETS
from flax_attn.models import MODELS
from flax_attn.training.optimizer import OPTIMIZERS, SCHEDULES

CHOICES: dict[str, tuple[str, ...]] = {
    "model": tuple(MODELS),
    "backbone": tuple(BACKBONES),
    "norm": tuple(ALIGNMENTS),
    "score": tuple(SCORES),
    "relation": tuple(RELATIONS),
    "query": QUERIES,
    "dataset": tuple(DATASETS),
    "optimizer": tuple(OPTIMIZERS),
    "schedule": tuple(SCHEDULES),
}
