"""Layers of a stage in evaluation, compiled for every width of vectors, against float64."""

from __future__ import annotations

import hashlib
import re
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_attn.errors import UsageError
from flax_attn.models.vgg import VGG, ConvStage
from flax_attn.ops import conv_stage as stages
from flax_attn.ops import llvm
from flax_attn.ops.conv_stage import conv_stage
from flax_attn.ops.llvm import host_evaluation_kernels, self_test
from flax_attn.ops.llvm.compile import MACHINES, compiled_evaluation, host_machine
from flax_attn.ops.llvm.evaluation_operations import AffineConv, evaluate, evaluate_pair
from tests.helpers.bounds import (
    assert_within,
    convolve3x3,
    gamma,
    product_bound,
    rounding,
    winograd_bound,
    winograd_factor,
)
from tests.helpers.kernels import SHAPES, needs_kernels, printed_with_other_threads

pytestmark = pytest.mark.numerical

# b, h, w, few, c, d: one pixel; odd sides; more than a block of tiles in a row; a unit of several
# rows of tiles; more channels between than a slice.
PAIRS = [
    (1, 1, 1, 3, 64, 64),
    (2, 5, 7, 3, 64, 128),
    (1, 30, 33, 4, 64, 64),
    (2, 61, 27, 1, 128, 64),
    (1, 6, 9, 2, 192, 64),
]


@pytest.fixture(params=MACHINES)
def code(request: pytest.FixtureRequest):
    """Kernels with vectors of every width; LLVM splits those that the processor lacks."""
    if host_machine() is None:
        pytest.skip("no kernels for this processor")
    return compiled_evaluation(MACHINES[request.param])


def layer_of(c: int, d: int, seed: int) -> AffineConv:
    rng = np.random.default_rng(seed)
    kernel, affine = rng.standard_normal((3, 3, c, d)), rng.standard_normal((2, d))
    return AffineConv(*(np.asarray(a, np.float32) for a in (kernel, *affine)))


def image_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def wide(*arrays: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(a, np.float64) for a in arrays]


def by_definition(x: np.ndarray, layer: AffineConv) -> tuple[np.ndarray, np.ndarray]:
    """The output before ReLU, and what an affine map of exact products may be off by."""
    x, kernel, factor, offset = wide(x, *layer)
    value = convolve3x3(x, kernel) * factor
    return value + offset, 2 * gamma(2) * (np.abs(value) + np.abs(offset))


def pooled_of(x: np.ndarray) -> np.ndarray:
    b, h, w, d = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, d).max((2, 4))


@cache
def wanted_layer(shape):
    b, h, w, c, d = shape
    x, layer = image_of(b, h, w, c), layer_of(c, d, 0)
    value, off = by_definition(x, layer)
    bound = winograd_bound(*wide(x, layer.kernel)) * np.abs(layer.factor) + off
    return x, layer, np.maximum(value, 0), bound


@cache
def wanted_pair(shape):
    b, h, w, few, c, d = shape
    x, first, second = image_of(b, h, w, few), layer_of(few, c, 1), layer_of(c, d, 2)
    between, off = by_definition(x, first)
    squares = convolve3x3(*(np.square(a) for a in wide(x, first.kernel)))
    off += product_bound(9 * few, squares) * np.abs(first.factor)
    between = np.maximum(between, 0)
    value, bound = by_definition(between, second)
    # Errors of the map between have random signs.
    through = np.sqrt(convolve3x3(np.square(off), np.square(wide(second.kernel)[0])))
    own = winograd_bound(between, wide(second.kernel)[0])
    return x, first, second, np.maximum(value, 0), bound + (own + through) * np.abs(second.factor)


def check(form, value, bound) -> None:
    """The form is right for every pixel, and pooled if there is a window."""
    out = np.asarray(jax.jit(partial(form, pooled=False))())
    assert_within(out, value, bound)
    if min(value.shape[1:3]) > 1:
        pooled = np.asarray(jax.jit(partial(form, pooled=True))())
        np.testing.assert_array_equal(pooled, pooled_of(out))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_layer_and_its_pooling(code, shape):
    x, layer, value, bound = wanted_layer(shape)
    check(partial(evaluate, code, x, layer), value, bound)


@pytest.mark.parametrize("shape", PAIRS, ids=str)
def test_two_layers_of_an_image_of_few_channels(code, shape):
    x, first, second, value, bound = wanted_pair(shape)
    check(partial(evaluate_pair, code, x, first, second), value, bound)


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
def test_what_is_not_a_number_stays_one(code, place):
    """A maximum of four is NaN wherever in the window it is, and no other pixel is."""
    x, layer = image_of(1, 8, 8, 16), layer_of(16, 64, 0)
    # An image of a centre tap alone keeps what is not a number in the rows and columns of a tile.
    x[0, 4 + place[0], 4 + place[1], 0] = np.nan
    run = jax.jit(partial(evaluate, code, layer=layer), static_argnames="pooled")
    full, pooled = (np.isnan(np.asarray(run(x, pooled=p))) for p in (False, True))
    assert full[0, 4:, 4:].any()
    np.testing.assert_array_equal(pooled, pooled_of(full))
    image = image_of(1, 12, 12, 3)
    image[0, 9, 9] = np.nan
    pair = jax.jit(partial(evaluate_pair, code, image, layer_of(3, 64, 1), layer_of(64, 64, 2)))
    full, pooled = (
        np.isnan(np.asarray(jax.jit(partial(pair.__wrapped__, pooled=p))())) for p in (False, True)
    )
    assert full[0, 8:, 8:].all() and not full[0, :4, :4].any()
    np.testing.assert_array_equal(pooled, pooled_of(full))


def vgg_layers() -> list[AffineConv]:
    return [layer_of(3, 64, 0), layer_of(64, 64, 1), layer_of(64, 128, 2), layer_of(128, 128, 3)]


def handlers(form, *operands) -> list[str]:
    return re.findall(r"flax_attn_(\w+?)_\d+", str(jax.make_jaxpr(form)(*operands)))


@needs_kernels
def test_the_maps_of_a_stage_that_are_never_in_memory():
    x, layers = image_of(2, 32, 32, 3), vgg_layers()
    run = partial(conv_stage, impl="fast")
    assert handlers(partial(run, pooled=True), x, layers[:2]) == ["pair_pooled"]
    assert handlers(partial(run, pooled=False), x, layers[:2]) == ["pair"]
    whole = handlers(partial(run, pooled=True), x, layers)
    assert whole == ["pair", "evaluate", "evaluate_pooled"]
    assert handlers(partial(run, pooled=True), x, layers[:1]) == ["evaluate_pooled"]
    assert not handlers(partial(conv_stage, pooled=True, impl="exact"), x, layers)
    # Three tiles repay nothing; a type of fewer bits and channels that fill no vector have no form.
    assert not handlers(partial(run, pooled=True), x[:1, :4, :12], layers)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (x, layers))
    assert not handlers(partial(run, pooled=True), *half)
    assert not handlers(partial(run, pooled=True), image_of(2, 8, 8, 8), [layer_of(8, 8, 0)])


@needs_kernels
def test_a_stage_has_the_values_and_gradients_of_its_operations():
    x, layers = image_of(1, 9, 14, 3), vgg_layers()[:2]

    def loss(form, x, layers):
        out = form(x, layers)
        return jnp.square(out).mean(), out

    def judged(impl, *operands):
        form = partial(conv_stage, pooled=True, impl=impl)
        step = jax.value_and_grad(partial(loss, form), argnums=(0, 1), has_aux=True)
        return jax.jit(step)(*operands)

    terms = 9 * 64 * winograd_factor(64) ** 2
    with jax.enable_x64(True):
        value, bound = rounding(partial(judged, "exact"), x, layers, terms=terms, whole=True)
    assert_within(judged("fast", x, layers), value, bound, whole=True)
    fast, exact = (jax.jit(partial(conv_stage, pooled=True, impl=i)) for i in ("fast", "exact"))
    assert_within(fast(x, layers), value[0][1], bound[0][1], whole=True)
    assert not np.array_equal(fast(x, layers), exact(x, layers))


def digest(out: jax.Array) -> str:
    return hashlib.sha256(np.asarray(out).tobytes()).hexdigest()


def outputs() -> list[str]:
    """Digests of all forms: two layers together, blocks of tiles, and panels of outputs."""
    layers = [*vgg_layers(), layer_of(128, 192, 4), layer_of(192, 64, 5)]
    stage = jax.jit(partial(conv_stage, pooled=True, impl="fast"))
    return [digest(stage(image_of(b, 62, 60, 3), layers)) for b in (1, 3)]


@needs_kernels
def test_bytes_do_not_depend_on_threads_nor_on_how_a_batch_is_cut(
    monkeypatch: pytest.MonkeyPatch,
):
    expected = outputs()
    monkeypatch.setattr(stages, "BYTES_BETWEEN", 1)
    assert "scan" in str(
        jax.make_jaxpr(partial(conv_stage, pooled=True, impl="fast"))(
            image_of(3, 62, 60, 3), vgg_layers()
        )
    )
    jax.clear_caches()
    assert outputs() == expected
    script = "from tests.ops.test_conv_stage import outputs; print(*outputs())"
    # Blocks of tiles are cut otherwise.
    assert printed_with_other_threads(script, monkeypatch) == expected


@needs_kernels
@pytest.mark.parametrize("norm", [True, False], ids=["normalised", "plain"])
def test_evaluation_of_a_network_and_its_activations(norm):
    """The maps are those of the pooled activations, and a batch of one takes the same forms."""
    net = VGG(widths=(64,) * 5, depths=(2, 1, 1, 1, 1), norm=norm, conv="auto", rngs=nnx.Rngs(0))
    image = image_of(1, 32, 64, 3)
    maps, (known, activations) = net(image, train=False), net.with_activations(image, train=False)
    assert maps.keys() == known.keys()
    for name in maps:
        np.testing.assert_array_equal(maps[name], known[name])
    with pytest.raises(ValueError, match="multiples of 32"):
        net(image_of(1, 32, 30, 3), train=False)
    assert activations["conv1"].shape == (1, 32, 64, 64)


@needs_kernels
def test_a_stage_in_evaluation_calls_only_what_evaluates():
    stage = ConvStage(64, 64, depth=2, impl="fast", rngs=nnx.Rngs(0))
    structure, state = nnx.split(stage)

    def run(state, x):
        return nnx.merge(structure, state)(x, train=False)

    assert handlers(run, state, image_of(2, 16, 16, 64)) == ["evaluate", "evaluate_pooled"]


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch):
    """The look for kernels is taken anew, before and after."""
    llvm._build_evaluation.cache_clear()
    yield monkeypatch
    llvm._build_evaluation.cache_clear()


def test_without_llvmlite(forgetful):
    forgetful.setitem(sys.modules, "llvmlite", None)
    assert host_evaluation_kernels() is None
    with pytest.raises(UsageError, match="no compiled convolutions"):
        llvm.require_evaluation_kernels()


@needs_kernels
def test_wrong_kernels_are_left_alone(forgetful):
    def off(*operands, pooled):
        return evaluate_pair(*operands, pooled=pooled) * 1.001

    forgetful.setattr(self_test, "evaluate_pair", off)
    with pytest.warns(RuntimeWarning, match="not used: off by 1.0e-03"):
        assert host_evaluation_kernels() is None


@needs_kernels
def test_the_look_at_them_takes_every_form():
    code = host_evaluation_kernels()
    assert code is not None
    found = self_test.evaluation_differences(code)
    forms = ("few tiles", "many tiles", "two layers")
    assert set(found) == {name + end for name in forms for end in ("", ", pooled")}
    assert 0 < max(found.values()) < llvm.TOLERANCE / 10
