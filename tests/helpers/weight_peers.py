"""VGGs of other libraries, of any sizes, and their logits with their own preprocessing.

timm and Keras are imported where they are used: only the long forms have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models.vgg import VGG, make_layers

from flax_attn.porting.architecture import Architecture
from tests.helpers.parity import randomize


def plan(network: Architecture) -> list[str | int]:
    """The stages as torchvision and timm write them."""
    found: list[str | int] = []
    for width, depth in zip(network.widths, network.backbone.depths, strict=True):
        found += [width] * depth + ["M"]
    return found


def torchvision_vgg(network: Architecture) -> nn.Module:
    """torchvision's own class, smaller, with nothing in it yet."""
    with torch.device("meta"):
        vgg = VGG(
            make_layers(plan(network), batch_norm=network.backbone.norm),
            num_classes=network.classes,
            init_weights=False,
        )
        sizes = (network.widths[-1] * 49, network.hidden, network.hidden, network.classes)
        for place, inputs, outputs in zip((0, 3, 6), sizes[:-1], sizes[1:], strict=True):
            vgg.classifier[place] = nn.Linear(inputs, outputs)
    return vgg.to_empty(device="cpu").eval()


def timm_vgg(network: Architecture) -> nn.Module:
    """timm's own class, smaller, with nothing in it yet."""
    from timm.models.vgg import VGG as TimmVGG
    from timm.models.vgg import ClassifierHead, ConvMlp

    norm = nn.BatchNorm2d if network.backbone.norm else None
    with torch.device("meta"):
        vgg = TimmVGG(plan(network), num_classes=network.classes, norm_layer=norm)
        vgg.pre_logits = ConvMlp(network.widths[-1], network.hidden, 7)
        vgg.head = ClassifierHead(network.hidden, network.classes, pool_type="avg")
    return vgg.to_empty(device="cpu").eval()


def filled(network: nn.Module, seed: int) -> nn.Module:
    """The network with weights at the scale of trained ones."""
    with torch.no_grad():
        return randomize(network, seed=seed)


def torch_logits(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """Logits of images of bytes, normalised as torchvision's and timm's transforms do."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scaled = (torch.from_numpy(images).float() / 255 - mean) / std
    with torch.no_grad():
        return network(scaled.permute(0, 3, 1, 2).contiguous()).numpy()


def keras_vgg(network: Architecture, *, top: bool = True) -> Any:
    """Keras's application where there is one of these sizes, else its layers under its names."""
    import keras
    from keras import layers

    ends = {(2, 2, 3, 3, 3): "VGG16", (2, 2, 4, 4, 4): "VGG19"}
    name = ends.get(network.backbone.depths)
    if name and network.widths == (64, 128, 256, 512, 512) and network.hidden == 4096:
        make = getattr(keras.applications, name)
        options = {"classes": network.classes, "classifier_activation": None} if top else {}
        return make(weights=None, include_top=top, input_shape=(224, 224, 3), **options)
    x = image = keras.Input((224, 224, 3))
    for stage, (width, depth) in enumerate(
        zip(network.widths, network.backbone.depths, strict=True), 1
    ):
        for layer in range(1, depth + 1):
            conv = layers.Conv2D(width, 3, padding="same", activation="relu")
            conv.name = f"block{stage}_conv{layer}"
            x = conv(x)
        x = layers.MaxPooling2D(2, 2, name=f"block{stage}_pool")(x)
    if top:
        x = layers.Flatten(name="flatten")(x)
        for name in ("fc1", "fc2"):
            x = layers.Dense(network.hidden, activation="relu", name=name)(x)
        x = layers.Dense(network.classes, name="predictions")(x)
    return keras.Model(image, x)


def fill_keras(model: Any, arrays: Sequence[np.ndarray]) -> Any:
    """Sets all weights, in Keras's own order."""
    model.set_weights(list(arrays))
    return model


def save_keras_file(model: Any, path: Path) -> None:
    """Writes a file by Keras itself, of the kind that the name says."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    elif path.name.startswith("model"):
        model.save(path)
    else:
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)


def keras_logits(model: Any, images: np.ndarray, *, mode: str = "caffe") -> np.ndarray:
    """Logits of images of bytes by Keras's own preprocessing."""
    from keras.applications import imagenet_utils, vgg16

    x = images.astype(np.float32)
    if mode == "caffe":
        x = vgg16.preprocess_input(x)
    else:
        x = imagenet_utils.preprocess_input(x, mode=mode)
    return np.asarray(model(x))


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())
