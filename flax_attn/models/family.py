"""The eight VGGs, by torchvision's names: depths of the stages, with and without normalisation.

The table stands in ``config``, whose settings are checked by it, and is taken from here.
"""

from __future__ import annotations

from flax_attn.config import BACKBONES, Backbone

__all__ = ["BACKBONES", "Backbone"]
