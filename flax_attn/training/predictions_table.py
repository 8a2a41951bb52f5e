"""The table of an evaluation: ``predictions.csv``."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from flax_attn.models.tasks import names_of

PREDICTIONS_FILE = "predictions.csv"


def write_predictions(
    path: Path,
    classes: Sequence[str],
    *,
    names: Sequence[str],
    truth: Bool[np.ndarray, "n k"],
    decided: Bool[np.ndarray, "n k"],
    loss: Float[np.ndarray, "n"],
    probabilities: Float[np.ndarray, "n k"],
) -> None:
    """Writes a row an image: name, label, prediction, loss in nats, a probability a class.

    Several labels are separated by ``|``.
    """
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "label", "prediction", "loss", *classes])
        for i, name in enumerate(names):
            said = ["|".join(names_of(classes, row[i])) for row in (truth, decided)]
            shown = [f"{p:.6f}" for p in probabilities[i]]
            writer.writerow([name, *said, f"{loss[i]:.6f}", *shown])
