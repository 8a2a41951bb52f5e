"""What several rooms draw: colours, overlays, curves, strips of maps.

``colours`` has the scales of maps and lays them over photographs; ``curves``, ``image_panels`` and
``strips`` draw pictures; ``pages`` reads what pages have in common.

Refuses to know where numbers come from: no network, no data set, no run.

Read ``colours`` first.
"""

from flax_attn.figures.colours import (
    DECADES,
    MAP_COLOURS,
    Scale,
    ScaleName,
    colour_scale,
    colour_table,
    overlay,
)
from flax_attn.figures.curves import COLOURS, CURVES, draw_curves, tidy
from flax_attn.figures.image_panels import Panel, draw_attention
from flax_attn.figures.pages import read_shared
from flax_attn.figures.strips import Shown, Strip, animate_strips, draw_strips

__all__ = [
    "COLOURS",
    "CURVES",
    "DECADES",
    "MAP_COLOURS",
    "Panel",
    "Scale",
    "ScaleName",
    "Shown",
    "Strip",
    "animate_strips",
    "colour_scale",
    "colour_table",
    "draw_attention",
    "draw_curves",
    "draw_strips",
    "overlay",
    "read_shared",
    "tidy",
]
