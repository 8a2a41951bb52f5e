"""Reads and writes Keras's HDF5 files: arrays by name, never a model's configuration.

Two kinds: ``.h5``, which names layers (``block1_conv1/kernel``, Keras 1 and 2, and whole models),
and ``.weights.h5`` of Keras 3, which counts them by class (``layers/conv2d_3/vars/0``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_attn.errors import UsageError, WeightsError
from flax_attn.porting.convert import Report, printable
from flax_attn.porting.layer_names import COUNTED_CONV, is_backbone
from flax_attn.system.files import reading, replacing, writing

# Of files that are written.
COUNTED_SUFFIX = ".weights.h5"
SUFFIX = ".h5"

# Where we note which pixels a network takes; Keras reads no such thing.
_PIXELS = "flax_attn_pixels"
# By which Keras knows the order of the axes.
_WRITER = {"backend": b"tensorflow", "keras_version": b"2.0.0"}

# A group may hold itself.
_MAX_DEPTH = 12
_MAX_OBJECTS = 10_000
# Neither changes how many bytes there are: an order of them, and a sum.
_HARMLESS_FILTERS = frozenset({2, 3})

# What stands beside the layers: of the optimizer, of metrics, of layers that draw numbers.
_BESIDE = re.compile(r"(?:.*/)?(?:optimizer(?:_weights)?|seed_generator|metrics|_metrics)(?:/|$)")
_COUNTED = re.compile(
    r"(?:(.*)/)?(?:layers|_layer_checkpoint_dependencies)/((?:conv2d|dense)(?:_\d+)?)/vars/(\d+)$"
)
# Keras 1 wrote block1_conv1_W_1:0, Keras 2 kernel:0.
_NAMED = re.compile(r"(?:.*/)?([^/]+)/(?:[^/]*_)?(kernel|bias|W|b)(?:_\d+)?(?::0)?$")
_PARTS = {"W": "kernel", "b": "bias"}

_REMEDY = "Save the weights with Keras's save_weights."


class KerasFile(NamedTuple):
    """Arrays by layer, and the pixels that the file says its network takes, if it does."""

    tensors: dict[str, H5Array]
    pixels: str | None


class H5Array:
    """An array of an open file: shape and dtype now, values with ``numpy.asarray``."""

    def __init__(self, dataset: Any):
        self._dataset = dataset
        self.shape = tuple(dataset.shape or ())
        half = dataset.attrs.get("dtype") == "bfloat16"
        self.dtype = "bfloat16" if half else dataset.dtype.name

    @property
    def problem(self) -> str | None:
        """Why its values cannot be read; None where they can."""
        dataset = self._dataset
        settings = dataset.id.get_create_plist()
        filters = {settings.get_filter(i)[0] for i in range(settings.get_nfilters())}
        if dataset.is_virtual or dataset.external:
            return "kept in other files"
        if filters - _HARMLESS_FILTERS:
            return "compressed, which Keras never does"
        if dataset.shape is None or dataset.id.get_storage_size() < dataset.nbytes:
            return "without as many values in the file as it says"
        return None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.empty(self.shape, self._dataset.dtype)
        if values.size:
            self._dataset.read_direct(values)
        if self.dtype == "bfloat16":
            import ml_dtypes

            values = values.view(ml_dtypes.bfloat16)
        return np.array(values, dtype=dtype)


def import_h5py() -> Any:
    """Returns the module ``h5py``.

    Raises:
      UsageError: it is not installed.
    """
    if find_spec("h5py") is None:
        raise UsageError("Keras's HDF5 files need h5py: pip install 'flax_attn[keras]'")
    import h5py

    return h5py


@contextmanager
def open_keras(path: Path) -> Iterator[KerasFile]:
    """Yields the arrays of layers, whose values are read while the context lasts.

    Raises:
      UsageError: h5py is not installed.
      WeightsError: the file is damaged, leads to others, or holds arrays without values.
    """
    h5py = import_h5py()
    with reading(path, WeightsError):
        path.stat()
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path} is a damaged HDF5 file ({reason}): fetch it again") from error
    with file:
        try:
            found = dict(_datasets(h5py, file, str(path)))
            tensors = _own_names({name: H5Array(d) for name, d in found.items()}, str(path))
            pixels = file.attrs.get(_PIXELS)
        # h5py's errors of damaged objects.
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            reason = printable(" ".join(str(error).split()))
            raise WeightsError(f"{path} is a damaged HDF5 file ({reason})") from error
        report = Report()
        for key, tensor in tensors.items():
            if problem := tensor.problem:
                report.add(problem, key)
        report.raise_if_any(f"{path} holds arrays that are not read", remedy=_REMEDY)
        yield KerasFile(tensors, pixels if isinstance(pixels, str) else None)


def write_keras(path: Path, tensors: Mapping[str, np.ndarray], *, pixels: str) -> None:
    """Writes arrays by the keys of ``keras_table``, all or nothing; Keras loads the file.

    Raises:
      UsageError: h5py is not installed.
      DiskFullError: no space is left for it.
      WeightsError: it cannot be written.
    """
    h5py = import_h5py()
    layers: dict[str, list[str]] = {}
    for key in tensors:
        layers.setdefault(key.partition("/")[0], []).append(key)
    with writing(path, WeightsError), replacing(path, shared=True) as partial:
        with h5py.File(partial, "w") as file:
            file.attrs[_PIXELS] = pixels
            if "layers" in layers:
                for key, values in tensors.items():
                    _put(file, key, values)
                return
            file.attrs.update(_WRITER)
            file.attrs["layer_names"] = [layer.encode() for layer in layers]
            for layer, keys in layers.items():
                group = file.create_group(layer)
                group.attrs["weight_names"] = [key.encode() for key in keys]
                for key in keys:
                    _put(group, key, tensors[key])


def _put(group: Any, key: str, values: np.ndarray) -> None:
    dataset = group.create_dataset(key, data=np.ascontiguousarray(values))
    if values.dtype.name == "bfloat16":
        # As Keras notes it, for HDF5 has no such numbers.
        dataset.attrs["dtype"] = "bfloat16"


def _datasets(h5py: Any, file: Any, source: str) -> Iterator[tuple[str, Any]]:
    """Yields the arrays of a file by path; links to elsewhere are refused, not followed."""
    seen, waiting = 0, [("", file, 0)]
    while waiting:
        path, group, depth = waiting.pop()
        for name in group:
            seen += 1
            inner = f"{path}/{name}" if path else name
            if depth > _MAX_DEPTH or seen > _MAX_OBJECTS:
                raise WeightsError(f"{source} holds more groups than weights have: not read")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise WeightsError(
                    f"{source} was not read, for {printable(inner)} is a link to elsewhere: save "
                    "the weights themselves"
                )
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((inner, item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                yield inner, item


def _own_names(found: Mapping[str, H5Array], source: str) -> dict[str, H5Array]:
    """Returns arrays by layer, without the groups that layers stand in."""
    matches = {path: _COUNTED.match(path) for path in found}
    outer = Counter(m[1] for m in matches.values() if m and m[2].startswith("conv2d"))
    # A model within a model: the one that has most convolutions.
    chosen = outer.most_common(1)[0][0] if outer else None
    tensors: dict[str, H5Array] = {}
    for path, array in sorted(found.items()):
        if _BESIDE.match(path):
            continue
        match = matches[path]
        key = path
        if match and match[1] == chosen:
            key = f"layers/{match[2]}/vars/{match[3]}"
        elif named := _NAMED.match(path):
            key = f"{named[1]}/{_PARTS.get(named[2], named[2])}"
        if key in tensors:
            raise WeightsError(f"{source} has two arrays for {printable(key)}: save one network")
        tensors[key] = array
    if not any(map(is_backbone, tensors)):
        shown = ", ".join(printable(key) for key in list(tensors)[:5]) or "nothing"
        raise WeightsError(
            f"{source} is no VGG of Keras: it holds {shown}, expected block1_conv1/kernel… or "
            f"{COUNTED_CONV}/vars/0…"
        )
    return tensors
