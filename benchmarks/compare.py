"""Training and evaluation of AttnVGG: ours, stock Flax and PyTorch in turn on the same images.

    python -m benchmarks.compare --size 224 --batch 8 [--precision bf16] [--rounds 5] [--only ours]
                                 [--backbone vgg11]

Every contender has a process of its own, as it has with its users, and in each round takes one
step of either kind while the others wait, so that all see the same machine. Each round begins with
another, and before each a pause lets the threads of the one before fall asleep. The table gives
medians over the rounds, images a second, the ratio to the fastest PyTorch, and the most memory that
the steps needed: on a CPU beyond what the process held before the first, on an accelerator in all.
GFLOP/s count the direct arithmetic of the convolutions, as a share of this machine's matrix
product, which is timed in every round, too; forms that need less arithmetic may exceed it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders import CONTENDERS, Step, contender, held_mebibytes, peak_mebibytes
from flax_attn.config import BACKBONES, RESNETS, VGG_FAMILY

TITLES = ("training", "evaluation")
PAUSE_SECONDS = 0.3
MATMUL_SIZE, MATMUL_SIZE_OF_ACCELERATORS = 2048, 8192
DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}


def macs_a_pixel(backbone: str = "vgg16_bn") -> float:
    """Multiply-adds of a backbone's convolutions for each pixel of the image, forward."""
    return _resnet_macs(backbone) if backbone in RESNETS else _vgg_macs(backbone)


def _vgg_macs(backbone: str) -> float:
    macs, before = 0.0, 3
    for stage, (depth, width) in enumerate(
        zip(BACKBONES[backbone].depths, VGG_FAMILY.widths, strict=True)
    ):
        for _ in range(depth):
            macs += 9 * before * width / 4**stage
            before = width
    return macs


def _resnet_macs(backbone: str) -> float:
    row = BACKBONES[backbone]
    macs, before = 49 * 3 * row.family.widths[0] / 4, row.family.widths[0]
    for stage, (depth, width) in enumerate(zip(row.depths, row.family.widths, strict=True)):
        size, out = 4.0 ** -(2 + stage), width * row.expansion
        for block in range(depth):
            halved = stage > 0 and block == 0
            if row.expansion == 1:
                macs += 9 * (before * width + width * width) * size
            else:
                # The stride is that of the second convolution, as in torchvision.
                macs += (before * width * (4 if halved else 1) + 9 * width**2 + width * out) * size
            macs += before * out * size if before != out or halved else 0
            before = out
    return macs


def seconds(step: Step) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def matmul_gflops(precision: str) -> float:
    """The rate of a square matrix product by XLA, or on a CPU by numpy where that is faster."""
    on_cpu = jax.default_backend() == "cpu"
    size = MATMUL_SIZE if on_cpu else MATMUL_SIZE_OF_ACCELERATORS
    a = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    on_device, product = jnp.asarray(a, DTYPES[precision]), jax.jit(jnp.matmul)
    products: list[Step] = [lambda: product(on_device, on_device).block_until_ready()]
    if on_cpu and precision == "f32":
        products.append(lambda: a @ a)
    best = min(seconds(step) for step in products for _ in range(4))
    return 2e-9 * size**3 / best


def serve(
    name: str, size: int, batch: int, precision: str, backbone: str, line: Connection
) -> None:
    """Takes the steps that are asked for, by number; answers with seconds and memory."""
    steps = contender(name, size, batch, precision, backbone)
    before = held_mebibytes() if jax.default_backend() == "cpu" else 0.0
    while (kind := line.recv()) is not None:
        line.send((seconds(steps[kind]), peak_mebibytes(name) - before))


class Worker:
    """A contender in a process of its own."""

    def __init__(
        self, name: str, size: int, batch: int, precision: str, backbone: str = "vgg16_bn"
    ):
        fresh = multiprocessing.get_context("spawn")
        self._line, theirs = fresh.Pipe()
        arguments = (name, size, batch, precision, backbone, theirs)
        self._process = fresh.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        self.batch = batch
        self.times: list[list[float]] = [[], []]
        self.mebibytes = [0.0, 0.0]

    def step(self, kind: int) -> float:
        self._line.send(kind)
        elapsed, self.mebibytes[kind] = self._line.recv()
        return elapsed

    def end(self) -> None:
        self._line.send(None)
        self._process.join()


def print_table(
    kind: int, workers: dict[str, Worker], first: dict[str, float], gflop: float
) -> None:
    """One kind of step; ``gflop`` is a step's, over this machine's rate."""
    medians = {name: statistics.median(worker.times[kind]) for name, worker in workers.items()}
    rivals = [seconds for name, seconds in medians.items() if name.startswith("torch")]
    best = min(rivals, default=float("nan"))
    print(
        f"{TITLES[kind]:<20}{'images/s':>10}{'x torch':>9}{'share':>8}{'first call':>12}{'MiB':>8}"
    )
    for name, seconds in medians.items():
        print(
            f"{name:<20}{workers[name].batch / seconds:>10.2f}{best / seconds:>9.2f}"
            f"{gflop / seconds:>8.0%}{first[name]:>10.1f} s{workers[name].mebibytes[kind]:>8.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", choices=sorted(DTYPES), default="f32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", choices=BACKBONES, default="vgg16_bn")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS)
    args = parser.parse_args()
    others = [name for name in CONTENDERS if name not in ("ours, masks", "stock Flax")]
    stock = ["stock Flax"] if args.backbone == "vgg16_bn" else []  # written for this one
    only = args.only or [*others, *stock]
    # Several processes share an accelerator, on which each JAX would take most of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    workers = {
        name: Worker(name, args.size, args.batch, args.precision, args.backbone) for name in only
    }
    # Evaluation first, for the memory of a training step is never less.
    first = [{name: worker.step(kind) for name, worker in workers.items()} for kind in (1, 0)][::-1]
    rates = []
    for i in range(args.rounds):
        rates.append(matmul_gflops(args.precision))
        begin = i % len(workers)
        order = list(workers.values())
        for worker in order[begin:] + order[:begin]:
            time.sleep(PAUSE_SECONDS)
            for kind in (0, 1):
                worker.times[kind].append(worker.step(kind))
    peak = statistics.median(rates)
    kind = jax.devices()[0].device_kind
    print(
        f"{kind}: {args.backbone}, {args.size} px, batch {args.batch}, {args.precision}, "
        f"matrix product {peak:.0f} GFLOP/s"
    )
    forward = 2e-9 * macs_a_pixel(args.backbone) * args.size**2 * args.batch / peak
    print_table(0, workers, first[0], 3 * forward)
    print_table(1, workers, first[1], forward)
    for worker in workers.values():
        worker.end()


if __name__ == "__main__":
    main()
