"""The methods by name: to add one, write it in ``cam`` or ``gradients`` and add a row here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int

from flax_attn.explain.cam import grad_cam, grad_cam_pp, hires_cam, score_cam
from flax_attn.explain.forward import AnyArray, Forward, Images
from flax_attn.explain.gradients import input_gradients, integrated_gradients


class Method(NamedTuple):
    """How maps are computed, and what they are called.

    Args:
      compute: ``compute(forward, image, class_index, stage, **options)`` gives maps [b, h, w], of
        cases of several pictures [b, v, h, w].
      title: its name in pictures and reports.
      of_image: whether the maps are of the image itself, whatever the stage.
    """

    compute: Callable[..., Float[Array, "b *u p q"]]
    title: str
    of_image: bool = False

    def __call__(
        self,
        forward: Forward,
        image: Images,
        class_index: Int[AnyArray, "b"],
        stage: str,
        **options: Any,
    ) -> Float[Array, "b *u p q"]:
        return self.compute(forward, image, class_index, stage, **options)


METHODS: dict[str, Method] = {
    "grad_cam": Method(grad_cam, "Grad-CAM"),
    "grad_cam_pp": Method(grad_cam_pp, "Grad-CAM++"),
    "hires_cam": Method(hires_cam, "HiRes-CAM"),
    "score_cam": Method(score_cam, "Score-CAM"),
    "input_gradients": Method(input_gradients, "Input gradients", of_image=True),
    "integrated_gradients": Method(integrated_gradients, "Integrated gradients", of_image=True),
}
