"""The methods by name, all of the signature ``method(forward, image, class_index, stage)``."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Array, Float

from flax_attn.explain.cam import grad_cam, grad_cam_pp, hires_cam, score_cam
from flax_attn.explain.gradients import input_gradients, integrated_gradients

Method = Callable[..., Float[Array, "b h w"]]

METHODS: dict[str, Method] = {
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "hires_cam": hires_cam,
    "score_cam": score_cam,
    "input_gradients": input_gradients,
    "integrated_gradients": integrated_gradients,
}

# Those whose maps are of the image itself, whatever the stage.
OF_IMAGE = frozenset({"input_gradients", "integrated_gradients"})
