"""What a network looks at: maps, and measures of maps.

Attention, class activation maps and gradients are arrays in, arrays out (``cam``, ``gradients``,
by name in ``methods``); ``explainer`` runs them over photographs and cases (``explained`` is what
it says of one), ``page`` and ``maps_figure`` show them, ``measures`` asks whether they lie on the
object and whether the network uses what they point at. Every method takes a network as
``forward_of(model)`` gives it.

Refuses to train, and to import matplotlib for anything but a picture.

Read ``forward`` first: the view of a network that every map starts from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flax_attn.system.lazy import lazy_names

if TYPE_CHECKING:
    from flax_attn.explain import measures as measures
    from flax_attn.explain.cam import grad_cam as grad_cam
    from flax_attn.explain.cam import grad_cam_pp as grad_cam_pp
    from flax_attn.explain.cam import hires_cam as hires_cam
    from flax_attn.explain.cam import score_cam as score_cam
    from flax_attn.explain.explainer import Explainer as Explainer
    from flax_attn.explain.forward import Forward as Forward
    from flax_attn.explain.forward import forward_of as forward_of
    from flax_attn.explain.gradients import input_gradients as input_gradients
    from flax_attn.explain.gradients import integrated_gradients as integrated_gradients
    from flax_attn.explain.methods import METHODS as METHODS

# The module of each name; None for a module itself.
_STABLE = {
    "METHODS": "methods",
    "Explainer": "explainer",
    "Forward": "forward",
    "forward_of": "forward",
    "grad_cam": "cam",
    "grad_cam_pp": "cam",
    "hires_cam": "cam",
    "input_gradients": "gradients",
    "integrated_gradients": "gradients",
    "measures": None,
    "score_cam": "cam",
}

__all__ = [*_STABLE]


__getattr__, __dir__ = lazy_names(__name__, _STABLE)
