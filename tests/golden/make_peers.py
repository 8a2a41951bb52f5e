"""Writes peers.npz: small VGGs as timm and Keras write them, and their logits by their own code.

Run as ``python -m tests.golden.make_peers``; it needs the peers extra, its readers do not.
``file/NAME`` are a file's bytes, ``logits/NAME`` what its network says of ``images()``;
``keys`` is the JSON of names and shapes in full size, by library and network.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from flax_attn.models.family import VGGS
from tests.helpers.plain_vgg import narrow, random_arrays
from tests.helpers.weight_peers import (
    fill_keras,
    filled,
    keras_logits,
    keras_vgg,
    save_keras_file,
    timm_vgg,
    torch_logits,
)

PEERS = Path(__file__).parent / "peers.npz"
HIDDEN = 4
# The network in each file.
FILES = {
    "timm.safetensors": "vgg11_bn",
    "legacy.h5": "vgg11",
    "model.h5": "vgg11",
    "vgg.weights.h5": "vgg11",
}


def images() -> np.ndarray:
    """Two images of bytes, at the size that the dense layers are made for."""
    return np.random.default_rng(5).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)


def small(name: str, folder: Path) -> dict[str, np.ndarray]:
    """A file that a library writes of a small network, and what the network says."""
    network, path = narrow(VGGS[FILES[name]], hidden=HIDDEN), folder / name
    if name.startswith("timm"):
        from safetensors.torch import save_file

        vgg = filled(timm_vgg(network), seed=4)
        save_file(dict(vgg.state_dict()), path)
        said = torch_logits(vgg, images())
    else:
        vgg = fill_keras(keras_vgg(network), list(random_arrays(network).values()))
        save_keras_file(vgg, path)
        said = keras_logits(vgg, images())
    return {f"file/{name}": np.frombuffer(path.read_bytes(), np.uint8), f"logits/{name}": said}


def full_keys() -> dict[str, dict[str, list[int]]]:
    """Names and shapes in full size: timm's of all eight, Keras's of its two."""
    import keras
    import timm
    import torch

    found = {}
    for name in VGGS:
        with torch.device("meta"):
            state = timm.create_model(name, pretrained=False).state_dict()
        found[f"timm {name}"] = {key: list(value.shape) for key, value in state.items()}
    for name in ("VGG16", "VGG19"):
        vgg: Any = getattr(keras.applications, name)(weights=None)
        found[f"keras {name.lower()}"] = {
            f"{layer.name}/{weight.name}": list(weight.shape)
            for layer in vgg.layers
            for weight in layer.weights
        }
    return found


def main() -> None:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    arrays: dict[str, np.ndarray] = {"keys": np.array(json.dumps(full_keys()))}
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            arrays |= small(name, Path(folder))
    np.savez_compressed(PEERS, **arrays)


if __name__ == "__main__":
    main()
