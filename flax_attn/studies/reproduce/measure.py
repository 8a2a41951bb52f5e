"""What the trained networks show and say, as arrays to be kept."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from flax_attn.data import Split, read_image
from flax_attn.explain.cam import grad_cam
from flax_attn.explain.forward import NetworkForward
from flax_attn.studies.reproduce.experiment_plan import GATES
from flax_attn.studies.reproduce.networks import Trained, judge
from flax_attn.studies.reproduce.stages import Stage
from flax_attn.training.examples import ExampleSource
from flax_attn.training.trainer import bar

CAMS = {"grad_cam_conv4": "conv4", "grad_cam_conv5": "conv5"}
PROBABILITIES = "probabilities"


def attention_name(gate: str, epoch: int) -> str:
    """The name under which the maps of a gate after an epoch are kept."""
    return f"{gate}@{epoch}"


def attention(
    trained: Trained, source: ExampleSource, epochs: Sequence[int], places: Sequence[int]
) -> Stage:
    """Maps of both gates at ``places`` after each epoch, and all probabilities after the last."""
    found: Stage = {}
    for epoch in epochs:
        judged = judge(trained, epoch, source)
        for gate in GATES if judged.attention else ():
            found[attention_name(gate, epoch)] = judged.attention[gate][list(places)]
        found[PROBABILITIES] = judged.probabilities
    return found


def images_at(split: Split, places: Sequence[int]) -> UInt8[np.ndarray, "n s s 3"]:
    """The images of a split at these places."""
    return np.stack([read_image(split, i)[0] for i in places])


def cams(
    network: NetworkForward,
    images: UInt8[np.ndarray, "n s s 3"],
    class_index: Int[np.ndarray, "n"],
    *,
    stages: Sequence[str],
    batch_size: int,
    text: str,
) -> Stage:
    """Grad-CAM of each image's class at each stage, by the stage's name."""
    found: dict[str, list[np.ndarray]] = {stage: [] for stage in stages}
    n = len(images)
    size = min(batch_size, n)
    for start in bar(range(0, n, size), -(-n // size), text):
        # The last batch has the shape of the others: it is filled with the first images.
        places = np.arange(start, start + size) % n
        for stage, parts in found.items():
            index = jnp.asarray(class_index[places])
            maps = np.asarray(grad_cam(network, images[places], index, stage))
            parts.append(maps[: n - start])
    return {stage: np.concatenate(parts) for stage, parts in found.items()}
