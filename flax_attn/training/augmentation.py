"""What training changes at random in its examples, by the settings of a run.

The operations are those of ``ops/images``, ``ops/photometric`` and ``ops/mixup``.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Bool, Key, UInt8

from flax_attn.config import TrainConfig
from flax_attn.ops.images import augment
from flax_attn.ops.mixup import Mix, draw_mix
from flax_attn.ops.photometric import erase_at_random, jitter_colours

# Folded into the key of augmentation; ``augment`` folds in numbers below.
_JITTER, _ERASING, _MIXING = 5, 6, 7


def augment_images(
    key: Key[Array, ""],
    images: UInt8[Array, "b *v h w 3"],
    mask: UInt8[Array, "b h w"] | None,
    config: TrainConfig,
    window: int | None,
) -> tuple[UInt8[Array, "b *v s t 3"], UInt8[Array, "b s t"] | None]:
    """Returns the images moved, recoloured and erased at random, and their masks moved with them.

    Each picture of a case is changed on its own. A mask keeps what is erased of its object.
    """
    crop = None if config.crop_min_area is None else (config.crop_min_area, 1.0)
    flat, mask = augment(
        key,
        images.reshape(-1, *images.shape[-3:]),
        mask,
        flip=config.flip,
        vertical_flip=config.vertical_flip,
        quarter_turns=config.quarter_turns,
        crop_scale=crop,
        window=window,
    )
    if config.colour_jitter:
        flat = jitter_colours(jax.random.fold_in(key, _JITTER), flat, config.colour_jitter)
    if config.random_erasing:
        flat = erase_at_random(jax.random.fold_in(key, _ERASING), flat, config.random_erasing)
    return flat.reshape(*images.shape[:-3], *flat.shape[-3:]), mask


def draw_mixup(key: Key[Array, ""], kept: Bool[Array, "b"], config: TrainConfig) -> Mix | None:
    """Returns how the examples of a batch are mixed; None where they are not."""
    if not config.mixup:
        return None
    return draw_mix(jax.random.fold_in(key, _MIXING), kept, config.mixup)
