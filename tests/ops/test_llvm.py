"""Convolutions compiled for the processor against float64, on every width of vectors."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import platform
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from llvmlite import ir

from flax_attn.errors import UsageError
from flax_attn.models.vgg import ConvStage
from flax_attn.ops import llvm, winograd
from flax_attn.ops.conv import choose_form, conv3x3_affine_relu
from flax_attn.ops.direct import xla3x3
from flax_attn.ops.llvm import compile, host_kernels, require_kernels, self_test
from flax_attn.ops.llvm.compile import MACHINES, Compiled, compiled, host_machine
from flax_attn.ops.llvm.operations import (
    convolve,
    convolve_affine_relu,
    normalise_relu,
    normalise_relu_convolve,
)
from flax_attn.runs.directory import describe_device
from tests.helpers.bounds import (
    DOUBLE,
    assert_within,
    conv_reference,
    convolve3x3,
    gamma,
    probable,
    rounding,
    winograd_bound,
    winograd_bounds,
    winograd_factor,
)
from tests.helpers.kernels import SHAPES, needs_kernels, printed_with_other_threads

pytestmark = pytest.mark.numerical


@pytest.fixture(params=MACHINES)
def code(request: pytest.FixtureRequest):
    """Kernels with vectors of every width; LLVM splits those that the processor lacks."""
    if host_machine() is None:
        pytest.skip("no kernels for this processor")
    return compiled(MACHINES[request.param])


def arrays(shape: tuple[int, ...], seed: int = 3) -> list[np.ndarray]:
    b, h, w, c, d = shape
    rng = np.random.default_rng(seed)
    sizes = [(b, h, w, c), (3, 3, c, d), (2, d), (b, h, w, d)]
    return [rng.standard_normal(size).astype(np.float32) for size in sizes]


def value_and_gradients(form, g, *operands):
    out, vjp = jax.vjp(form, *operands)
    return out, *vjp(g)


judged = jax.jit(value_and_gradients, static_argnums=0)


# The same for every width of vectors.
@cache
def wanted_convolution(shape):
    x, kernel, _, g = (np.asarray(a, np.float64) for a in arrays(shape))
    return conv_reference(x, kernel, g), winograd_bounds(x, kernel, g)


def check_convolution(code, shape) -> None:
    x, kernel, _, g = arrays(shape)
    got = judged(lambda *a: convolve(code, *a), g, x, kernel)
    assert_within(list(got), *wanted_convolution(shape))


WANTED: dict[object, tuple] = {}


def check_gradients(form, reference, key, terms, g, *operands) -> None:
    """Value and gradients are those of ``reference``, each but for rounding, by their norms.

    What is wanted is the same for every width of vectors, and kept under ``key``.
    """
    if key not in WANTED:
        with jax.enable_x64(True):
            WANTED[key] = rounding(
                partial(judged, reference), g, *operands, terms=terms, whole=True
            )
    assert_within(judged(form, g, *operands), *WANTED[key], whole=True)


def terms_of(shape: tuple[int, ...]) -> float:
    """The summands of the longest sum, times what Winograd's form makes of each."""
    b, h, w, c, d = shape
    return max(9 * c, 9 * d, b * h * w) * winograd_factor(min(c, d)) ** 2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradients(code, shape):
    check_convolution(code, shape)


@pytest.mark.parametrize("shape", SHAPES[2:4], ids=str)
def test_affine_and_relu(code, shape):
    x, kernel, (factor, offset), g = arrays(shape)
    offset *= 20

    def affine(x, kernel):
        return convolve3x3(*(a.astype(np.float64) for a in (x, kernel))) * factor + offset

    def reference(x, kernel, factor, offset):
        return jax.nn.relu(xla3x3(x, kernel) * factor + offset)

    def form(*operands):
        return convolve_affine_relu(code, *operands)

    # What lies so near zero may fall on either side of it.
    g = np.where(np.abs(affine(x, kernel)) < 1e-2, 0, g).astype(np.float32)
    check_gradients(
        form, reference, ("affine", shape), terms_of(shape), g, x, kernel, factor, offset
    )


def test_more_tiles_than_fit_in_memory(code):
    # 512 channels fill the room of the gradient with a few hundred tiles.
    check_convolution(code, (3, 50, 48, 512, 64))


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


def outputs() -> list[str]:
    """Digests of values and gradients: blocks of tiles in a worker's own memory, and panels."""
    code = require_kernels()
    digests = []
    for shape in ((4, 28, 27, 64, 64), (2, 57, 41, 192, 64)):
        x, kernel, _, g = arrays(shape)
        found = judged(lambda *a: convolve(code, *a), g, x, kernel)
        digests += [hashlib.sha256(np.asarray(a).tobytes()).hexdigest() for a in found]
    return digests


@needs_kernels
def test_bytes_do_not_depend_on_threads(monkeypatch):
    script = "from tests.ops.test_llvm import outputs; print(*outputs())"
    # Blocks of tiles are cut otherwise, and the rounds of a kernel's gradient.
    assert printed_with_other_threads(script, monkeypatch) == outputs()


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
    # Each value passes the longest row of three maps; their entries are below ten.
    limit = 10**3 * gamma(3 * 6, DOUBLE)
    assert np.abs(winograd.output_map(products) - np.correlate(d, g)).max() < limit
    cotangents = np.multiply(winograd.cotangent_map(y), winograd.input_map(d))
    assert np.abs(winograd.tap_map(cotangents) - np.correlate(d, y)).max() < limit


@needs_kernels
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
    wide = (np.asarray(a, np.float64) for a in (x, kernel))
    limit = 2 * winograd_bound(*wide) * np.abs(affine[0]) + 2 * gamma(2) * np.abs(affine[1])
    assert_within(fast, exact, limit)


@needs_kernels
def test_a_stage_without_normalisation_is_compiled_throughout():
    """Forward and backward: a call for each convolution and gradient, nothing of XLA's own."""
    stage = ConvStage(64, 64, depth=3, norm=False, impl="fast", rngs=nnx.Rngs(0))
    structure, params = nnx.split(stage)
    x = jnp.ones((2, 32, 32, 64))

    def loss(params, x):
        return nnx.merge(structure, params).convolve(x, train=True).sum()

    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    program = str(jax.make_jaxpr(step)(params, x))
    calls = re.findall(r"flax_attn_(\w+?)_\d+", program)
    names = ("convolve_affine_relu", "convolve_turned", "kernel_gradient")
    assert {name: calls.count(name) for name in set(calls)} == dict.fromkeys(names, 3)
    assert "conv_general_dilated" not in program
    # XLA drops the products with a factor of one, and the factor's own gradient.
    assert " multiply(" not in step.lower(params, x).compile().as_text()


@needs_kernels
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
    with jax.enable_x64(True):
        params, image, stats = operands

        def reference(params, image, stats):
            return jax.jit(trained("exact")[0])(params, image, stats)

        terms = terms_of((*image.shape, 64))
        value, bound = rounding(reference, params, image, stats, terms=terms, whole=True)
    assert_within(jax.jit(step)(*operands), value, bound, whole=True)


def test_they_keep_to_what_xla_is_limited_to(monkeypatch: pytest.MonkeyPatch):
    lanes = {}
    for limit in ("", "AVX512", "AVX2", "avx", "SSE4_2"):
        monkeypatch.setenv("XLA_FLAGS", f"--xla_cpu_max_isa={limit}" if limit else "")
        machine = host_machine()
        lanes[limit] = machine.lanes if machine else 0
        assert (f"limited to {limit.upper()}" in describe_device()) == bool(limit)
    if platform.machine() in ("x86_64", "AMD64"):
        assert lanes["AVX512"] == lanes[""] and lanes["AVX2"] == min(8, lanes[""])
        assert lanes["avx"] == lanes["SSE4_2"] == 0
    else:
        assert set(lanes.values()) == {lanes[""]}


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch):
    """The look for kernels is taken anew, before and after."""
    llvm._build.cache_clear()
    yield monkeypatch
    llvm._build.cache_clear()


def test_without_llvmlite(forgetful):
    forgetful.setitem(sys.modules, "llvmlite", None)
    assert host_kernels() is None
    assert choose_form((8, 56, 56, 256), 256) == "winograd"
    with pytest.raises(UsageError, match="no compiled convolutions"):
        require_kernels()


@needs_kernels
def test_wrong_kernels_are_left_alone(forgetful):
    def off(*operands):
        return convolve_affine_relu(*operands) * 1.001

    forgetful.setattr(self_test, "convolve_affine_relu", off)
    with pytest.warns(RuntimeWarning, match="not used: off by 1.0e-03"):
        assert host_kernels() is None


@needs_kernels
def test_kernels_that_fail_are_left_alone(forgetful):
    def fails(*_):
        raise RuntimeError("no such instruction")

    forgetful.setattr(self_test, "convolve_affine_relu", fails)
    with pytest.warns(RuntimeWarning, match="not used: no such instruction"):
        assert host_kernels() is None


@needs_kernels
def test_the_look_at_them_compares_with_a_convolution():
    code = host_kernels()
    assert code is not None
    found = self_test.differences(code)
    many = {f"{name} of many tiles" for name in ("convolution", "affine convolution", "both")}
    assert found.keys() == {"convolution", "normalisation", "both"} | many
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

    def form(*operands):
        return normalise_relu(code, 1e-5, *operands).out

    # What lies so near zero may fall on either side of it.
    g = np.where(np.abs(normalised(x.astype(np.float64), scale, bias)) < 1e-3, 0, g)
    pixels = x[..., 0].size
    g, key = g.astype(np.float32), ("normalisation", shape, mean)
    check_gradients(form, normalised_relu, key, pixels, g, x, scale, bias)
    check_moments(normalise_relu(code, 1e-5, x, scale, bias), x)


def test_a_gradient_is_overwritten_only_where_nothing_else_needs_it(code):
    x, _, (scale, bias), g = arrays((2, 5, 6, 64, 64))

    def form(x):
        return normalise_relu(code, 1e-5, x, scale, bias).out

    @jax.jit
    def used_twice(x, g):
        (dx,) = jax.vjp(form, x)[1](g)
        return dx, 2 * g

    g = jnp.asarray(g)
    kept = np.array(g)
    first, twice = used_twice(x, g)
    np.testing.assert_array_equal(g, kept)
    np.testing.assert_array_equal(twice, 2 * kept)
    np.testing.assert_array_equal(used_twice(x, g)[0], first)


def check_moments(found, x) -> None:
    """Sums of the distances from one of the pixels, and of their squares."""
    (_, h, w, _), axes, wide = x.shape, (0, 1, 2), x.astype(np.float64)
    away = wide - wide[0, h // 2, w // 2]
    error = probable(x[..., 0].size + 3)
    mean_error = error * np.abs(away).mean(axes) + gamma(1) * np.abs(wide.mean(axes))
    assert_within(found.mean, wide.mean(axes), mean_error)
    assert_within(found.var, wide.var(axes), 3 * error * np.square(away).mean(axes))


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
    check_gradients(form, reference, ("both", shape), terms_of(shape), g, x, scale, bias, kernel)
    check_moments(normalise_relu_convolve(code, 1e-5, x, scale, bias, kernel), x)


def test_normalised_values_that_are_no_number_stay_none(code):
    x, kernel, (scale, bias), _ = arrays((2, 8, 8, 64, 64))
    x[0, 0, 0, 0] = np.nan
    assert np.isnan(normalise_relu_convolve(code, 1e-5, x, scale, bias, kernel).out).all()


@needs_kernels
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are not kept elsewhere")
def test_without_memory_the_step_fails_and_the_process_lives():
    # Of 1,024 channels the sums of the kernel's gradient take 151 MB, what XLA itself needs 53 MB.
    # The first run must be over when memory is counted, or its own memory is allowed to the second.
    script = """
import resource
import jax, jax.numpy as jnp
from flax_attn.ops.llvm import require_kernels
from flax_attn.ops.llvm.operations import kernel_gradient

x = jnp.ones((1, 60, 60, 1024))
run = jax.jit(lambda x: kernel_gradient(require_kernels(), x, x)[1, 1, 0, 0]).lower(x).compile()
run(x).block_until_ready()
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (75 << 20), resource.RLIM_INFINITY))
try:
    run(x).block_until_ready()
except Exception as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
print(float(run(x)))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    error, value = done.stdout.splitlines()
    assert "RESOURCE_EXHAUSTED" in error and "use a smaller --batch-size" in error
    assert float(value) == pytest.approx(60**2, rel=winograd_factor(1024) * probable(60**2))


@needs_kernels
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


def test_kernels_are_built_once_by_whoever_asks_first(monkeypatch):
    """A training builds them in a thread, and traces its first network meanwhile."""
    built, begun = [], threading.Event()

    @cache
    def build():
        built.append(threading.current_thread())
        begun.set()
        time.sleep(0.05)
        return "kernels"

    monkeypatch.setattr(llvm, "_build", build)
    llvm.build_ahead(llvm.host_kernels)
    assert begun.wait(timeout=60)
    assert llvm.host_kernels() == "kernels"
    assert [thread.name for thread in built] == ["kernels"]


KEPT = """
import hashlib
import sys
import jax
import numpy as np
from flax_attn.ops.llvm import compile, require_kernels
from flax_attn.ops.llvm.operations import convolve

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
made = []
make = compile._object_code
compile._object_code = lambda *operands: made.append(1) or make(*operands)
x, kernel = np.ones((1, 28, 28, 64), np.float32), np.ones((3, 3, 64, 64), np.float32)
out = np.asarray(convolve(require_kernels(), x, kernel))
print(len(made), hashlib.sha256(out.tobytes()).hexdigest())
"""


@needs_kernels
def test_a_second_process_finds_the_kernels_beside_the_programs_of_xla(tmp_path):
    def start() -> tuple[str, str]:
        command = [sys.executable, "-c", KEPT, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
        made, digest = done.stdout.split()
        return made, digest

    made, first = start()
    assert made == "1"
    assert start() == ("0", first)
    (kept,) = tmp_path.glob("flax_attn-kernels-*")
    kept.write_bytes(kept.read_bytes()[:-9])
    assert start() == ("1", first)


@needs_kernels
def test_kept_kernels_are_of_one_processor_and_one_source(monkeypatch):
    machine = host_machine()
    names = set()

    def kept_code(name, make):
        names.add(name)
        return make()

    monkeypatch.setattr(compile, "kept_code", kept_code)

    def changed(**settings):
        for name, value in settings.items():
            monkeypatch.setattr(compile, name, value)
        Compiled(machine, lambda machine: ir.Module())

    changed()
    changed()
    assert len(names) == 1
    features = compile._host_features()
    one = next(name for name, has in features.items() if has)
    fewer = type(features)({**features, one: False})
    changed(_host_features=lambda: fewer)
    assert len(names) == 2
    changed(_host_features=lambda: features, SOURCES=(Path(__file__),))
    assert len(names) == 3
