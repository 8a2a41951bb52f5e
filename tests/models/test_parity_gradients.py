"""The gradient of the cross entropy in every parameter, against PyTorch.

The comparison is in float64. In float32 the two libraries round a few activations to
different sides of zero, or of a tie in max pooling; each such activation moves its gradient by
all of its size, so that float32 gradients differ by far more than the rounding, PyTorch's from
its own float64 ones no less than from ours. That is what the last test checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy as torch_cross_entropy

from flax_attn.config import ModelConfig
from flax_attn.models import functional
from flax_attn.models.functional import Arrays, Structure
from flax_attn.ops.losses import cross_entropy
from tests.helpers.bounds import DOUBLE, assert_within, fan_in, gamma, rounding
from tests.helpers.parity import (
    LABELS,
    NARROW,
    SIDE,
    WHOLE,
    as_double,
    as_ours,
    from_torch,
    is_conv_bias,
    largest_error,
    neighbour,
    random_images,
    torch_images,
    torch_network,
    vanishes,
)

# Gradients that are zero in exact arithmetic, relative to those of the neighbouring parameter:
# sums over the pixels of two images.
ROUNDING = gamma(2 * SIDE**2, DOUBLE)
# Sixteen layers there and back, no sum longer than that. 4e-10; an epsilon of another size, 1e-6.
GRADIENT = 2 * 16 * ROUNDING


class Case(NamedTuple):
    norm: str
    train: bool
    side: int = 64
    sizes: ModelConfig = NARROW

    def __str__(self) -> str:
        width = "narrow" if self.sizes == NARROW else "whole"
        return f"{self.norm}-{'train' if self.train else 'eval'}-{self.side}-{width}"


# The last one only: the cases that share a reference stand side by side.
@lru_cache(maxsize=1)
def torch_gradient(case: Case, dtype: torch.dtype) -> dict[str, np.ndarray]:
    network = torch_network(case.norm, case.sizes).to(dtype).train(case.train)
    logits = network(torch_images(random_images(2, case.side, seed=2), dtype)).logits
    torch_cross_entropy(logits, torch.from_numpy(LABELS).long()).backward()
    return as_ours({name: p.grad for name, p in network.named_parameters()})


@partial(jax.jit, static_argnums=(0, 1))
def gradient(
    structure: Structure, train: bool, params: Arrays, stats: Arrays, image: jax.Array
) -> Arrays:
    def loss(params: Arrays) -> jax.Array:
        model = functional.merge(structure, params, stats)
        return cross_entropy(model(image, train=train).logits, LABELS).mean()

    return jax.grad(loss)(params)


@pytest.fixture(scope="module", autouse=True)
def highest_precision() -> Iterator[None]:
    with jax.default_matmul_precision("highest"):
        yield


def our_gradient(case: Case, conv: str, *, double: bool) -> dict[str, np.ndarray]:
    config = replace(case.sizes, norm=case.norm, conv=conv)
    structure, params, stats = from_torch(torch_network(case.norm, case.sizes), config)
    dtype = torch.float64 if double else torch.float32
    image = torch_images(random_images(2, case.side, seed=2), dtype).permute(0, 2, 3, 1).numpy()
    if double:
        params, stats = as_double(params), as_double(stats)
    with jax.enable_x64(double):
        got = gradient(structure, case.train, params, stats, image)
        return {path: np.asarray(array) for path, array in got.items()}


# Alignment and batch statistics know nothing of each other, nor do either of the widths: one case
# at full width tells that these fit. That of the size takes a minute and 3 GB.
WHOLE_TRAIN = Case("sigmoid", train=True, sizes=WHOLE)
LARGE_TRAIN = Case("sigmoid", train=True, side=SIDE, sizes=WHOLE)
SMALL_SOFTMAX_TRAIN = Case("softmax", train=True)
SMALL_SOFTMAX = Case("softmax", train=False)
SMALL = Case("sigmoid", train=False)


@pytest.mark.parametrize(
    ("case", "conv"),
    [
        (WHOLE_TRAIN, "auto"),
        pytest.param(LARGE_TRAIN, "auto", marks=pytest.mark.faults),
        (SMALL_SOFTMAX_TRAIN, "exact"),
        (SMALL_SOFTMAX, "auto"),
        (SMALL, "auto"),
    ],
    ids=str,
)
def test_gradient_of_every_parameter(case: Case, conv: str) -> None:
    expected = torch_gradient(case, torch.float64)
    got = our_gradient(case, conv, double=True)
    assert got.keys() == expected.keys()

    zero = {path for path in got if vanishes(path, norm=case.norm, train=case.train)}
    error, path = largest_error(
        {path: got[path] for path in got.keys() - zero},
        {path: expected[path] for path in got.keys() - zero},
    )
    assert error < GRADIENT, f"{path}: {error:.1e}"
    for path in zero:
        scale = np.linalg.norm(expected[neighbour(path)])
        assert np.linalg.norm(expected[path]) < ROUNDING * scale, path
        if is_conv_bias(path):
            assert not got[path].any(), path
        else:
            assert np.linalg.norm(got[path]) < ROUNDING * scale, path


@pytest.mark.parametrize("conv", ["auto", "exact"])
def test_single_precision_is_off_by_rounding(conv: str) -> None:
    """Which activations flip is chance: those that rounding may flip are part of the bound."""
    structure, params, stats = from_torch(
        torch_network(SMALL.norm, SMALL.sizes), replace(SMALL.sizes, norm=SMALL.norm)
    )
    image = torch_images(random_images(2, SMALL.side, seed=2), torch.float64)
    with jax.enable_x64(True):
        value, bound = rounding(
            lambda params: gradient(
                structure, False, params, as_double(stats), image.permute(0, 2, 3, 1).numpy()
            ),
            params,
            terms=fan_in,
            whole=True,
        )
    assert_within(our_gradient(SMALL, conv, double=False), value, bound, whole=True)
