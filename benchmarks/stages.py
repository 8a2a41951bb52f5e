"""Milliseconds an image of each VGG16 stage in evaluation: its operations one by one, and at once.

    python -m benchmarks.stages --size 224 --batch 8

Both run in turn in every round; the table shows the best round of each.
"""

from __future__ import annotations

import argparse
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks.layers import best_seconds
from flax_attn.config import BACKBONES, VGG_FAMILY
from flax_attn.ops.conv import conv3x3_affine_relu
from flax_attn.ops.conv_stage import conv_stage
from flax_attn.ops.llvm.evaluation_operations import AffineConv
from flax_attn.ops.pooling import max_pool2x2
from flax_attn.system.memory import keep_freed_memory


def one_by_one(x: jax.Array, layers: list[AffineConv]) -> jax.Array:
    for layer in layers:
        x = conv3x3_affine_relu(x, *layer, impl="fast")
    return max_pool2x2(x, impl="fast")


def measure(side: int, batch: int, widths: list[int], rounds: int) -> tuple[float, float]:
    """Milliseconds an image in both forms, of a stage whose maps have these channels."""
    keys = iter(jax.random.split(jax.random.key(0), 2 * len(widths)))
    x = jax.random.normal(next(keys), (batch, side, side, widths[0]))
    layers = [
        AffineConv(jax.random.normal(next(keys), (3, 3, c, d)), jnp.ones(d), jnp.zeros(d))
        for c, d in zip(widths, widths[1:], strict=False)
    ]
    before = jax.jit(one_by_one)
    at_once = jax.jit(partial(conv_stage, pooled=True, impl="fast"))
    calls = {"before": lambda: before(x, layers), "at once": lambda: at_once(x, layers)}
    seconds = best_seconds(calls, rounds)
    return seconds["before"] / batch * 1e3, seconds["at once"] / batch * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description="Milliseconds an image of each VGG16 stage.")
    parser.add_argument("--size", type=int, default=224, help="image side in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    keep_freed_memory()
    print(f"{args.size} px, batch {args.batch}: ms an image")
    print(f"{'stage':<24}{'one by one':>12}{'at once':>12}{'ratio':>8}")
    c, totals = 3, [0.0, 0.0]
    for i, depth in enumerate(BACKBONES["vgg16_bn"].depths):
        widths = [c, *[VGG_FAMILY.widths[i]] * depth]
        times = measure(args.size >> i, args.batch, widths, args.rounds)
        name = f"{args.size >> i}: {'-'.join(map(str, widths))}"
        print(
            f"{name:<24}{times[0]:>12.2f}{times[1]:>12.2f}{times[0] / times[1]:>8.2f}", flush=True
        )
        c, totals = widths[-1], [total + time for total, time in zip(totals, times, strict=True)]
    print(f"{'all':<24}{totals[0]:>12.2f}{totals[1]:>12.2f}{totals[0] / totals[1]:>8.2f}")


if __name__ == "__main__":
    main()
