"""Training and evaluation of AttnVGG: ours, stock Flax, PyTorch and engines in turn.

    python -m benchmarks.compare --size 224 --batch 8 [--precision bf16] [--rounds 5] [--only ours]
                                 [--backbone vgg11]

Every contender has a process of its own, as it has with its users, and in each round takes one
step of either kind on the same images while the others wait, so that all see the same machine.
onnxruntime, OpenVINO and ncnn (``pip install -e '.[engines]'``) only evaluate, once their logits
have been found right; those that are not installed are left out, unless ``--only`` names them. Each
round begins with another, and before each a pause lets the threads of the one before fall asleep.
The table gives medians over the rounds, images a second, the ratio to the fastest PyTorch, and the
most memory that the steps needed: on a CPU beyond what the process held before the first, on an
accelerator in all.
GFLOP/s count the direct arithmetic of the convolutions, as a share of this machine's matrix
product, which is timed in every round, too; forms that need less arithmetic may exceed it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from multiprocessing.connection import Connection

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders import (
    CASES,
    CONTENDERS,
    EVALUATION,
    TRAINING,
    Step,
    contender,
    held_mebibytes,
    peak_mebibytes,
)
from benchmarks.inference_engines import why_not
from flax_attn.config import BACKBONES, RESNETS, VGG_FAMILY
from flax_attn.errors import FlaxAttnError

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
    """Takes the steps that are asked for, by kind; answers with seconds and memory, or an error."""
    try:
        steps = contender(name, size, batch, precision, backbone)
        before = held_mebibytes() if jax.default_backend() == "cpu" else 0.0
        while (kind := line.recv()) is not None:
            line.send((seconds(steps[kind]), peak_mebibytes(name) - before))
    except FlaxAttnError as error:
        line.send(error)
        line.recv()  # None, when the other end has read it


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
        self.batch, self.kinds = batch, CONTENDERS[name]
        self.times: dict[int, list[float]] = {kind: [] for kind in self.kinds}
        self.mebibytes: dict[int, float] = {}

    def step(self, kind: int) -> float:
        """Seconds of a step.

        Raises:
          FlaxAttnError: the contender's own.
        """
        self._line.send(kind)
        answer = self._line.recv()
        if isinstance(answer, FlaxAttnError):
            raise answer
        elapsed, self.mebibytes[kind] = answer
        return elapsed

    def end(self) -> None:
        self._line.send(None)
        self._process.join()


def print_table(
    kind: int, workers: dict[str, Worker], first: dict[str, float], gflop: float
) -> None:
    """One kind of step, of those that take it; ``gflop`` is a step's, over this machine's rate."""
    takers = {name: worker for name, worker in workers.items() if kind in worker.kinds}
    medians = {name: statistics.median(worker.times[kind]) for name, worker in takers.items()}
    if not medians:
        return
    rivals = [seconds for name, seconds in medians.items() if name.startswith("torch")]
    best = min(rivals, default=float("nan"))
    print(
        f"{TITLES[kind]:<34}{'images/s':>10}{'x torch':>9}{'share':>8}{'first call':>12}{'MiB':>8}"
    )
    for name, seconds in medians.items():
        print(
            f"{name:<34}{workers[name].batch / seconds:>10.2f}{best / seconds:>9.2f}"
            f"{gflop / seconds:>8.0%}{first[name]:>10.1f} s{workers[name].mebibytes[kind]:>8.0f}"
        )


def chosen(only: list[str] | None, precision: str, backbone: str) -> list[str]:
    """The contenders that ``--only`` names, else all that can take part.

    Raises:
      SystemExit: one that is named cannot; the line says what to do.
    """
    if only is None:
        unasked = {"ours, masks", *CASES} | ({"stock Flax"} if backbone != "vgg16_bn" else set())
        wanted = [name for name in CONTENDERS if name not in unasked]
    else:
        wanted = only
    reasons = {name: reason for name in wanted if (reason := why_not(name, precision))}
    if reasons and only:
        sys.exit("; ".join(reasons.values()))
    for reason in reasons.values():
        print(f"left out: {reason}", file=sys.stderr)
    return [name for name in wanted if name not in reasons]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", choices=sorted(DTYPES), default="f32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", choices=BACKBONES, default="vgg16_bn")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS)
    args = parser.parse_args()
    # Several processes share an accelerator, on which each JAX would take most of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    names = chosen(args.only, args.precision, args.backbone)
    try:
        compare(args, names)
    except FlaxAttnError as error:
        sys.exit(str(error))


def compare(args: argparse.Namespace, names: list[str]) -> None:
    """Prints the tables of these contenders.

    Raises:
      FlaxAttnError: one of them has not got its network, or computes another.
    """
    workers = {
        name: Worker(name, args.size, args.batch, args.precision, args.backbone) for name in names
    }
    # Evaluation first, for the memory of a training step is never less.
    first = {
        kind: {name: worker.step(kind) for name, worker in workers.items() if kind in worker.kinds}
        for kind in (EVALUATION, TRAINING)
    }
    rates = []
    for i in range(args.rounds):
        rates.append(matmul_gflops(args.precision))
        begin = i % len(workers)
        order = list(workers.values())
        for worker in order[begin:] + order[:begin]:
            time.sleep(PAUSE_SECONDS)
            for kind in worker.kinds:
                worker.times[kind].append(worker.step(kind))
    peak = statistics.median(rates)
    device = jax.devices()[0].device_kind
    print(
        f"{device}: {args.backbone}, {args.size} px, batch {args.batch}, {args.precision}, "
        f"matrix product {peak:.0f} GFLOP/s"
    )
    forward = 2e-9 * macs_a_pixel(args.backbone) * args.size**2 * args.batch / peak
    for kind, gflop in ((TRAINING, 3 * forward), (EVALUATION, forward)):
        print_table(kind, workers, first[kind], gflop)
    for worker in workers.values():
        worker.end()


if __name__ == "__main__":
    main()
