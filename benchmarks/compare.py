"""Training and evaluation of AttnVGG: ours, stock Flax and PyTorch in turn on the same images.

    python -m benchmarks.compare --size 224 --batch 8 [--rounds 5] [--only ours torch]

Every contender has a process of its own, as it has with its users, and in each round takes one
step while the others wait, so that all see the same machine. The table gives medians over the
rounds, images a second, the ratio to the fastest PyTorch, and the most memory that the steps
needed beyond what the process held before the first. GFLOP/s count the direct arithmetic of the
convolutions, as a share of this machine's matrix product, which is timed in every round, too;
forms that need less arithmetic may exceed it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.stock_flax import stock_flax
from flax_attn import functional
from flax_attn.config import TrainConfig, make_config
from flax_attn.model import Network, build_model
from flax_attn.native.memory import keep_freed_memory
from flax_attn.optim import make_optimizer
from flax_attn.step import Examples, init_state, make_eval_step, make_train_step

Step = Callable[[], None]
CONTENDERS = ["ours", "ours, --conv exact", "stock Flax", "torch", "torch.compile"]
TITLES = ("training", "evaluation")
MATMUL_SIZE = 2048
# Multiply-adds of VGG16's convolutions for each pixel of the image, forward.
MACS_A_PIXEL = 15_346_630_656 / 224**2
TRAIN_CONFIG = TrainConfig(freeze_backbone=False)


def jax_steps(model: Network, image: np.ndarray, label: np.ndarray) -> tuple[Step, Step]:
    """One training step and one evaluation of a network of ours, each waited for."""
    structure, params, stats = functional.split(model)
    tx = make_optimizer(TRAIN_CONFIG, steps_per_epoch=1)
    train, evaluate = make_train_step(structure, tx, TRAIN_CONFIG), make_eval_step(structure)
    examples = Examples(image, label, np.ones(len(label), bool))
    held = [
        init_state(jax.tree.map(jnp.copy, params), jax.tree.map(jnp.copy, stats), tx, TRAIN_CONFIG)
    ]

    def train_step() -> None:
        held[0], sums = train(held[0], examples)
        jax.block_until_ready(sums)

    def eval_step() -> None:
        jax.block_until_ready(evaluate(params, stats, examples))

    return train_step, eval_step


def torch_steps(image: np.ndarray, label: np.ndarray, *, compiled: bool) -> tuple[Step, Step]:
    """The same network in PyTorch, channels last, as its users would write it."""
    import torch

    from tests.torch_attn_vgg import TorchAttnVGG

    network = TorchAttnVGG(2, normalize_attn=False).to(memory_format=torch.channels_last)
    model = torch.compile(network) if compiled else network
    x = torch.from_numpy(image).permute(0, 3, 1, 2).float().div(255).sub(0.45).div(0.225)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(label).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)

    def train_step() -> None:
        network.train()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x).logits, y).backward()
        optimizer.step()

    def eval_step() -> None:
        network.eval()
        with torch.no_grad():
            model(x)

    return train_step, eval_step


def contender(name: str, size: int, batch: int) -> tuple[Step, Step]:
    """The steps of a contender on a random batch, the same for all."""
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(batch, size, size, 3), dtype=np.uint8)
    label = rng.integers(2, size=batch).astype(np.int32)
    if name.startswith("torch"):
        return torch_steps(image, label, compiled=name == "torch.compile")
    if name == "ours":
        keep_freed_memory()  # as our commands do
    conv = "exact" if "exact" in name else "auto"
    config = make_config({"image_size": size, "conv": conv}).model
    make = stock_flax if name == "stock Flax" else build_model
    return jax_steps(make(config, num_classes=2), image, label)


def seconds(step: Step) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def matmul_gflops() -> float:
    """The rate of a square matrix product, by numpy or XLA, whichever is faster."""
    a = np.random.default_rng(0).normal(size=(MATMUL_SIZE, MATMUL_SIZE)).astype(np.float32)
    on_device, product = jnp.asarray(a), jax.jit(jnp.matmul)
    products: tuple[Step, ...] = (
        lambda: a @ a,
        lambda: product(on_device, on_device).block_until_ready(),
    )
    best = min(seconds(step) for step in products for _ in range(4))
    return 2e-9 * MATMUL_SIZE**3 / best


def resident(field: str) -> float:
    """MiB that this process holds ("VmRSS") or has held at most ("VmHWM")."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


def serve(name: str, size: int, batch: int, line: Connection) -> None:
    """Takes the steps that are asked for, by number; answers with seconds and memory."""
    steps = contender(name, size, batch)
    before = resident("VmRSS")
    while (kind := line.recv()) is not None:
        line.send((seconds(steps[kind]), resident("VmHWM") - before))


class Worker:
    """A contender in a process of its own."""

    def __init__(self, name: str, size: int, batch: int):
        fresh = multiprocessing.get_context("spawn")
        self._line, theirs = fresh.Pipe()
        arguments = (name, size, batch, theirs)
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    args = parser.parse_args()
    workers = {name: Worker(name, args.size, args.batch) for name in args.only}
    # Evaluation first, for the memory of a training step is never less.
    first = [{name: worker.step(kind) for name, worker in workers.items()} for kind in (1, 0)][::-1]
    rates = []
    for _ in range(args.rounds):
        rates.append(matmul_gflops())
        for worker in workers.values():
            for kind in (0, 1):
                worker.times[kind].append(worker.step(kind))
    peak = statistics.median(rates)
    print(f"{args.size} px, batch {args.batch}, matrix product {peak:.0f} GFLOP/s")
    forward = 2e-9 * MACS_A_PIXEL * args.size**2 * args.batch / peak
    print_table(0, workers, first[0], 3 * forward)
    print_table(1, workers, first[1], forward)
    for worker in workers.values():
        worker.end()


if __name__ == "__main__":
    main()
