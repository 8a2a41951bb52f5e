"""A file of ported weights for a small network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flax_attn.config import Config
from flax_attn.models import build_model, functional
from flax_attn.models.functional import Arrays
from flax_attn.porting import write_ported


def arrays_of(config: Config, seed: int, classes: int = 2) -> tuple[Arrays, Arrays]:
    """Freshly drawn parameters and statistics."""
    _, params, stats = functional.split(build_model(config.model, num_classes=classes, seed=seed))
    return params, stats


def ported(path: Path, config: Config, *, batch_norm: str = "inserted", seed: int = 7) -> Path:
    """Writes the backbone drawn from a seed, as the porting command would."""
    path.parent.mkdir(exist_ok=True)
    params, stats = arrays_of(config, seed=seed)
    backbone = {k: np.asarray(v) for k, v in {**params, **stats}.items() if "backbone" in k}
    write_ported(
        path,
        backbone,
        {
            "source": "test",
            "source_sha256": "0" * 64,
            "layout": "backbone",
            "batch_norm": batch_norm,
            "widths": config.model.widths,
            "depths": config.model.depths,
        },
    )
    return path
