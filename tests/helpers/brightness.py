"""A network that anybody can compute: the mean of an image is the probability of "bright"."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data.metadata import MetaScale
from flax_attn.explain.predictions import USUAL, Asking, Predictions
from flax_attn.models.tasks import TASKS, Task
from flax_attn.runs.thresholds import Thresholds


@dataclass(frozen=True)
class Brightness:
    """Predicts, as ``Predictor`` has it; ``sizes`` are the batches that it was given."""

    task: Task = TASKS["multiclass"]
    cut: float | None = None
    has_maps: bool = True
    takes_tta: bool = True
    views: str | None = None
    temperature: float | None = None
    metadata: MetaScale | None = None
    data: DataConfig = DataConfig(image_size=32)
    classes: tuple[str, ...] = ("dark", "bright")
    sizes: list[int] = field(default_factory=list)

    @property
    def thresholds(self) -> Thresholds | None:
        if self.cut is None:
            return None
        names = [self.classes[j] for j in self.task.cuts(2)]
        return Thresholds(dict.fromkeys(names, self.cut), 1, False)

    def predict_squares(
        self,
        squares: np.ndarray,
        how: Asking = USUAL,
    ) -> Predictions:
        self.sizes.append(len(squares))
        mean = squares.mean((1, 2, 3)) / 255
        found = np.stack([1 - mean, mean], axis=1).astype(np.float32)
        maps = np.broadcast_to(found[:, :1, None], (len(found), 2, 2))
        return Predictions(self.classes, found, self.task.decide(found), {"gate": maps}, squares)


def put_grey(path: Path, value: int | None) -> Path:
    """Writes an image of one grey; an empty file for None."""
    if value is None:
        path.write_bytes(b"")
    else:
        Image.new("RGB", (20, 20), (value,) * 3).save(path)
    return path
