"""Weight files as people have them, each with what must become of it. Written by PyTorch itself."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import gzip
import json
import pathlib
import random
import tarfile
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from tests.helpers.small_torch import HIDDEN, WIDTHS, small_state, torch_attn_vgg, torch_vgg

State = dict[str, Any]
# Writes a file, or a folder, and returns it.
Writer = Callable[[Path], Path]


class Shape(NamedTuple):
    """A file: what writes it, the flags it is ported with, and what must happen.

    ``layout`` is that of the arrays, bit for bit those of the small network; where it is None,
    the file is refused. ``said`` are parts of what is printed: of the one line of a refusal,
    or of the lines of success. ``of`` is the network whose backbone it is.
    """

    write: Writer
    layout: str | None
    said: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    of: str = "torchvision"


class Colour(enum.Enum):
    RED = "red"


class Phase(enum.IntFlag):
    TRAIN = 1


@dataclasses.dataclass
class Settings:
    """A class that no one else has."""

    widths: list[int]
    parent: Any = None


class Singer:
    """Leaves a file where it stands as soon as it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return sing, (str(self.canary),)


class Tagged(torch.Tensor):
    """A tensor whose values may mean something else."""


class Listed(list):
    """A list with items that pickle appends to an instance."""


class Keyed(dict):
    """A dictionary whose items pickle sets in an instance."""


def sing(canary: str) -> None:
    Path(canary).touch()


def saved(name: str, content: Callable[[], Any], **options: Any) -> Writer:
    """A file that ``torch.save`` writes."""

    def write(folder: Path) -> Path:
        torch.save(content(), folder / name, **options)
        return folder / name

    return write


def raw(name: str, content: bytes) -> Writer:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def safetensors(name: str, content: Callable[[], State]) -> Writer:
    def write(folder: Path) -> Path:
        save_file(content(), folder / name)
        return folder / name

    return write


def vgg_state() -> State:
    return dict(torch_vgg().state_dict())


def features_state() -> State:
    return {k: v for k, v in vgg_state().items() if k.startswith("features.")}


def prefixed(prefix: str, state: Mapping[str, Any]) -> State:
    return {prefix + key: value for key, value in state.items()}


def renamed(state: Mapping[str, Any], *pairs: tuple[str, str]) -> State:
    """The state with the beginnings of some names changed."""
    found = dict(state)
    for old, new in pairs:
        found = {
            new + key.removeprefix(old) if key.startswith(old) else key: value
            for key, value in found.items()
        }
    return found


def other(state: Mapping[str, Any]) -> State:
    """The same network after other training."""
    return {key: value + 1 for key, value in state.items()}


def with_counters(state: Mapping[str, Any]) -> State:
    """As a profiler leaves it: two buffers in each module, and two at the top."""
    modules = {"", *(key.rpartition(".")[0] + "." for key in state), "features.", "pool."}
    counters = {
        f"{module}{name}": torch.zeros(1, dtype=torch.float64)
        for module in modules
        for name in ("total_ops", "total_params")
    }
    return {**counters, **state}


def beside(**values: Any) -> Callable[[], State]:
    """A training checkpoint that holds these beside the network."""
    return lambda: {"state_dict": small_state(), **values}


def everything() -> State:
    """A training checkpoint with as much beside the tensors as will go in."""
    network = torch_attn_vgg()
    optimizer = torch.optim.AdamW(network.parameters())
    sum(parameter.sum() for parameter in network.parameters()).backward()
    optimizer.step()
    itself = Settings([1, 2])
    itself.parent = itself
    return {
        "epoch": 7,
        "args": Namespace(lr=1e-3, data=Path("/data"), names=["a"], phase=Phase.TRAIN),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2).state_dict(),
        "rng": (torch.get_rng_state(), np.random.RandomState(0).get_state(), random.getstate()),
        "best": np.float64(0.5),
        "seen": {1, "a"},
        "history": collections.defaultdict(list, {"loss": [1.0]}),
        "at": datetime.datetime(2020, 1, 2),
        "itself": itself,
        "state_dict": small_state(),
    }


BESIDE: dict[str, Any] = {
    "namespace": Namespace(lr=1e-3, gpus=[0, 1], resume=None),
    "numpy-scalars": {"best": np.float64(0.5), "n": np.int64(3), "is": np.bool_(True)},
    "numpy-arrays": [np.arange(6).reshape(2, 3), np.array(["a"]), np.zeros(0)],
    "defaultdict": collections.defaultdict(list, {"loss": [1.0, 0.5]}),
    "ordered-dict": collections.OrderedDict(a=1, b=collections.OrderedDict()),
    "counter-and-deque": [collections.Counter("abca"), collections.deque([1], maxlen=3)],
    "sets": [{1, 2}, frozenset("ab"), set()],
    "paths": [Path("/data/photos"), pathlib.PureWindowsPath("c:/a")],
    "times": [
        datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
        datetime.timedelta(hours=1),
        datetime.date(2020, 1, 2),
    ],
    "enums": {"colour": Colour.RED, "phase": Phase.TRAIN, Colour.RED: 1},
    "own-class": Settings([1, 2], parent=Settings([])),
    "list-and-dictionary-of-a-class": [Listed([1, 2, Listed()]), Keyed(a=1, b=2)],
    "classes-and-functions": [nn.ReLU, sing, len, functools.partial(max, 1), float],
    "numbers": [decimal.Decimal("0.1"), 1 + 2j, 1 << 4000, range(3), slice(1), b"\0a", ...],
    "odd-keys": {(1, 2): "a", None: 1, b"x": 2, 3: 4, True: 5},
    "of-torch": [torch.device("cpu"), torch.float16, torch.Size([1]), torch.__version__],
    "whole-model": torch_attn_vgg(),
    "sparse-and-empty-tensors": [torch.eye(2).to_sparse(), torch.empty(2, device="meta")],
}

NAMES = (
    *("a.pth", "a.pt", "model_best.pth.tar", "last.ckpt", "pytorch_model.bin", "A.PTH"),
    *("weights", "best (1).pth", "epoch=3-val_loss=0.1.ckpt", "a.pth.42"),
)
PREFIXES = (
    *("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net."),
    *("backbone.", "model.module.", "network.", "encoder."),
)
ENTRIES = (
    *("state_dict", "model", "model_state_dict", "net", "network", "weights", "module"),
    *("ema", "model_ema"),
)


def names() -> dict[str, Shape]:
    """Files under other names than they should have."""
    found = {f"name-{name}": Shape(saved(name, small_state), "attn_vgg") for name in NAMES}
    old = {"_use_new_zipfile_serialization": False}
    for name in ("a.pth.tar", "weights"):
        found[f"old-format-{name}"] = Shape(saved(name, small_state, **old), "attn_vgg")
    for name in ("a.safetensors", "a.ckpt", "model", "a.pth"):
        found[f"safetensors-{name}"] = Shape(safetensors(name, small_state), "attn_vgg")
    found["zip-called-safetensors"] = Shape(saved("a.safetensors", small_state), "attn_vgg")
    for protocol in (3, 4, 5):
        write = saved("a.pth", small_state, pickle_protocol=protocol)
        found[f"protocol-{protocol}"] = Shape(write, "attn_vgg")
    return found


def prefixes() -> dict[str, Shape]:
    """Names that wrappers of modules make."""

    def of(prefix: str) -> Shape:
        said = (f"names without '{prefix}'",)
        return Shape(saved("a.pth", lambda: prefixed(prefix, small_state())), "attn_vgg", said)

    def around(part: str, wrapper: str) -> Shape:
        pair = (f"{part}.", f"{part}.{wrapper}.")
        said = ("names without wrappers of parts",)
        return Shape(saved("a.pth", lambda: renamed(vgg_state(), pair)), "torchvision", said)

    def lightning() -> State:
        state = prefixed("model.", small_state())
        return {"state_dict": state, "hyper_parameters": {"lr": 1}, "loops": {}}

    def averaged() -> State:
        state = prefixed("model_ema.module.", other(small_state()))
        return {**state, **prefixed("model.", small_state())}

    return {
        **{f"prefix-{prefix}": of(prefix) for prefix in PREFIXES},
        "parallel-features": around("features", "module"),
        "compiled-features": around("features", "_orig_mod"),
        "parallel-classifier": around("classifier", "module"),
        "compiled-and-parallel-features": around("features", "module._orig_mod"),
        "lightning": Shape(saved("a.ckpt", lightning), "attn_vgg", ("'state_dict'", "'model.'")),
        "safetensors-with-a-prefix": Shape(
            safetensors("a.safetensors", lambda: prefixed("_orig_mod.", small_state())), "attn_vgg"
        ),
        "two-networks-by-prefix": Shape(
            saved("a.pth", averaged), "attn_vgg", ("tensors of 'model_ema.module.'",)
        ),
        "one-name-twice": Shape(
            saved(
                "a.pth", lambda: {**prefixed("net.", vgg_state()), "classifier.0.bias": 0.0 * _1}
            ),
            None,
            ("two tensors for classifier.0.bias: net.classifier.0.bias and",),
        ),
        "module-twice": Shape(
            saved("a.pth", lambda: prefixed("module.module.", small_state())),
            None,
            ("neither a VGG of torchvision, timm or Keras nor",),
        ),
        "unknown-prefix": Shape(
            saved("a.pth", lambda: prefixed("layer1.", small_state())),
            None,
            ("its keys are layer1.conv_block1.0.weight",),
        ),
    }


_1 = torch.ones(1)


def entries() -> dict[str, Shape]:
    """What training scripts put around a state dict."""

    def of(name: str) -> Shape:
        def content() -> State:
            return {"epoch": 3, "optimizer": {"state": {}}, name: small_state()}

        return Shape(saved("a.pth", content), "attn_vgg", (f"weights of '{name}'",))

    def both() -> State:
        return {"ema": small_state(), "model": other(small_state()), "updates": 10}

    def config() -> State:
        layers = {"fc.weight": torch.zeros(2, 2)}
        return {"model": {"name": "vgg"}, "state_dict": layers, "net": small_state(), "best": _1}

    def average() -> State:
        return {"state_dict_ema": {"module": prefixed("module.", small_state())}, "decay": 0.99}

    flat = {"epoch": 3, "best": np.float64(1), "args": Namespace(lr=1), "optimizer": {"state": {}}}
    return {
        **{f"entry-{name}": of(name) for name in ENTRIES},
        "model-and-ema": Shape(
            saved("a.pth", lambda: {"ema": other(small_state()), "model": small_state()}),
            "attn_vgg",
            ("weights of 'model'", "not of 'ema' (--entry takes another)"),
        ),
        "ema-chosen": Shape(
            saved("a.pth", both), "attn_vgg", ("weights of 'ema'",), ("--entry", "ema")
        ),
        "no-such-entry": Shape(
            saved("a.pth", both), None, ("'best': it has 'model', 'ema'",), ("--entry", "best")
        ),
        "entries-without-a-network": Shape(saved("a.pth", config), "attn_vgg", ("of 'net'",)),
        "average-in-an-average": Shape(
            saved("a.pth", average), "attn_vgg", ("of 'state_dict_ema.module'", "'module.'")
        ),
        "values-among-tensors": Shape(
            saved("a.pth", lambda: {**small_state(), **flat}),
            "attn_vgg",
            ("passed over 4 values that are no tensors (epoch, best, args, optimizer)",),
        ),
        "default-dictionary": Shape(
            saved("a.pth", lambda: collections.defaultdict(list, small_state())), "attn_vgg"
        ),
        "unknown-entry": Shape(
            saved("a.pth", lambda: {"generator": small_state(), "critic": {}}),
            None,
            ("it holds generator, critic",),
        ),
        "optimizer-alone": Shape(
            saved("a.pth", lambda: torch.optim.SGD(torch_attn_vgg().parameters()).state_dict()),
            None,
            ("it holds state, param_groups",),
        ),
        "whole-model": Shape(saved("a.pth", torch_attn_vgg), None, ("TorchAttnVGG) and was not",)),
        "whole-model-in-an-entry": Shape(
            saved("a.pth", lambda: {"model": torch_attn_vgg(), "epoch": 1}),
            None,
            ("its 'model' is a tests.helpers.torch_attn_vgg.TorchAttnVGG",),
        ),
    }


def besides() -> dict[str, Shape]:
    """Training checkpoints with other things than tensors."""

    def sung(folder: Path) -> Path:
        return saved("a.pth", beside(a=[Singer(folder / "canary")]))(folder)

    def evil(folder: Path) -> Path:
        return saved("a.pth", beside(a=[_Shell()]))(folder)

    found = {
        f"beside-{name}": Shape(saved("a.pth", beside(extra=value)), "attn_vgg")
        for name, value in BESIDE.items()
    }
    for name, options in {
        "protocol-2": {},
        "protocol-4": {"pickle_protocol": 4},
        "old-format": {"_use_new_zipfile_serialization": False},
    }.items():
        found[f"beside-everything-{name}"] = Shape(
            saved("a.pth", everything, **options), "attn_vgg"
        )
    old = saved("a.pth", beside(extra=BESIDE["whole-model"]), _use_new_zipfile_serialization=False)
    found["beside-whole-model-old-format"] = Shape(old, "attn_vgg")
    found["beside-a-function-that-would-be-called"] = Shape(sung, "attn_vgg")
    found["beside-a-command"] = Shape(evil, None, ("system) and was not loaded",))
    return found


class _Shell:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("true",)


def layers() -> dict[str, Shape]:
    """State dicts of other networks than ours, or of parts of them."""
    old = (("classifier.3.", "classifier.4."), ("classifier.0.", "classifier.1."))
    convolutions = ("--layout", "backbone")

    def headed() -> State:
        head = {"fc.weight": torch.zeros(2, WIDTHS[-1]), "fc.bias": torch.zeros(2)}
        return {**features_state(), **head}

    def replaced() -> State:
        state = {k: v for k, v in vgg_state().items() if not k.startswith("classifier.6")}
        head = {"classifier.6.1.weight": torch.zeros(2, HIDDEN), "classifier.6.1.bias": _1}
        return {**state, **head}

    def wrapped_head() -> State:
        return {**prefixed("backbone.", features_state()), "head.weight": _1}

    def without_statistics() -> State:
        return dict(torch_attn_vgg().named_parameters())

    def plain_vgg() -> State:
        kept = {k: v for k, v in vgg_state().items() if "running" not in k}
        return {k: v for k, v in kept.items() if v.ndim == 4 or k.startswith("classifier")}

    def attributes() -> State:
        state = small_state()
        state["cls.bias"].note = "an attribute of its own"
        return state

    def of_a_class() -> State:
        state = small_state()
        return {**state, "cls.bias": state["cls.bias"].as_subclass(Tagged)}

    def view() -> State:
        state = small_state()
        state["cls.weight"] = torch.cat([state["cls.weight"], _1.expand(3, 18)], 1)[:, :18]
        state["conv_block2.0.weight"] = state["conv_block2.0.weight"].to(
            memory_format=torch.channels_last
        )
        return state

    def numpy_values() -> State:
        return {key: value.numpy() for key, value in small_state().items()}

    return {
        "counters-of-a-profiler": Shape(
            saved("a.pth", lambda: with_counters(small_state())), "attn_vgg", ("of a profiler",)
        ),
        "counters-under-a-prefix": Shape(
            saved("a.pth", lambda: prefixed("module.", with_counters(vgg_state()))), "torchvision"
        ),
        "old-classifier": Shape(saved("a.pth", lambda: renamed(vgg_state(), *old)), "torchvision"),
        "old-classifier-parallel-features": Shape(
            saved("a.pth", lambda: renamed(vgg_state(), *old, ("features.", "features.module."))),
            "torchvision",
        ),
        "features-alone": Shape(saved("a.pth", features_state), "backbone"),
        "features-numbered": Shape(
            saved("a.pth", lambda: renamed(features_state(), ("features.", ""))), "backbone"
        ),
        "features-numbered-with-a-prefix": Shape(
            saved("a.pth", lambda: renamed(features_state(), ("features.", "backbone."))),
            "backbone",
        ),
        "unknown-head-for-the-backbone": Shape(
            saved("a.pth", headed), "backbone", ("passed over fc.bias, fc.weight",), convolutions
        ),
        "replaced-layer-for-the-backbone": Shape(
            saved("a.pth", replaced), "backbone", ("the convolutions alone",), convolutions
        ),
        "head-beside-a-prefix-for-the-backbone": Shape(
            saved("a.pth", wrapped_head), "backbone", ("passed over head.weight",), convolutions
        ),
        "attn-vgg-for-the-backbone": Shape(
            saved("a.pth", small_state), "backbone", ("alone",), convolutions, "attn_vgg"
        ),
        "old-classifier-for-the-backbone": Shape(
            saved("a.pth", lambda: renamed(vgg_state(), *old)), "backbone", (), convolutions
        ),
        "unknown-head": Shape(
            saved("a.pth", headed), None, ("2 unexpected (fc.bias, fc.weight). --layout backbone",)
        ),
        "replaced-layer": Shape(
            saved("a.pth", replaced), None, ("2 missing (classifier.6.weight", "--layout backbone")
        ),
        "parameters-and-buffers": Shape(
            saved("a.pth", lambda: _parameters(torch_attn_vgg())), "attn_vgg"
        ),
        "views-and-channels-last": Shape(saved("a.pth", view), "attn_vgg"),
        "tensor-with-attributes": Shape(saved("a.pth", attributes), "attn_vgg"),
        "tensor-of-a-class": Shape(
            saved("a.pth", of_a_class),
            None,
            ("(cls.bias is a tests.helpers.weight_shapes.Tagged)",),
        ),
        "parameters-without-statistics": Shape(
            saved("a.pth", without_statistics), None, ("missing (conv_block1.1.running_mean",)
        ),
        "vgg-without-normalisation": Shape(saved("a.pth", plain_vgg), None, ("missing (features",)),
        "arrays-for-tensors": Shape(
            saved("a.pth", numpy_values), None, ("it holds conv_block1.0.weight", "no state dict")
        ),
        "half": Shape(
            saved("a.pth", lambda: {k: v.half() for k, v in small_state().items()}),
            None,
            ("not float32", "--cast"),
        ),
    }


def _parameters(network: nn.Module) -> State:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def others() -> dict[str, Shape]:
    """What lies in the place of weights."""

    def archive(folder: Path) -> Path:
        with tarfile.open(folder / "a.pth.tar", "w") as tar:
            for name in ("sys_info", "pickle", "tensors", "storages"):
                tar.addfile(tarfile.TarInfo(name))
        return folder / "a.pth.tar"

    def arrays(folder: Path) -> Path:
        np.savez(folder / "a.npz", a=np.zeros(3))
        return folder / "a.npz"

    def script(folder: Path) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # deprecated, but there are such files
            module = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
            torch.jit.save(module, folder / "a.pt")
        return folder / "a.pt"

    def cut(folder: Path) -> Path:
        path = saved("a.pth", small_state)(folder)
        path.write_bytes(path.read_bytes()[:-100])
        return path

    def packed(folder: Path) -> Path:
        path = saved("a.pth", small_state)(folder)
        with gzip.open(folder / "a.pth.gz", "wb") as file:
            file.write(path.read_bytes())
        return folder / "a.pth.gz"

    def zipped(folder: Path) -> Path:
        path = saved("a.pth", small_state)(folder)
        with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, path.name)
        return folder / "a.zip"

    index = {"weight_map": {"cls.weight": "model-00001-of-00002.safetensors"}}
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\n"
    page = b"\xef\xbb\xbf\n<!DOCTYPE html><html><title>Sign in</title>" + b" " * 999
    refused: Iterable[tuple[str, Writer, str]] = (
        ("web-page", raw("a.pth", page), "is a web page"),
        ("web-page-safetensors", raw("a.safetensors", b"<html>"), "is a web page"),
        ("zeros-safetensors", raw("a.safetensors", bytes(99)), "no safetensors file, or a damaged"),
        ("error-as-text", raw("a.pth", b"404: Not Found"), "is text, not weights"),
        ("error-as-json", raw("a.ckpt", b'{"message": "Not Found"}'), "is text, not weights"),
        ("index-of-parts", raw("a.json", json.dumps(index).encode()), "is text, not weights"),
        ("pointer-of-git-lfs", raw("a.pth", pointer), "run git lfs pull"),
        ("nothing", raw("a.pth", b""), "is empty"),
        ("zeros", raw("a.ckpt", bytes(4096)), "no file of PyTorch tensors"),
        ("tar", archive, "is a tar archive"),
        ("gzip", packed, "is packed by gzip"),
        ("zip", zipped, "(it holds a.pth): unpack it and name the weight file"),
        ("hdf5", raw("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(99)), "is a damaged HDF5 file"),
        ("npz", arrays, "is an archive without weights of PyTorch (it holds a.npy)"),
        ("npy", raw("a.npy", b"\x93NUMPY\x01\0"), "is an array of NumPy"),
        ("torchscript", script, "TorchScript program"),
        ("cut-short", cut, "or a damaged one"),
        ("folder", lambda folder: folder, "it is a folder"),
        ("no-file", lambda folder: folder / "a.ckpt", "no such file"),
    )
    return {name: Shape(write, None, (part,)) for name, write, part in refused}


SHAPES: dict[str, Shape] = {
    **names(),
    **prefixes(),
    **entries(),
    **besides(),
    **layers(),
    **others(),
}
