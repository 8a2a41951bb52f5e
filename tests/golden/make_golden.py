"""Writes tiny.npz: tiny AttnVGGs in PyTorch, their weights, input and every output.

Run as ``python tests/golden/make_golden.py``; it needs the torch extra, its readers do not.
Names are ``NORM/weights/PYTORCH_KEY`` and ``NORM/output/PART``, maps are [b, h, w, c].
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from parity import named_outputs, random_images, randomize, torch_images  # noqa: E402
from torch_attn_vgg import TorchAttnVGG  # noqa: E402

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
