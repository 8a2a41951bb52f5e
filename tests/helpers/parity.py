"""What the parity tests share: random PyTorch networks, their arrays as ours, a distance."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial

import jax
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import vgg16_bn

from flax_attn.config import ModelConfig
from flax_attn.models import abstract_model
from flax_attn.models.functional import Arrays, Structure
from flax_attn.porting import TABLES, to_flax
from tests.helpers import bounds
from tests.helpers.torch_attn_vgg import TorchAttnVGG, TorchOutput

# The networks and images of the figures; labels are one of each class.
SIDE = 224
LABELS = np.array([0, 1], np.int32)
WHOLE = ModelConfig()
# All layers, a quarter as wide: what a gradient goes through is the same, in a tenth of the time.
NARROW = ModelConfig(widths=(16, 32, 64, 128, 128), attn_features=64)


def relative_error(got: object, expected: object) -> float:
    """``‖got - expected‖ / ‖expected‖`` over all elements, in double precision."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (got, expected))
    assert a.shape == b.shape, f"{a.shape} and {b.shape}"
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def largest_error(got: Mapping[str, object], expected: Mapping[str, object]) -> tuple[float, str]:
    """The largest relative error of arrays by name, and its name; NaN counts as infinite."""
    assert got.keys() == expected.keys()
    errors = {name: relative_error(got[name], expected[name]) for name in got}
    return max((np.nan_to_num(error, nan=np.inf), name) for name, error in errors.items())


@torch.no_grad()
def randomize(network: nn.Module, *, seed: int) -> nn.Module:
    """Every parameter and running statistic drawn anew, at the scale of trained weights.

    A fresh network has zero biases, unit scales and trivial statistics, which hide mistakes.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, std: float) -> None:
        tensor.normal_(0, std, generator=generator)

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            normal(module.running_mean, 0.5)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.num_batches_tracked.zero_()
            module.weight.uniform_(0.5, 1.5, generator=generator)
            normal(module.bias, 0.3)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            # A probe with one output feeds a softmax: at full scale one location would take all.
            scale = 0.5 if len(module.weight) == 1 else 1.0
            normal(module.weight, scale * (2 / fan_in) ** 0.5)
            if module.bias is not None:
                normal(module.bias, 0.3)
    return network.eval()


def torch_network(norm: str, config: ModelConfig = WHOLE) -> TorchAttnVGG:
    """AttnVGG of these sizes, randomised; float32, evaluation mode.

    The whole one stands on torchvision's own ``vgg16_bn``.
    """
    # torchvision's own initialisation takes longer than everything else here: leave it out.
    with torch.device("meta"):
        features = vgg16_bn(weights=None, init_weights=False).features if config == WHOLE else None
        network = TorchAttnVGG(
            widths=config.widths,
            attn_features=config.attn_features,
            features=features,
            normalize_attn=norm == "softmax",
        )
    network.to_empty(device="cpu")
    randomize(network, seed=1)
    return network


def random_images(count: int, side: int, *, seed: int) -> np.ndarray:
    """Patches of colour under noise, uint8 [b, h, w, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3)).repeat(side // 4, 1).repeat(side // 4, 2)
    return np.clip(coarse + rng.normal(0, 40, coarse.shape), 0, 255).astype(np.uint8)


def torch_images(images: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bytes [b, h, w, 3] as ImageNet-normalised [b, 3, h, w]."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=dtype).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=dtype).reshape(3, 1, 1)
    return (torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype) / 255 - mean) / std


def fan_in_of_torch(tensor: Tensor) -> float:
    """``bounds.fan_in`` of PyTorch's layout."""
    axes = (2, 3, 1, 0) if tensor.ndim == 4 else tuple(reversed(range(tensor.ndim)))
    return bounds.fan_in(tensor.permute(axes).numpy())


def terms_of_steps(steps: int) -> Callable[[np.ndarray], float]:
    """``fan_in_of_torch`` of so many steps: each goes there and back, and is rounded anew."""
    return lambda array: 2 * steps * fan_in_of_torch(torch.from_numpy(np.array(array)))


@torch.no_grad()
def torch_rounding(
    network: nn.Module, evaluate: Callable[[nn.Module], Mapping[str, np.ndarray]]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """``bounds.rounding`` of a network in float32: its values in float64, and bounds of norms.

    What float32 computes is what float64 would of nearly the same weights.
    """
    double = copy.deepcopy(network).double()
    value = dict(evaluate(double))
    generator, moved = torch.Generator().manual_seed(0), []
    for _ in range(bounds.DRAWS_OF_NORMS):
        double.load_state_dict(network.state_dict())
        for tensor in double.state_dict().values():
            if tensor.is_floating_point():
                sign = torch.randint(0, 2, tensor.shape, generator=generator, dtype=torch.int8)
                tensor *= 1 + bounds.SINGLE * fan_in_of_torch(tensor) ** 0.5 * (2 * sign - 1)
        moved.append(evaluate(double))
    spread = partial(bounds.spread, own=2 * bounds.SINGLE, whole=True)
    return value, {name: spread(value[name], *(m[name] for m in moved)) for name in value}


def named_outputs(output: TorchOutput) -> dict[str, np.ndarray]:
    """Every part by name, maps as [b, h, w, c]."""
    maps = {f"map {name}": x.permute(0, 2, 3, 1) for name, x in output.features.items()}
    attention = {f"attention {name}": x for name, x in output.attention.items()}
    pooled = {f"pooled {name}": x for name, x in output.pooled.items()}
    parts = {**maps, **attention, **pooled, "logits": output.logits}
    return {name: tensor.numpy() for name, tensor in parts.items()}


def from_torch(
    network: nn.Module, config: ModelConfig, *, layout: str = "attn_vgg", num_classes: int = 2
) -> tuple[Structure, Arrays, Arrays]:
    """Our network of the same arrays: structure, parameters, running statistics (numpy)."""
    # Ported arrays are float32, whatever the test computes in.
    with jax.enable_x64(False):
        structure, params, stats = abstract_model(config, num_classes=num_classes)
    tensors = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    arrays = to_flax(TABLES[layout](config.depths), tensors, {**params, **stats})
    return structure, {p: arrays[p] for p in params}, {p: arrays[p] for p in stats}


def as_ours(
    tensors: Mapping[str, Tensor], *, layout: str = "attn_vgg", config: ModelConfig | None = None
) -> dict[str, np.ndarray]:
    """Tensors by PyTorch key, gradients say, of any precision, by our path and in our layout."""
    entries = TABLES[layout]((config or ModelConfig()).depths).entries
    return {
        entries[key].path: entries[key].transform.to_flax(tensor.detach().numpy())
        for key, tensor in tensors.items()
        if key in entries
    }


def as_double(arrays: Arrays) -> Arrays:
    """The same values in float64."""
    return {path: np.asarray(array, np.float64) for path, array in arrays.items()}


def is_conv_bias(path: str) -> bool:
    return path.startswith("backbone/") and path.endswith("/bias") and "/norm/" not in path


def vanishes(path: str, *, norm: str, train: bool) -> bool:
    """Whether the gradient is zero in exact arithmetic.

    Batch statistics remove a convolution's bias, and softmax a shift of all scores.
    """
    if is_conv_bias(path):
        return train
    return path.endswith("/score/bias") and norm == "softmax"


def neighbour(path: str) -> str:
    """The parameter that the bias at ``path`` is added after."""
    return path.replace("/score/bias", "/score/phi").replace("/bias", "/kernel")
