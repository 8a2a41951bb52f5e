"""GFLOP/s of each VGG16 convolution, forward and with its gradients, in every form.

    python -m benchmarks.layers --size 224 --batch 8

All forms of a layer, and a square matrix product as the measure of the machine, run in turn in
every round; the table shows the best round of each. GFLOP count the direct form's arithmetic,
so Winograd's may exceed the matrix product's rate. The first layer needs no input gradient.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import Array

from flax_attn.ops.conv import choose_form
from flax_attn.ops.direct import direct3x3, xla3x3
from flax_attn.ops.llvm import require_kernels
from flax_attn.ops.llvm.operations import convolve
from flax_attn.ops.winograd import winograd3x3
from flax_attn.system.memory import keep_freed_memory

Conv = Callable[[Array, Array], Array]
FORMS: dict[str, Conv] = {
    "xla": xla3x3,
    "direct": direct3x3,
    "winograd": winograd3x3,
    "compiled": lambda x, kernel: convolve(require_kernels(), x, kernel),
}
MATMUL_SIZE = 1536


class Layer(NamedTuple):
    """`repeats` equal convolutions of VGG16; `reduction` is the image size over the layer's."""

    reduction: int
    c: int
    d: int
    repeats: int = 1


VGG16 = (
    Layer(1, 3, 64),
    Layer(1, 64, 64),
    Layer(2, 64, 128),
    Layer(2, 128, 128),
    Layer(4, 128, 256),
    Layer(4, 256, 256, 2),
    Layer(8, 256, 512),
    Layer(8, 512, 512, 2),
    Layer(16, 512, 512, 3),
)


def best_seconds(calls: dict[str, Callable[[], Array]], rounds: int) -> dict[str, float]:
    """Best of `rounds` interleaved runs of every call, after one run to compile."""
    for call in calls.values():
        jax.block_until_ready(call())
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def with_gradients(conv: Conv, input_needs_one: bool) -> Callable:
    def run(x: Array, kernel: Array, g: Array) -> tuple[Array, ...]:
        if input_needs_one:
            out, vjp = jax.vjp(conv, x, kernel)
        else:
            out, vjp = jax.vjp(lambda kernel: conv(x, kernel), kernel)
        return out, *vjp(g)

    return jax.jit(run)


def measure(layer: Layer, size: int, batch: int, forms: list[str], rounds: int) -> dict[str, float]:
    """GFLOP/s of "matmul", and of "<form> forward" and "<form> both" for every form."""
    side, first = size // layer.reduction, layer.c == 3
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (batch, side, side, layer.c))
    kernel = jax.random.normal(keys[1], (3, 3, layer.c, layer.d))
    g = jax.random.normal(keys[2], (batch, side, side, layer.d))
    square = jax.random.normal(keys[3], (MATMUL_SIZE, MATMUL_SIZE))
    product = jax.jit(lambda a: a @ a)
    calls: dict[str, Callable] = {"matmul": lambda: product(square)}
    flops = {"matmul": 2 * MATMUL_SIZE**3}
    one = 18 * layer.c * layer.d * batch * side**2
    for form in forms:
        forward, both = jax.jit(FORMS[form]), with_gradients(FORMS[form], not first)
        calls[f"{form} forward"] = lambda f=forward: f(x, kernel)
        calls[f"{form} both"] = lambda f=both: f(x, kernel, g)
        flops[f"{form} forward"], flops[f"{form} both"] = one, (2 if first else 3) * one
    seconds = best_seconds(calls, rounds)
    return {name: flops[name] / seconds[name] / 1e9 for name in calls}


def main() -> None:
    parser = argparse.ArgumentParser(description="GFLOP/s of each VGG16 convolution in every form.")
    parser.add_argument("--size", type=int, default=224, help="image side in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    args = parser.parse_args()
    keep_freed_memory()
    print(f"{args.size} px, batch {args.batch}: GFLOP/s (share of the matrix product's rate)")
    columns = [f"{form} {what}" for form in args.forms for what in ("forward", "both")]
    print(f"{'layer':<16}{'auto':<10}{'matmul':>7}" + "".join(f"{c:>18}" for c in columns))
    for layer in VGG16:
        rates = measure(layer, args.size, args.batch, args.forms, args.rounds)
        side = args.size // layer.reduction
        chosen = choose_form((args.batch, side, side, layer.c), layer.d)
        cells = [f"{rates[c]:.0f} ({rates[c] / rates['matmul']:.0%})" for c in columns]
        name = f"{side}x{layer.c}->{layer.d} x{layer.repeats}"
        row = "".join(f"{cell:>18}" for cell in cells)
        print(f"{name:<16}{chosen:<10}{rates['matmul']:>7.0f}{row}", flush=True)


if __name__ == "__main__":
    main()
