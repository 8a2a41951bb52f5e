"""A network small enough to train in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TINY = {
    "widths": (4, 4, 8, 8, 8),
    "depths": (1, 1, 1, 1, 1),
    "attn_features": 8,
    "image_size": 32,
    "train_count": 10,
    "val_count": 6,
    "batch_size": 4,
    "epochs": 2,
    "weights": "none",
    "freeze_backbone": False,
}
# The same for networks without gates, which have no projections to attend by.
UNGATED = {name: value for name, value in TINY.items() if name != "attn_features"}


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """Returns what is typed to choose these settings."""
    typed: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            typed.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            typed += [f"--{flag}", *map(str, values)]
    return typed
