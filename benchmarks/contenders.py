"""Ours, stock Flax and PyTorch: a step of training and one of evaluation, on the same batch.

They run on the accelerator that JAX finds, PyTorch on the same; without one on the CPU. Batches
lie on the device already. ``bf16`` is our ``--precision bf16``, Flax's ``dtype=jnp.bfloat16``, and
PyTorch's automatic mixed precision.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.stock_flax import stock_flax
from flax_attn.config import TrainConfig, make_config
from flax_attn.models import Network, build_model, functional
from flax_attn.system.memory import keep_freed_memory
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import Examples, init_state, make_eval_step, make_train_step

Step = Callable[[], None]
CONTENDERS = ["ours", "ours, --conv exact", "stock Flax", "torch", "torch.compile"]
TRAIN_CONFIG = TrainConfig(freeze_backbone=False)


def contender(name: str, size: int, batch: int, precision: str = "f32") -> tuple[Step, Step]:
    """The steps of a contender on a random batch, the same for all: training, evaluation.

    Each returns when its results are there.
    """
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(batch, size, size, 3), dtype=np.uint8)
    label = rng.integers(2, size=batch).astype(np.int32)
    if name.startswith("torch"):
        return _torch_steps(image, label, precision, compiled=name == "torch.compile")
    if name == "ours":
        keep_freed_memory()  # as our commands do
    conv = "exact" if "exact" in name else "auto"
    config = make_config({"image_size": size, "conv": conv, "precision": precision}).model
    make = stock_flax if name == "stock Flax" else build_model
    return _jax_steps(make(config, num_classes=2), image, label)


def _jax_steps(model: Network, image: np.ndarray, label: np.ndarray) -> tuple[Step, Step]:
    structure, params, stats = functional.split(model)
    tx = make_optimizer(TRAIN_CONFIG, steps_per_epoch=1)
    train, evaluate = make_train_step(structure, tx, TRAIN_CONFIG), make_eval_step(structure)
    examples = jax.device_put(Examples(image, label, np.ones(len(label), bool)))
    held = [
        init_state(jax.tree.map(jnp.copy, params), jax.tree.map(jnp.copy, stats), tx, TRAIN_CONFIG)
    ]

    def train_step() -> None:
        held[0], sums, _ = train(held[0], examples)
        jax.block_until_ready((held[0], sums))

    def eval_step() -> None:
        jax.block_until_ready(evaluate(params, stats, examples))

    return train_step, eval_step


def _torch_steps(
    image: np.ndarray, label: np.ndarray, precision: str, *, compiled: bool
) -> tuple[Step, Step]:
    """The same network in PyTorch, channels last, as its users would write it."""
    import torch

    from tests.helpers.torch_attn_vgg import TorchAttnVGG

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    network = TorchAttnVGG(2, normalize_attn=False)
    network = network.to(device, memory_format=torch.channels_last)
    model = torch.compile(network) if compiled else network
    x = torch.from_numpy(image).to(device).permute(0, 3, 1, 2).float().div(255).sub(0.45)
    x = x.div(0.225).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(label).long().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)
    mixed = torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def train_step() -> None:
        network.train()
        optimizer.zero_grad()
        with mixed:
            loss = torch.nn.functional.cross_entropy(model(x).logits, y)
        loss.backward()
        optimizer.step()
        wait()

    def eval_step() -> None:
        network.eval()
        with torch.no_grad(), mixed:
            model(x)
        wait()

    return train_step, eval_step


def held_mebibytes() -> float:
    """What this process holds of main memory."""
    return _status("VmRSS")


def peak_mebibytes(name: str) -> float:
    """The most this process has held: of the accelerator's memory where there is one."""
    if jax.default_backend() == "cpu":
        return _status("VmHWM")
    if name.startswith("torch"):
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20


def _status(field: str) -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))
