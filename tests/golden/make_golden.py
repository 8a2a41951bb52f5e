"""Writes tiny.npz: tiny AttnVGGs in PyTorch, their weights, input and every output.

Run as ``python -m tests.golden.make_golden``; it needs the torch extra, its readers do not.
Names are ``NORM/weights/PYTORCH_KEY`` and ``NORM/output/PART``, maps are [b, h, w, c].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.helpers.parity import named_outputs, random_images, randomize, torch_images
from tests.helpers.torch_attn_vgg import TorchAttnVGG

HERE = Path(__file__).parent
WIDTHS = (4, 8, 8, 8, 8)
ATTN_FEATURES = 8
SIDE = 64


def main() -> None:
    images = random_images(2, SIDE, seed=7)
    arrays: dict[str, np.ndarray] = {"images": images}
    for norm in ("sigmoid", "softmax"):
        network = TorchAttnVGG(
            normalize_attn=norm == "softmax", widths=WIDTHS, attn_features=ATTN_FEATURES
        )
        randomize(network, seed=8)
        with torch.no_grad():
            outputs = named_outputs(network(torch_images(images)))
        weights = network.state_dict()
        arrays |= {f"{norm}/weights/{key}": tensor.numpy() for key, tensor in weights.items()}
        arrays |= {f"{norm}/output/{part}": array for part, array in outputs.items()}
    np.savez_compressed(HERE / "tiny.npz", **arrays)


if __name__ == "__main__":
    main()
