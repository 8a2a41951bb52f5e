"""What is exported: a trained network as a function of images alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import jax
from jax import export
from jaxtyping import Array, UInt8

from flax_attn.models import build_model, functional
from flax_attn.models.functional import Arrays
from flax_attn.models.network import Network
from flax_attn.models.tasks import TASKS
from flax_attn.ops.images import normalize
from flax_attn.runs.directory import Run

INPUT = "images"
LOGITS, PROBABILITIES, ATTENTION = "logits", "probabilities", "attention_"

Outputs = dict[str, Array]
Program = Callable[[UInt8[Array, "b s s 3"]], Outputs]


def network_outputs(
    run: Run, *, conv: Literal["auto", "exact"]
) -> Callable[[Arrays, Arrays, UInt8[Array, "b s s 3"]], Outputs]:
    """``outputs(params, stats, images)`` in float32, whatever the run computed in.

    ``logits`` and ``probabilities`` [b, k], and ``attention_<map>`` for each gate, with axes for
    classes and heads before the map's where there are several.
    """
    model = replace(run.config.model, conv=conv, precision="f32")
    structure, _, _ = functional.abstract(lambda: build_model(model, num_classes=len(run.classes)))
    task = TASKS[run.config.train.task]

    def outputs(params: Arrays, stats: Arrays, images: UInt8[Array, "b s s 3"]) -> Outputs:
        network: Network = functional.merge(structure, params, stats)
        out = network(normalize(images), train=False)
        maps = {ATTENTION + name: value for name, value in out.attention.items()}
        return {LOGITS: out.logits, PROBABILITIES: task.probabilities(out.logits), **maps}

    return outputs


def any_batch(size: int) -> jax.ShapeDtypeStruct:
    """Images of a side, any number of them."""
    (batch,) = export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, size, size, 3), "uint8")
