"""Test-time augmentation: what a network says of an image under several symmetries, averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.config import parse_views
from flax_attn.config.names import TTA, TTA_KINDS
from flax_attn.errors import UsageError
from flax_attn.models.backbone import Features
from flax_attn.models.network import VIEWS
from flax_attn.models.tasks import Task
from flax_attn.ops.symmetries import Symmetry, all_moved, move_back, symmetries

# Logits, and maps by name, which need not have the same axes.
Judged = tuple[Float[Array, "b k"], dict[str, Float[Array, "b ..."]]]


def parse_tta(setting: str | None) -> tuple[Symmetry, ...]:
    """Returns the symmetries that ``--tta`` names; none for None.

    Raises:
      UsageError: it names none, or others.
    """
    if setting is None:
        return ()
    named = [name.strip() for name in setting.split(",")]
    if not set(named) <= set(TTA_KINDS):
        raise UsageError(f"tta: got {setting!r}, expected one of {', or '.join(TTA)}")
    return symmetries(flips="flips" in named, turns="turns" in named)


def require_unmoved(setting: str | None, views: str | None) -> None:
    """Checks that the views of an image (``--views``) keep their places under its symmetries.

    Raises:
      UsageError: ``--tta`` names some, and they do not.
    """
    if setting is not None and parse_views(views).moved:
        raise UsageError(
            f"--tta {setting} would move the views of --views {views} to each other's places: drop "
            "it"
        )


def average_under(
    under: Sequence[Symmetry], judge: Callable[..., Judged], inputs: Array | Features, task: Task
) -> Judged:
    """Returns what is said of images under each symmetry, averaged; of images alone without any.

    The mean is that of the probabilities, softmax or sigmoid of each view's logits, and the logits
    are those of this mean. Maps are brought back to where they lie on the image, then averaged. The
    pictures of a case are moved alike, and the weights of pictures have no place to be moved.

    One view is computed after the other, in the memory of one, by one compiled program.

    Raises:
      ValueError: symmetries of feature maps, which have no pixels.
    """
    if not under:
        return judge(inputs)
    if isinstance(inputs, Features):
        raise ValueError("symmetries are of images, got the features of a frozen backbone")
    logits, maps = jax.lax.map(judge, all_moved(inputs, under))

    def average(name: str, found: Float[Array, "v b ..."]) -> Float[Array, "b ..."]:
        if name == VIEWS:
            return found.mean(0)
        return jnp.stack([move_back(m, s) for m, s in zip(found, under, strict=True)]).mean(0)

    return task.average(logits), {name: average(name, found) for name, found in maps.items()}
