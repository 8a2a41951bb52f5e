"""The names that each setting may take."""

from __future__ import annotations

from flax_attn.config import BACKBONES, DATASETS, names

CHOICES: dict[str, tuple[str, ...]] = {
    "model": names.MODEL_NAMES,
    "backbone": tuple(BACKBONES),
    "norm": names.ALIGNMENT_NAMES,
    "score": names.SCORE_NAMES,
    "relation": names.RELATION_NAMES,
    "query": names.QUERIES,
    "dataset": tuple(DATASETS),
    "optimizer": names.OPTIMIZER_NAMES,
    "schedule": names.SCHEDULE_NAMES,
}
