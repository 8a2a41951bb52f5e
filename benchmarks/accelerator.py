"""AttnVGG on an accelerator: is it right, how fast is it, and beside what.

    python -m benchmarks.accelerator [--size 224] [--batch 64] [--rounds 15] [--skip parity]

Three parts, each of which prints as it goes; the last lines are Markdown for the documents.

- Parity: logits, maps and gradients against the same arithmetic on the host, in float32 as it is
  (TF32 where the accelerator has it), in float32 at the highest precision, and in bfloat16.
- Speed: a step of training and one of evaluation of ours, of PyTorch and of ``torch.compile``
  (channels last, mixed precision for bfloat16) in float32 and bfloat16, each in a process of its
  own, in turn; the share is of a square matrix product in the same precision.
- Frozen backbone: images a second through the backbone, and epochs on what it left on the host.

Without an accelerator it runs on the CPU, which tries it as far as that goes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.compare import DTYPES, TITLES, Worker, macs_a_pixel, matmul_gflops, print_table
from flax_attn.config import TrainConfig, make_config
from flax_attn.models import MODELS, build_model, functional
from flax_attn.models.backbone import Features
from flax_attn.models.network import AttnOutput
from flax_attn.ops.losses import cross_entropy
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import Examples, init_state, make_feature_step, make_train_step

PARTS = ("parity", "speed", "frozen")
CONTENDERS = ("ours", "torch", "torch.compile")
PARITY_BATCH = 4


def say(text: str) -> None:
    print(text, flush=True)


def random_batch(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(batch, size, size, 3), dtype=np.uint8)
    return image, rng.integers(2, size=batch).astype(np.int32)


def network(size: int, precision: str = "f32") -> tuple[Any, Any, Any]:
    """AttnVGG with XLA's own convolutions, as structure, parameters and statistics."""
    config = make_config({"image_size": size, "conv": "exact", "precision": precision}).model
    return functional.split(build_model(config, num_classes=2))


def relative(found: Any, reference: Any) -> float:
    """The norm of the difference over that of the reference, over all arrays of a tree."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True))
    pairs = [(np.asarray(f, np.float64), np.asarray(r, np.float64)) for f, r in pairs]
    differences = sum(float(np.sum((f - r) ** 2)) for f, r in pairs)
    return (differences / sum(float(np.sum(r**2)) for _, r in pairs)) ** 0.5


def computed(size: int, precision: str, device: jax.Device, matmul: str | None) -> dict[str, Any]:
    """Logits and maps in evaluation, and the gradient of the loss in training, on a device."""
    structure, params, stats = network(size, precision)
    image, label = random_batch(size, PARITY_BATCH)

    def output(params: Any, stats: Any, image: Any, train: bool) -> AttnOutput:
        model = functional.merge(structure, params, stats)
        return model(model.normalize(image), train=train)

    def loss(params: Any, stats: Any, image: Any, label: Any) -> jax.Array:
        return cross_entropy(output(params, stats, image, True).logits, label).mean()

    with jax.default_device(device), jax.default_matmul_precision(matmul):
        judged = jax.jit(output, static_argnums=3)(params, stats, image, False)
        gradient = jax.jit(jax.grad(loss))(params, stats, image, label)
    return jax.device_get({"logits": judged.logits, "maps": judged.attention, "gradient": gradient})


def parity(size: int) -> None:
    reference = computed(size, "f32", jax.devices("cpu")[0], "highest")
    device = jax.devices()[0]
    say(f"{'against the host':<24}" + "".join(f"{what:>12}" for what in reference))
    kinds = {"f32": ("f32", None), "f32, highest": ("f32", "highest"), "bf16": ("bf16", None)}
    for name, (precision, matmul) in kinds.items():
        found = computed(size, precision, device, matmul)
        errors = (relative(found[what], reference[what]) for what in reference)
        say(f"{name:<24}" + "".join(f"{error:>12.1e}" for error in errors))


def speed(size: int, batch: int, rounds: int) -> list[str]:
    """Times all contenders in both precisions; returns rows of a table."""
    rows = []
    for precision in DTYPES:
        workers = {name: Worker(name, size, batch, precision) for name in CONTENDERS}
        # One after the other: a compiler that tries kernels must have the device to itself.
        first = [{name: worker.step(kind) for name, worker in workers.items()} for kind in (1, 0)]
        rates = []
        for i in range(rounds):
            rates.append(matmul_gflops(precision))
            order = list(workers.values())
            for worker in order[i % len(order) :] + order[: i % len(order)]:
                for kind in (0, 1):
                    worker.times[kind].append(worker.step(kind))
        peak = statistics.median(rates)
        say(f"{size} px, batch {batch}, {precision}; matrix product {peak / 1000:.0f} TFLOP/s")
        forward = 2e-9 * macs_a_pixel() * size**2 * batch / peak
        for kind, gflop in ((0, 3 * forward), (1, forward)):
            print_table(kind, workers, first[1 - kind], gflop)
            medians = [statistics.median(worker.times[kind]) for worker in workers.values()]
            cells = [f"{batch / seconds:,.0f}" for seconds in medians]
            cells[0] += f" ({min(medians[1:]) / medians[0]:.2f}, {gflop / medians[0]:.0%})"
            rows.append(f"| {size}, {batch}, {precision} | {TITLES[kind]} | {' | '.join(cells)} |")
        for worker in workers.values():
            worker.end()
    return rows


def frozen(size: int, batch: int, rounds: int) -> None:
    """Times the backbone alone, and the training step on features that lie on the host."""
    for precision in DTYPES:
        structure, params, stats = network(size, precision)
        config = make_config({"image_size": size, "precision": precision})
        taps = MODELS[config.model.model].taps(config.model)
        image, label = random_batch(size, batch)
        step: Callable[..., Features] = make_feature_step(structure, taps)
        maps = jax.device_get(step(params, stats, image))
        backbone = rate(lambda: jax.device_get(step(params, stats, image)), batch, rounds)  # noqa: B023
        settings = TrainConfig(freeze_backbone=True)
        tx = make_optimizer(settings, steps_per_epoch=1)
        train = make_train_step(structure, tx, settings)
        held = [init_state(params, stats, tx, settings)]

        def train_step() -> None:
            examples = Examples(maps, label, np.ones(batch, bool))  # noqa: B023
            held[0], sums, _ = train(held[0], examples)  # noqa: B023
            jax.block_until_ready((held[0], sums))  # noqa: B023

        train_step()
        gates = rate(train_step, batch, rounds)
        say(
            f"frozen backbone, {precision}: features of {backbone:,.0f} images/s (brought to the "
            f"host), training on them {gates:,.0f} images/s"
        )


def rate(step: Callable[[], Any], batch: int, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return batch / statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--skip", nargs="+", choices=PARTS, default=())
    args = parser.parse_args()
    # Several processes share the accelerator, on which each JAX would take most of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    say(f"{jax.devices()[0].device_kind}, JAX {jax.__version__}")
    rows = []
    if "parity" not in args.skip:
        parity(args.size)
    if "frozen" not in args.skip:
        frozen(args.size, args.batch, args.rounds)
    if "speed" not in args.skip:
        rows = speed(args.size, args.batch, args.rounds)
    if rows:
        say(f"\nImages a second on {jax.devices()[0].device_kind}, in brackets the ratio to the")
        say("faster PyTorch and the share of a matrix product:\n")
        say(f"| pixels, batch | step | {' | '.join(CONTENDERS)} |\n|---|---|---|---|---|")
        for row in rows:
            say(row)


if __name__ == "__main__":
    main()
