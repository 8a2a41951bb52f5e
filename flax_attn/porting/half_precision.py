"""Tensors in half precision, for files that are to be small."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from flax_attn.config.names import Dtype
from flax_attn.porting.convert import Report

_TYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def in_precision(tensors: Mapping[str, np.ndarray], dtype: Dtype) -> dict[str, np.ndarray]:
    """Returns tensors of another precision, rounded to nearest; integers stay as they are.

    Raises:
      WeightsError: values are beyond its range.
    """
    if dtype == "float32":
        return dict(tensors)
    report, narrow = Report(), {}
    for key, values in tensors.items():
        if values.dtype != np.float32:
            narrow[key] = values
            continue
        with np.errstate(over="ignore"):
            narrow[key] = values.astype(_TYPES[dtype])
        if not np.isfinite(narrow[key].astype(np.float32)).all():
            report.add(f"beyond the range of {dtype}", key)
    report.raise_if_any("these weights cannot be narrowed", remedy="Take bfloat16 or float32.")
    return narrow
