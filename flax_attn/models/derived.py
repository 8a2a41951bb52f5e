"""Views that a network derives from single pictures itself (``--views``)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from flax_attn.config import DerivedViews, parse_views
from flax_attn.ops.picture_views import COLOURS, WHITE, cut_windows

AnyArray = Array | np.ndarray

_CUT = 16


def derive_views(
    image: UInt8[AnyArray, "b s s 3"] | Float[AnyArray, "b s s 3"], derived: DerivedViews
) -> Float[Array, "b v s s 3"]:
    """Returns the views of each picture, as float32 in [0, 255].

    Windows come first, then colours, so that all views of a picture are of the same pixels.
    """
    pixels = jnp.asarray(image).astype(jnp.float32)
    if all(window == (0, 0, 1) for window in derived.windows):
        shown = [pixels] * len(derived.views)
    else:
        cut = cut_windows(pixels, derived.windows)
        shown = [cut[:, i] for i in range(len(derived.views))]
    each = zip(derived.views, shown, strict=True)
    return jnp.stack([COLOURS[view.colours](picture) for view, picture in each], axis=1)


_derive = jax.jit(derive_views, static_argnames="derived")


def shown_views(
    views: str | None, images: UInt8[np.ndarray, "n *v s s 3"]
) -> UInt8[np.ndarray, "n *w s s 3"]:
    """Returns the pictures that maps lie over, rounded to bytes: the images, or views of them.

    ``views`` is what ``--views`` named. The network itself sees its views without rounding.
    """
    derived = parse_views(views)
    if not derived.views:
        return images
    parts = [images[i : i + _CUT] for i in range(0, len(images), _CUT)]
    found = [np.asarray(_derive(part, derived=derived)) for part in parts]
    return np.clip(np.rint(np.concatenate(found)), 0, WHITE).astype(np.uint8)


def shown_masks(
    views: str | None, masks: Bool[np.ndarray, "n *v s s"]
) -> Bool[np.ndarray, "n *w s s"]:
    """Returns the masks of objects as ``shown_views`` moves their images.

    A pixel is of an object where at least half of what it shows is.
    """
    derived = parse_views(views)
    if not derived.views:
        return masks
    pixels = masks.astype(np.float32)[..., None]
    return np.asarray(cut_windows(jnp.asarray(pixels), derived.windows))[..., 0] >= 0.5


def place_of_map(views: str | None, name: str) -> int:
    """Returns the place of the view that a map is of, by the map's name."""
    names = parse_views(views).names
    word = name.split(" ")[0]
    return names.index(word) if word in names else 0
