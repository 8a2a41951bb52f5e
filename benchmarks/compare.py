"""Training and evaluation of AttnVGG: ours, stock Flax and PyTorch in turn on the same images.

    python -m benchmarks.compare --size 224 --batch 8 [--rounds 5] [--only ours torch]
    python -m benchmarks.compare --size 224 --batch 8 --memory

Each round times one step of every contender, so that all see the same machine; the table gives
medians over the rounds, images a second, and the ratio to the fastest PyTorch. GFLOP/s count
the direct arithmetic of the convolutions, as a share of this machine's matrix product, which
is timed in every round, too; forms that need less arithmetic may exceed it. With ``--memory``
every contender takes training steps in a process of its own, and the table gives the most memory
that it ever held, beyond what it held with the network built.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
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
MEMORY_STEPS = 3
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


def contenders(size: int, batch: int, names: list[str]) -> dict[str, tuple[Step, Step]]:
    """Steps of every contender on one random batch."""
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(batch, size, size, 3), dtype=np.uint8)
    label = rng.integers(2, size=batch).astype(np.int32)
    config = make_config({"image_size": size}).model
    exact = make_config({"image_size": size, "conv": "exact"}).model
    makers: dict[str, Callable[[], tuple[Step, Step]]] = {
        "ours": lambda: jax_steps(build_model(config, num_classes=2), image, label),
        "ours, --conv exact": lambda: jax_steps(build_model(exact, num_classes=2), image, label),
        "stock Flax": lambda: jax_steps(stock_flax(config, num_classes=2), image, label),
        "torch": lambda: torch_steps(image, label, compiled=False),
        "torch.compile": lambda: torch_steps(image, label, compiled=True),
    }
    return {name: makers[name]() for name in names}


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


def held_by(name: str, size: int, batch: int) -> tuple[float, float]:
    """MiB before the first training step, and the most of three training steps."""
    keep_freed_memory()
    train, _ = contenders(size, batch, [name])[name]
    before = resident("VmRSS")
    for _ in range(MEMORY_STEPS):
        train()
    return before, resident("VmHWM")


def print_memory(size: int, batch: int, names: list[str]) -> None:
    """The table of ``--memory``."""
    fresh = multiprocessing.get_context("spawn")
    print(f"{size} px, batch {batch}: MiB before the first training step, at most, more")
    for name in names:
        with fresh.Pool(1) as pool:
            before, most = pool.apply(held_by, (name, size, batch))
        print(f"{name:<20}{before:>8.0f}{most:>8.0f}{most - before:>8.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--memory", action="store_true", help="how much a training step holds")
    args = parser.parse_args()
    if args.memory:
        print_memory(args.size, args.batch, args.only)
        return
    keep_freed_memory()
    steps = contenders(args.size, args.batch, args.only)
    first = {name: [seconds(step) for step in pair] for name, pair in steps.items()}
    times: dict[str, list[list[float]]] = {name: [[], []] for name in steps}
    rates = []
    for _ in range(args.rounds):
        rates.append(matmul_gflops())
        for name, pair in steps.items():
            for kind, step in enumerate(pair):
                times[name][kind].append(seconds(step))
    peak = statistics.median(rates)
    print(f"{args.size} px, batch {args.batch}, matrix product {peak:.0f} GFLOP/s")
    for kind, (title, passes) in enumerate((("training", 3), ("evaluation", 1))):
        medians = {name: statistics.median(times[name][kind]) for name in steps}
        rivals = [m for name, m in medians.items() if name.startswith("torch")]
        best = min(rivals) if rivals else float("nan")
        print(f"{title:<20}{'images/s':>10}{'x torch':>9}{'share':>8}{'first call':>12}")
        for name, median in medians.items():
            gflop = passes * 2e-9 * MACS_A_PIXEL * args.size**2 * args.batch
            share = gflop / median / peak
            print(
                f"{name:<20}{args.batch / median:>10.2f}{best / median:>9.2f}{share:>8.0%}"
                f"{first[name][kind]:>10.1f} s"
            )


if __name__ == "__main__":
    main()
