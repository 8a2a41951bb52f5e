from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flax_attn.ops.losses import batch_dice, binary_cross_entropy, cross_entropy, image_dice
from tests.helpers.bounds import DOUBLE, assert_rounded, gamma, probable

pytestmark = pytest.mark.numerical

# Roundings that stand for exponential and logarithm, whose last digits are not exact.
ELEMENTARY = 16
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy(smoothing: float) -> None:
    logits, targets = RNG.normal(size=(6, 3)), RNG.integers(2, size=(6, 3))
    t = (1 - smoothing) * targets + smoothing / 2

    def reference(logits: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-logits))
        return -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(-1)

    logits = logits.astype(np.float32)
    got = binary_cross_entropy(jnp.asarray(logits), jnp.asarray(targets), label_smoothing=smoothing)
    assert_rounded(got, reference, logits, terms=3 + ELEMENTARY)


def test_one_label_is_a_pair_of_classes() -> None:
    logits, labels = jnp.asarray(RNG.normal(size=(5, 1))), jnp.asarray(RNG.integers(2, size=5))
    pair = jnp.concatenate([jnp.zeros_like(logits), logits], -1)
    np.testing.assert_allclose(
        binary_cross_entropy(logits, labels[:, None], label_smoothing=0.2),
        cross_entropy(pair, labels, label_smoothing=0.2),
        # A loss of 0.05 is the difference of numbers of up to two.
        rtol=2 * probable(ELEMENTARY) * 2 / 0.05,
    )


def test_binary_cross_entropy_of_large_logits() -> None:
    logits = jnp.asarray([[1e4], [-1e4], [1e4], [30.0]])
    targets = jnp.asarray([[1], [0], [0], [1]])
    loss, gradient = jax.vmap(jax.value_and_grad(lambda x, t: binary_cross_entropy(x, t).sum()))(
        logits[:, None], targets[:, None]
    )
    # What is nearly certain and right keeps its small loss: exp(-30), not the 0 of 1 - sigmoid.
    np.testing.assert_allclose(loss, [0, 0, 1e4, np.exp(-30.0)], rtol=probable(ELEMENTARY))
    np.testing.assert_allclose(
        gradient.ravel(), [0, 0, 1, -np.exp(-30.0)], rtol=probable(ELEMENTARY)
    )


def dice_of_torch(maps: torch.Tensor, masks: torch.Tensor, counted: np.ndarray) -> torch.Tensor:
    """The parent paper's ratio over the counted images of a batch."""
    a, m = maps[counted], masks[counted]
    return 1 - 2 * (a * m).sum() / (a.sum() + m.sum())


@pytest.mark.parametrize("over", ["batch", "image"])
@pytest.mark.parametrize(
    "counted",
    [[True] * 5, [True, False, True, True, False], [False, True, False, False, False]],
    ids=["all", "some", "one"],
)
def test_dice_and_its_gradient_equal_pytorchs(over: str, counted: list[bool]) -> None:
    """Masks soft at the rim, one of them empty, in float64."""
    rng = np.random.default_rng(1)
    maps, masks = rng.random((2, 5, 4, 4))
    masks[1] = 0
    kept = np.array(counted)
    ours = batch_dice if over == "batch" else image_dice
    with jax.enable_x64(True):
        value, gradient = jax.jit(jax.value_and_grad(ours))(
            jnp.asarray(maps), jnp.asarray(masks), jnp.asarray(kept)
        )
    theirs, fixed = torch.tensor(maps, requires_grad=True), torch.tensor(masks)
    if over == "batch":
        loss = dice_of_torch(theirs, fixed, kept)
    else:
        each = [dice_of_torch(theirs, fixed, np.arange(5) == i) for i in np.flatnonzero(kept)]
        loss = torch.stack(each).mean()
    loss.backward()
    assert value.dtype == jnp.float64
    # Sums over at most 160 positive numbers, and a difference from 1, on both sides.
    limit = 2 * gamma(160 + 8, DOUBLE)
    np.testing.assert_allclose(value, loss.item(), rtol=0, atol=limit)
    np.testing.assert_allclose(gradient, theirs.grad, rtol=0, atol=4 * limit)


def test_an_unknown_mask_is_not_an_empty_one() -> None:
    maps, masks = np.full((2, 2, 2), 0.5, np.float32), np.zeros((2, 2, 2), np.float32)
    masks[0] = 1

    @jax.jit
    def of(counted: jax.Array) -> tuple[jax.Array, ...]:
        return *jax.value_and_grad(batch_dice)(maps, masks, counted), image_dice(
            maps, masks, counted
        )

    # 1 - 2 · 2 / (2 + 4) over the first alone; the second adds 2 to the denominator.
    for counted, batch, image in (([1, 1], 1 / 2, (1 / 3 + 1) / 2), ([1, 0], 1 / 3, 1 / 3)):
        value, gradient, of_images = of(np.array(counted, bool))
        np.testing.assert_allclose([value, of_images], [batch, image], rtol=probable(16))
        # What is empty teaches its map to be small; what is unknown teaches nothing.
        assert (gradient[1] > 0).all() if counted[1] else not gradient[1].any()


@pytest.mark.parametrize("dice", [batch_dice, image_dice])
def test_dice_of_nothing_has_no_gradient(dice: Callable[..., jax.Array]) -> None:
    """Of no counted map, and of maps and masks that are zero everywhere."""
    zeros, of = np.zeros((2, 3, 3), np.float32), jax.jit(jax.value_and_grad(dice))
    for counted in (False, True):
        value, gradient = of(zeros, zeros, np.full(2, counted))
        assert float(value) == counted and not np.asarray(gradient).any()
