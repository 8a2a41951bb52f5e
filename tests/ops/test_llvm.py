"""Convolutions compiled for the processor against float64, on every width of vectors."""

from __future__ import annotations

import ctypes
import gc
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_attn.errors import UsageError
from flax_attn.models.vgg import ConvStage
from flax_attn.ops import llvm, winograd
from flax_attn.ops.conv import choose_form, conv3x3_affine_relu
from flax_attn.ops.direct import xla3x3
from flax_attn.ops.llvm import host_kernels, require_kernels, self_test
from flax_attn.ops.llvm.compile import MACHINES, compiled
from flax_attn.ops.llvm.operations import (
    convolve,
    convolve_affine_relu,
    normalise_relu,
    normalise_relu_convolve,
)

# b, h, w, c, d: one pixel; one row; sides that are no multiple of a tile; more tiles than a
# block; more than are in memory at once; many channels; channels that fill no vector.
SHAPES = [
    (1, 1, 1, 64, 64),
    (2, 1, 9, 64, 128),
    (3, 13, 6, 128, 64),
    (7, 20, 19, 64, 64),
    (2, 14, 14, 512, 512),
    (2, 9, 8, 3, 64),
    (2, 6, 5, 1, 70),
]
# The share of the largest value that may be off; 3e-6 is the most seen here.
LIMIT = 1e-5


@pytest.fixture(params=MACHINES)
def code(request: pytest.FixtureRequest):
    """Kernels with vectors of every width; LLVM splits those that the processor lacks."""
    return compiled(MACHINES[request.param])


def arrays(shape: tuple[int, ...], seed: int = 3) -> list[np.ndarray]:
    b, h, w, c, d = shape
    rng = np.random.default_rng(seed)
    sizes = [(b, h, w, c), (3, 3, c, d), (2, d), (b, h, w, d)]
    return [rng.standard_normal(size).astype(np.float32) for size in sizes]


def value_and_gradients(form, g, *operands):
    out, vjp = jax.vjp(form, *operands)
    return out, *vjp(g)


def worst(form, reference, g, *operands) -> list[float]:
    """Largest error of the value and of each gradient, as a share of the largest value."""
    results = jax.jit(value_and_gradients, static_argnums=0)(form, g, *operands)
    with jax.enable_x64(True):
        wide = [jnp.asarray(a, jnp.float64) for a in (g, *operands)]
        wanted = jax.jit(value_and_gradients, static_argnums=0)(reference, *wide)
        pairs = zip(results, wanted, strict=True)
        return [float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradients(code, shape):
    x, kernel, _, g = arrays(shape)
    assert max(worst(lambda *a: convolve(code, *a), xla3x3, g, x, kernel)) < LIMIT


@pytest.mark.parametrize("shape", SHAPES[2:4], ids=str)
def test_affine_and_relu(code, shape):
    x, kernel, (factor, offset), g = arrays(shape)

    def reference(x, kernel, factor, offset):
        return jax.nn.relu(xla3x3(x, kernel) * factor + offset)

    def form(*operands):
        return convolve_affine_relu(code, *operands)

    assert max(worst(form, reference, g, x, kernel, factor, 20 * offset)) < LIMIT


def test_more_tiles_than_fit_in_memory(code):
    # 512 channels fill the room of the gradient with a few hundred tiles.
    x, kernel, _, g = arrays((3, 50, 48, 512, 64))
    assert max(worst(lambda *a: convolve(code, *a), xla3x3, g, x, kernel)) < LIMIT


def test_what_is_not_a_number_stays_one(code):
    x, kernel, affine, _ = arrays((1, 8, 8, 64, 64))
    x[0, 0, 0, 0] = np.nan
    out = np.asarray(jax.jit(lambda *a: convolve_affine_relu(code, *a))(x, kernel, *affine))
    assert np.isnan(out[0, 0, 0]).all()
    assert not np.isnan(out[0, 4:, 4:]).any()


def test_the_same_bytes_again(code):
    x, kernel, _, g = arrays((4, 28, 28, 64, 64))
    run = jax.jit(lambda *a: value_and_gradients(lambda *b: convolve(code, *b), *a))
    first = [np.asarray(a).tobytes() for a in run(g, x, kernel)]
    for _ in range(5):
        assert [np.asarray(a).tobytes() for a in run(g, x, kernel)] == first


def test_many_at_once(code):
    # More calls than threads: each shares its work with threads that wait for theirs.
    x, kernel, _, g = arrays((2, 24, 24, 64, 64))
    run = jax.jit(lambda *a: value_and_gradients(lambda *b: convolve(code, *b), *a))
    first = [np.asarray(a) for a in run(g, x, kernel)]

    def again(_: int) -> bool:
        pairs = zip(run(g, x, kernel), first, strict=True)
        return all(np.array_equal(a, b) for a, b in pairs)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(again, range(60), timeout=60))


def test_no_images_and_many_batches(code):
    x, kernel, _, _ = arrays((3, 8, 8, 64, 64))
    assert convolve(code, jnp.zeros((0, 8, 8, 64)), kernel).shape == (0, 8, 8, 64)
    batches = jnp.stack([x, 2 * x])
    many = jax.jit(jax.vmap(lambda a: convolve(code, a, kernel)))(batches)
    np.testing.assert_array_equal(many[1], convolve(code, batches[1], kernel))


def test_maps_are_a_convolution():
    rng = np.random.default_rng(0)
    d, g, y = rng.standard_normal(6), rng.standard_normal(3), rng.standard_normal(4)
    products = np.multiply(winograd.kernel_map(g), winograd.input_map(d))
    np.testing.assert_allclose(winograd.output_map(products), np.correlate(d, g), atol=1e-12)
    cotangents = np.multiply(winograd.cotangent_map(y), winograd.input_map(d))
    np.testing.assert_allclose(winograd.tap_map(cotangents), np.correlate(d, y), atol=1e-12)


def test_where_they_are_used():
    assert host_kernels() is not None
    assert choose_form((8, 224, 224, 3), 64) == "compiled"
    assert choose_form((8, 56, 56, 256), 256) == "compiled"
    assert choose_form((8, 56, 56, 256), 256, jnp.bfloat16) != "compiled"
    assert choose_form((8, 56, 56, 256), 2) == "direct"
    assert choose_form((8, 56, 56, 8), 256) == "direct"
    x, kernel, affine, _ = arrays((2, 28, 28, 64, 64))
    fast = conv3x3_affine_relu(x, kernel, *affine, impl="fast")
    code = host_kernels()
    assert code is not None
    np.testing.assert_array_equal(fast, convolve_affine_relu(code, x, kernel, *affine))
    exact = conv3x3_affine_relu(x, kernel, *affine, impl="exact")
    assert not np.array_equal(fast, exact)
    np.testing.assert_allclose(fast, exact, atol=LIMIT * float(np.abs(exact).max()))


def test_a_stage_in_training_keeps_no_normalised_map():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 16, 16, 64)).astype(np.float32)

    def trained(impl: str):
        stage = ConvStage(64, 64, depth=3, impl=impl, rngs=nnx.Rngs(0))
        structure, params, stats = nnx.split(stage, nnx.Param, nnx.BatchStat)

        def loss(params, x, stats):
            again = nnx.merge(structure, params, stats)
            out = again.convolve(x, train=True)
            return jnp.square(out).mean(), nnx.as_pure(nnx.state(again, nnx.BatchStat))

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), (
            nnx.as_pure(params),
            x,
            nnx.as_pure(stats),
        )

    step, operands = trained("fast")
    program = str(jax.make_jaxpr(step)(*operands))
    calls = re.findall(r"flax_attn_(\w+?)_\d+", program)
    counts = {name: calls.count(name) for name in set(calls)}
    assert counts["convolve"] == counts["kernel_gradient"] == 1
    assert counts["convolve_normalised"] == counts["normalised_kernel_gradient"] == 2
    (fast, gradients), (exact, wanted) = (
        jax.jit(step)(*operands) for step in (step, trained("exact")[0])
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), fast, exact)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(wanted), strict=True):
        assert jnp.abs(a - b).max() <= 1e-3 * jnp.abs(b).max() + 1e-7


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch):
    """The look for kernels is taken anew, before and after."""
    host_kernels.cache_clear()
    yield monkeypatch
    host_kernels.cache_clear()


def test_without_llvmlite(forgetful):
    forgetful.setitem(sys.modules, "llvmlite", None)
    assert host_kernels() is None
    assert choose_form((8, 56, 56, 256), 256) == "winograd"
    with pytest.raises(UsageError, match="no compiled convolutions"):
        require_kernels()


def test_wrong_kernels_are_left_alone(forgetful):
    def off(*operands):
        return convolve_affine_relu(*operands) * 1.001

    forgetful.setattr(self_test, "convolve_affine_relu", off)
    with pytest.warns(RuntimeWarning, match="not used: off by 1.0e-03"):
        assert host_kernels() is None


def test_kernels_that_fail_are_left_alone(forgetful):
    def fails(*_):
        raise RuntimeError("no such instruction")

    forgetful.setattr(self_test, "convolve_affine_relu", fails)
    with pytest.warns(RuntimeWarning, match="not used: no such instruction"):
        assert host_kernels() is None


def test_the_look_at_them_compares_with_a_convolution():
    code = host_kernels()
    assert code is not None
    found = self_test.differences(code)
    assert found.keys() == {"convolution", "normalisation", "both"}
    assert 0 < max(found.values()) < llvm.TOLERANCE / 10


def normalised(x, scale, bias):
    axes = (0, 1, 2)
    var = jnp.square(x - x.mean(axes)).mean(axes)
    return (x - x.mean(axes)) / jnp.sqrt(var + 1e-5) * scale + bias


def normalised_relu(*operands):
    return jax.nn.relu(normalised(*operands))


@pytest.mark.parametrize("shape", [(1, 2, 3, 64), (3, 20, 19, 128), (2, 5, 6, 64)], ids=str)
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_normalisation_and_relu(code, shape, mean):
    rng = np.random.default_rng(5)
    x, g = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    x = mean + x * np.linspace(0.5, 3, shape[-1], dtype=np.float32)
    scale, bias = rng.standard_normal((2, shape[-1])).astype(np.float32)
    axes = (0, 1, 2)

    def form(*operands):
        return normalise_relu(code, 1e-5, *operands).out

    # What lies so near zero may fall on either side of it.
    g = np.where(np.abs(normalised(x.astype(np.float64), scale, bias)) < 1e-3, 0, g)
    assert max(worst(form, normalised_relu, g.astype(np.float32), x, scale, bias)) < 3e-5
    found = normalise_relu(code, 1e-5, x, scale, bias)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(found.mean, wide.mean(axes), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.var, wide.var(axes), rtol=1e-5)


@pytest.mark.parametrize("shape", [*SHAPES[1:4], (3, 50, 48, 512, 64)], ids=str)
def test_normalisation_relu_and_convolution(code, shape):
    x, kernel, (scale, bias), g = arrays(shape)
    scale, bias = np.resize(scale, shape[3]), np.resize(bias, shape[3])
    scale[0], bias[:2] = 0, 3  # all of a channel above zero, as nothing beyond the border is

    def reference(x, scale, bias, kernel):
        return xla3x3(normalised_relu(x, scale, bias), kernel)

    def form(*operands):
        return normalise_relu_convolve(code, 1e-5, *operands).out

    # What lies near zero is moved away from it, so that it falls on one side of it.
    factor = scale / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    near = np.abs(normalised(x.astype(np.float64), scale, bias)) < 1e-2
    x = np.where(near, x + 0.1 / np.where(factor, factor, 1), x).astype(np.float32)
    assert max(worst(form, reference, g, x, scale, bias, kernel)) < 3e-5
    found, wanted = normalise_relu_convolve(code, 1e-5, x, scale, bias, kernel), x.mean((0, 1, 2))
    np.testing.assert_allclose(found.mean, wanted, atol=1e-5)
    np.testing.assert_allclose(found.var, x.var((0, 1, 2)), rtol=1e-4)


def test_normalised_values_that_are_no_number_stay_none(code):
    x, kernel, (scale, bias), _ = arrays((2, 8, 8, 64, 64))
    x[0, 0, 0, 0] = np.nan
    assert np.isnan(normalise_relu_convolve(code, 1e-5, x, scale, bias, kernel).out).all()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are not kept elsewhere")
def test_without_memory_the_step_fails_and_the_process_lives():
    # Of 1,024 channels the transformed kernels take 151 MB, what XLA itself needs 15 MB. The first
    # run must be over when memory is counted, or its own memory is allowed to the second.
    script = """
import resource
import jax, jax.numpy as jnp
from flax_attn.ops.llvm import require_kernels
from flax_attn.ops.llvm.operations import convolve

x, kernel = jnp.ones((1, 60, 60, 1024)), jnp.ones((3, 3, 1024, 1024))
run = jax.jit(lambda *a: convolve(require_kernels(), *a)[0, 1, 1, 0]).lower(x, kernel).compile()
run(x, kernel).block_until_ready()
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (75 << 20), resource.RLIM_INFINITY))
try:
    run(x, kernel).block_until_ready()
except Exception as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
print(float(run(x, kernel)))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    error, value = done.stdout.splitlines()
    assert "RESOURCE_EXHAUSTED" in error and "use a smaller --batch-size" in error
    assert float(value) == pytest.approx(9 * 1024, rel=LIMIT)


def test_nothing_is_kept_of_a_call():
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("only glibc says how much memory is in use")

    class Info(ctypes.Structure):
        _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]

    libc.mallinfo2.restype = Info
    code = host_kernels()
    x, kernel = (jnp.asarray(a) for a in arrays((1, 4, 4, 64, 64))[:2])
    run = jax.jit(lambda *a: convolve(code, *a))

    def in_use() -> int:
        return libc.mallinfo2().field7  # uordblks, bytes of the main arena

    def calls(count: int) -> None:
        for _ in range(count):
            run(x, kernel).block_until_ready()
        gc.collect()

    calls(500)
    before = in_use()
    calls(2000)
    # A call takes two jobs of 56 bytes.
    assert in_use() - before < 2000 * 56 / 10
