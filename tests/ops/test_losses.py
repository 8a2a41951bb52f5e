from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flax_attn.models.tasks import TASKS
from flax_attn.ops.losses import (
    batch_dice,
    binary_cross_entropy,
    cross_entropy,
    image_dice,
    log_complements,
)
from tests.helpers.bounds import DOUBLE, assert_rounded, gamma, probable
from tests.helpers.torch_losses import binary_focal, focal, smoothed

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


# Focal and weighted losses, against PyTorch in double precision

K, WEIGHTS = 4, np.array([1.0, 4.0, 0.5, 0.0])
LOGITS = RNG.normal(0, 2, size=(40, K))
CLASSES, TARGETS = RNG.integers(K, size=40), RNG.integers(2, size=(40, K))
GAMMAS = [0.5, 2.0, 3.7]


def value_and_gradient(loss: Callable[..., Any], labels: np.ndarray, **options: Any) -> Any:
    """Of each example, and of their sum in the logits, in double precision."""

    def total(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        each = loss(x, jnp.asarray(labels), **options)
        return each.sum(), each

    with jax.enable_x64(True):
        (_, each), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(LOGITS)
        return np.asarray(each), np.asarray(gradient)


def of_torch(loss: Callable[[torch.Tensor], torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    x = torch.tensor(LOGITS, requires_grad=True)
    each = loss(x)
    each.sum().backward()
    return each.detach().numpy(), x.grad.numpy()


def twin_bound(focal_gamma: float) -> float:
    """What loss or gradient may be off by on the two sides together, near 1e-11 at most.

    p, and so 1 - p, is off by some roundings of one. With ``-log p <= (1 - p) (1 - log p)`` and a
    slope of the cross entropy of at most 1 - p, dividing by 1 - p, as the derivative of its power
    does, multiplies that by no more than (1 + g)^2 (1 - log p).
    """
    most = 1 + np.ptp(LOGITS, axis=-1).max() + np.log(K)
    return 2 * (1 + focal_gamma) ** 2 * WEIGHTS.max() * most * gamma(ELEMENTARY + K, DOUBLE)


@pytest.mark.parametrize("focal_gamma", GAMMAS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_of_one_class(focal_gamma: float, smoothing: float) -> None:
    labels, weights = torch.from_numpy(CLASSES), torch.from_numpy(WEIGHTS)
    expected = of_torch(
        lambda x: smoothed(focal, x, labels, focal_gamma, weights, smoothing=smoothing)
    )
    options = {"focal_gamma": focal_gamma, "class_weights": WEIGHTS, "label_smoothing": smoothing}
    got = value_and_gradient(cross_entropy, CLASSES, **options)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=twin_bound(focal_gamma))


@pytest.mark.parametrize("focal_gamma", GAMMAS)
def test_focal_loss_of_several_labels(focal_gamma: float) -> None:
    targets, weights = torch.from_numpy(TARGETS), torch.from_numpy(WEIGHTS)
    expected = of_torch(lambda x: binary_focal(x, targets, focal_gamma, weights))
    options = {"focal_gamma": focal_gamma, "class_weights": WEIGHTS}
    got = value_and_gradient(binary_cross_entropy, TARGETS, **options)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=twin_bound(focal_gamma))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_mean_of_weighted_losses_is_pytorchs(smoothing: float) -> None:
    weights = torch.from_numpy(WEIGHTS)
    of_classes = torch.nn.CrossEntropyLoss(weights, label_smoothing=smoothing)
    each, _ = value_and_gradient(
        cross_entropy, CLASSES, class_weights=WEIGHTS, label_smoothing=smoothing
    )
    whole = TASKS["multiclass"].weigh(jnp.asarray(WEIGHTS), jnp.asarray(CLASSES)).sum()
    expected = of_classes(torch.from_numpy(LOGITS), torch.from_numpy(CLASSES)).item()
    # The weights are sums of halves, exact in float32.
    assert each.sum() / float(whole) == pytest.approx(expected, abs=twin_bound(0), rel=0)

    of_labels = torch.nn.BCEWithLogitsLoss(pos_weight=weights)
    each, _ = value_and_gradient(binary_cross_entropy, TARGETS, class_weights=WEIGHTS)
    whole = TASKS["multilabel"].weigh(jnp.asarray(WEIGHTS), jnp.asarray(TARGETS)).sum()
    targets = torch.from_numpy(TARGETS).double()
    expected = of_labels(torch.from_numpy(LOGITS), targets).item()
    assert each.sum() / float(whole) == pytest.approx(expected, abs=twin_bound(0), rel=0)


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy])
def test_focal_loss_with_gamma_zero_is_the_cross_entropy(loss: Callable[..., Any]) -> None:
    labels = CLASSES if loss is cross_entropy else TARGETS
    focal, plain = (value_and_gradient(loss, labels, **o) for o in ({"focal_gamma": 0.0}, {}))
    for one, other in zip(focal, plain, strict=True):
        np.testing.assert_array_equal(one, other)


SIZES = [1.0, 20.0, 100.0, 1e4]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("k", [1, 5], ids=["one label", "five classes"])
def test_focal_loss_of_large_logits(k: int, smoothing: float) -> None:
    """Value and gradient are finite; what is sure counts in full if wrong, and for nothing else."""
    margin = np.concatenate([SIZES, -np.array(SIZES)])[:, None] * np.arange(1, k + 1)
    loss = binary_cross_entropy if k == 1 else cross_entropy
    labels = np.ones((8, 1), int) if k == 1 else np.full(8, k - 1)
    steps = max(k - 1, 1)  # from the least likely class to the label's

    @partial(jax.jit, static_argnums=1)
    def both(x: jax.Array, focal_gamma: float) -> tuple[jax.Array, jax.Array]:
        options = {"focal_gamma": focal_gamma, "label_smoothing": smoothing}
        each, back = jax.vjp(lambda x: loss(x, jnp.asarray(labels), **options), x)
        return each, back(jnp.ones_like(each))[0]

    for focal_gamma in (0.1, 2.5):
        each, gradient = both(margin.astype(np.float32), focal_gamma)
        assert np.isfinite(each).all() and np.isfinite(gradient).all()
        if not smoothing:
            right, wrong = slice(2, 4), slice(6, 8)  # of sizes whose exponential is next to nothing
            np.testing.assert_allclose(each[right], 0, atol=1e-4)
            np.testing.assert_allclose(gradient[right], 0, atol=1e-4)
            expected = steps * np.array(SIZES[2:])
            np.testing.assert_allclose(each[wrong], expected, rtol=probable(ELEMENTARY))


def test_the_rest_of_a_nearly_sure_class_keeps_its_digits() -> None:
    """Where p rounds to 1: log(1 - p) of float32 logits, as float64 has it."""
    x = np.array([[40.0, 1.0, 3.0], [40.0, 40.0, 0.0], [-5.0, 3.0, 30.0]], np.float32)
    got = jax.jit(lambda x: log_complements(x, jax.nn.log_softmax(x)))(x)
    e = np.exp(x.astype(np.float64))
    rest = np.stack([np.delete(e, c, axis=1).sum(1) for c in range(3)], 1)
    expected = np.log(rest / e.sum(-1, keepdims=True))
    # A logarithm is the difference of numbers of up to 40.
    np.testing.assert_allclose(got, expected, rtol=0, atol=2 * 40 * probable(ELEMENTARY))


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
