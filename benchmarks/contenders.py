"""Ours, stock Flax, PyTorch and engines: steps of training and evaluation, on the same batch.

They run on the accelerator that JAX finds, PyTorch on the same; without one on the CPU. Batches
lie on the device already. ``bf16`` is our ``--precision bf16``, Flax's ``dtype=jnp.bfloat16``, and
PyTorch's automatic mixed precision. Engines (``inference_engines``) only evaluate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.inference_engines import ENGINES, engine_step
from benchmarks.stock_flax import stock_flax
from flax_attn.config import BACKBONES, RESNETS, VGG_FAMILY, ModelConfig, TrainConfig, make_config
from flax_attn.models import Network, build_model, functional
from flax_attn.system.memory import keep_freed_memory
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.region_term import Regions
from flax_attn.training.step import Examples, init_state, make_eval_step, make_train_step

if TYPE_CHECKING:
    import torch

Step = Callable[[], object]
# Kinds of steps.
TRAINING, EVALUATION = 0, 1
BOTH, NO_TRAINING = (TRAINING, EVALUATION), (EVALUATION,)
# Ours on half as many cases of two pictures each, and how these ask each other.
CASES = {"ours, cases of two": "own", "ours, cases of two, interactive": "interactive"}
# The kinds that each takes. "ours, masks" learns from masks of objects, too: what the region term
# costs.
CONTENDERS: dict[str, tuple[int, ...]] = {
    "ours": BOTH,
    "ours, masks": BOTH,
    **dict.fromkeys(CASES, BOTH),
    "ours, --conv exact": BOTH,
    "stock Flax": BOTH,
    "torch": BOTH,
    "torch.compile": BOTH,
    **dict.fromkeys(ENGINES, NO_TRAINING),
}
TRAIN_CONFIG = TrainConfig(freeze_backbone=False)
TAUGHT_CONFIG = replace(TRAIN_CONFIG, roi_weights=("pool3=0.001", "pool4=0.01"))


def contender(
    name: str, size: int, batch: int, precision: str = "f32", backbone: str = "vgg16_bn"
) -> Mapping[int, Step]:
    """The steps of a contender by their kind, on a random batch, the same for all.

    Each returns when its results are there.
    """
    if name in ENGINES:
        return {EVALUATION: engine_step(name, size, batch, backbone)}
    image, label = random_batch(size, batch)
    if name.startswith("torch"):
        compiled = name == "torch.compile"
        return _torch_steps(image, label, precision, backbone, compiled=compiled)
    if name == "ours" or name in CASES:
        keep_freed_memory()  # as our commands do
    conv = "exact" if "exact" in name else "auto"
    config = model_config(size, conv=conv, precision=precision, backbone=backbone)
    if name in CASES:
        config = config.replaced(view_names=("first", "second"), relation=(CASES[name],))
        image, label = image.reshape(-1, 2, size, size, 3), label[::2]
    make = stock_flax if name == "stock Flax" else build_model
    return _jax_steps(make(config, num_classes=2), image, label, taught="masks" in name)


def random_batch(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [b, s, s, 3] and labels of two classes."""
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(batch, size, size, 3), dtype=np.uint8)
    return image, rng.integers(2, size=batch).astype(np.int32)


def model_config(size: int, **settings: str) -> ModelConfig:
    return make_config({"image_size": size, **settings}).model


def _jax_steps(
    model: Network, image: np.ndarray, label: np.ndarray, *, taught: bool
) -> dict[int, Step]:
    structure, params, stats = functional.split(model)
    config = TAUGHT_CONFIG if taught else TRAIN_CONFIG
    tx = make_optimizer(config, steps_per_epoch=1)
    train, evaluate = make_train_step(structure, tx, config), make_eval_step(structure)
    known = np.ones(len(label), bool)
    roi = Regions(np.where(image[..., 0] > 127, 255, 0).astype(np.uint8), known) if taught else None
    present = np.ones(image.shape[:2], bool) if image.ndim == 5 else None
    examples = jax.device_put(Examples(image, label, known, roi, present=present))
    held = [init_state(jax.tree.map(jnp.copy, params), jax.tree.map(jnp.copy, stats), tx, config)]

    def train_step() -> None:
        held[0], sums, _ = train(held[0], examples)
        jax.block_until_ready((held[0], sums))

    def eval_step() -> None:
        jax.block_until_ready(evaluate(params, stats, examples))

    return {TRAINING: train_step, EVALUATION: eval_step}


def _torch_steps(
    image: np.ndarray, label: np.ndarray, precision: str, backbone: str, *, compiled: bool
) -> dict[int, Step]:
    """The same network in PyTorch, channels last, as its users would write it."""
    import torch

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    network = torch_network(backbone).to(device).to(memory_format=torch.channels_last)
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

    return {TRAINING: train_step, EVALUATION: eval_step}


def torch_network(backbone: str) -> torch.nn.Module:
    """The same network in PyTorch, as it is initialised there."""
    from tests.helpers.torch_attn_resnet import TorchAttnResNet
    from tests.helpers.torch_attn_vgg import TorchAttnVGG, torch_features

    if backbone in RESNETS:
        return TorchAttnResNet(backbone)
    row = BACKBONES[backbone]
    features = torch_features(VGG_FAMILY.widths, row.depths, norm=row.norm)
    return TorchAttnVGG(2, normalize_attn=False, features=features)


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
