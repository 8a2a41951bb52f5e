"""Weights of Keras into networks of Flax and back.

What ``flax-attn port`` does, without a file of ported weights in between.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import nnx

from flax_attn.errors import WeightsError
from flax_attn.models.family import Backbone
from flax_attn.models.functional import BACKBONE
from flax_attn.porting.convert import from_flax
from flax_attn.porting.filling import arrays_of, backbone_of, check_layout, fill, with_backbone
from flax_attn.porting.half_precision import Dtype
from flax_attn.porting.keras_h5 import COUNTED_SUFFIX, SUFFIX
from flax_attn.porting.layer_names import COUNTED_CONV
from flax_attn.porting.pixels import SCALES, Pixels, as_pixels, fold_pixels
from flax_attn.porting.tables import KeyTable, backbone_table, keras_table
from flax_attn.porting.weight_files import open_weights, write_h5

KERAS_LAYOUTS = ("keras", "backbone")


def load_keras(
    path: str | os.PathLike[str],
    *,
    into: nnx.Module,
    layout: str = "auto",
    pixels: Pixels | None = None,
    cast: bool = False,
) -> list[str]:
    """Fills a network with weights of Keras; returns the paths that keep their values.

    As ``load_torch``, of VGGs without batch normalisation. Keras's networks take pixels of another
    scale: the network then normalises its images (``normalize``) by that one, and every array is
    Keras's bit for bit; with ``pixels`` the scale is folded into the first convolution.

    Args:
      path: an ``.h5`` or ``.weights.h5`` file; h5py is needed to read it.
      into: as for ``load_torch``; its pixels change with its arrays.
      layout: "auto", "keras", or "backbone" for the convolutions alone.
      pixels: "imagenet" folds the scale, which is exact but for the image's border.
      cast: makes float16, bfloat16 and float64 float32; without, they are refused.

    Raises:
      WeightsError: the file cannot be read or is of no known network, or does not fit.
      UsageError: h5py is not installed.
      TypeError: ``into`` has no such backbone.
      ValueError: there is no such layout.
    """
    network = with_backbone(into, "into")
    check_layout(layout, KERAS_LAYOUTS)
    with open_weights(path) as weights:
        if not weights.of_keras:
            raise WeightsError(f"{path} is no HDF5 file of Keras: load it with load_torch")
        wanted = as_pixels(pixels, weights.pixels)
        kept = fill(network, weights, layout, str(path), cast=cast, pixels=wanted)
    network.backbone.pixels = SCALES[wanted]
    return kept


def save_keras(
    model: nnx.Module,
    path: str | os.PathLike[str],
    *,
    layout: str = "auto",
    pixels: Pixels | None = None,
    dtype: Dtype = "float32",
) -> None:
    """Writes a VGG without normalisation as weights of Keras, all or nothing; Keras loads them.

    A network that takes Caffe's pixels, as one from ``load_keras`` does, is written for Keras's
    ``vgg16.preprocess_input``; one of ImageNet's for
    ``imagenet_utils.preprocess_input(…, mode="torch")``.

    Args:
      model: a VGG with its dense classifier, or any network for "backbone".
      path: a file that ends in ``.weights.h5`` (Keras 3) or ``.h5``; h5py is needed to write it.
      layout: "auto", "keras", or "backbone" for the convolutions alone (``include_top=False``).
      pixels: "caffe" or "imagenet" folds this scale into the first convolution, which is exact but
        for the image's border.
      dtype: "float16" or "bfloat16" rounds to half precision.

    Raises:
      WeightsError: the network has no counterpart in Keras, or ``path`` cannot be written.
      DiskFullError: no space is left for ``path``.
      UsageError: h5py is not installed.
      TypeError: ``model`` has no such backbone.
      ValueError: there is no such layout, or ``path`` has another ending.
    """
    network = with_backbone(model, "model")
    check_layout(layout, KERAS_LAYOUTS)
    if not str(path).endswith(SUFFIX):
        raise ValueError(f"path must end in {COUNTED_SUFFIX} or {SUFFIX}, got {path}")
    given = next((name for name in SCALES if SCALES[name] == network.backbone.pixels), None)
    if given is None:
        raise WeightsError(
            f"this network normalises by {network.backbone.pixels}, as no preprocess_input of "
            "Keras does: save_torch writes it"
        )
    given = as_pixels(given, "imagenet")
    wanted = as_pixels(pixels, given)
    arrays = fold_pixels(arrays_of(network, layout), given, wanted)
    table = table_to_keras(Path(path), backbone_of(network), arrays, wanted)
    write_h5(Path(path), from_flax(table, arrays), dtype, wanted)


def table_to_keras(
    path: Path, backbone: Backbone, arrays: Mapping[str, np.ndarray], pixels: Pixels
) -> KeyTable:
    """Returns the table for a file of Keras's with or without the classifier, by its ending.

    Raises:
      WeightsError: there is normalisation.
    """
    counted, bgr = path.name.endswith(COUNTED_SUFFIX), pixels == "caffe"
    if all(name.startswith(BACKBONE) for name in arrays):
        naming = COUNTED_CONV if counted else "block"
        return backbone_table(backbone.depths, backbone.norm, naming=naming, bgr=bgr)
    return keras_table(backbone.depths, backbone.norm, bgr=bgr, counted=counted)
