"""Hostile and damaged ``.pth`` files for the fault injections, built without PyTorch.

The files are written by hand, opcode by opcode, because PyTorch writes no hostile ones.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

Rng = np.random.Generator
State = Mapping[str, np.ndarray]

_STORAGE = {"float32": "FloatStorage", "float64": "DoubleStorage", "int64": "LongStorage"}
_PROTO = b"\x80\x02"

# Opcodes


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def name(dotted: str) -> bytes:
    module, _, attribute = dotted.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def items(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def call(function: str, *arguments: bytes) -> bytes:
    return name(function) + items(*arguments) + b"R"


def table(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def storage(kind: str, key: str, count: int, *more: bytes) -> bytes:
    return items(text("storage"), name(kind), text(key), text("cpu"), number(count), *more) + b"Q"


def tensor(held: bytes, shape: Iterable[int], strides: Iterable[int], *, offset: int = 0) -> bytes:
    sizes = [items(*map(number, values)) for values in (shape, strides)]
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", held, number(offset), *sizes, b"\x89", hooks)


def strides_of(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]


def of_array(array: np.ndarray, key: str, *more: bytes) -> bytes:
    held = storage(f"torch.{_STORAGE[str(array.dtype)]}", key, array.size, *more)
    return tensor(held, array.shape, strides_of(array.shape))


def state_table(state: State, *more: bytes) -> bytes:
    pairs = [(text(k), of_array(a, str(i), *more)) for i, (k, a) in enumerate(state.items())]
    return table(pairs)


def whole(pickled: bytes) -> bytes:
    return _PROTO + pickled + b"."


# Containers


def zipped(
    records: Iterable[tuple[str, bytes]],
    *,
    compression: int = zipfile.ZIP_STORED,
    comment: bytes = b"",
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.comment = comment
        for record, content in records:
            archive.writestr(zipfile.ZipInfo(record), content, compress_type=compression)
    return stream.getvalue()


def records(pickled: bytes, state: State) -> list[tuple[str, bytes]]:
    numbers = [(f"a/data/{i}", array.tobytes()) for i, array in enumerate(state.values())]
    head = [("a/data.pkl", whole(pickled)), ("a/byteorder", b"little"), ("a/version", b"3\n")]
    return [*head, *numbers]


def modern(pickled: bytes, state: State) -> bytes:
    return zipped(records(pickled, state))


def legacy(
    pickled: bytes, state: State, *, header: bytes | None = None, keys: bytes = b""
) -> bytes:
    platform = table([(text("little_endian"), b"\x88")])
    head = [number(0x1950A86A20F9469CFC6C), number(1001), platform]
    listed = b"](" + b"".join(text(str(i)) for i in range(len(state))) + b"e"
    parts = [header or whole(head[0]), *map(whole, (*head[1:], pickled)), keys or whole(listed)]
    values = [struct.pack("<q", a.size) + a.tobytes() for a in state.values()]
    return b"".join([*parts, *values])


def plain(pickled: bytes, state: State) -> bytes:
    return whole(pickled)


CONTAINERS: dict[str, Callable[[bytes, State], bytes]] = {
    "zip": modern,
    "legacy": legacy,
    "pickle": plain,
}


# Code


def _code(canary: Path) -> dict[str, bytes]:
    """Pickles that create ``canary`` when something unpickles or runs them."""
    command, program = f"touch '{canary}'", f"open({str(canary)!r}, 'w').close()"
    shell, python = text(command), text(program)
    inner = pickle.dumps(_Touch(canary), 0)
    raw = b"T" + struct.pack("<I", len(inner)) + inner
    return {
        "os.system": call("os.system", shell),
        "posix.system": call("posix.system", shell),
        "popen": call("subprocess.Popen", items(text("touch"), text(str(canary)))),
        "eval": call("builtins.eval", python),
        "exec": call("builtins.exec", python),
        "python-2-eval": call("__builtin__.eval", python),
        "import": call("builtins.__import__", text("os")),
        "import-module": call("importlib.import_module", text("os")),
        "getattr": call("builtins.getattr", name("os.environ"), text("pop")),
        "open": call("builtins.open", text(str(canary)), text("w")),
        "nested-name": call("os.path.os.system", shell),
        "run-path": call("runpy.run_path", text(str(canary))),
        "library": call("ctypes.CDLL", text(str(canary))),
        "methodcaller": call("operator.methodcaller", text("system"), shell),
        "partial": call("functools.partial", name("os.system"), shell),
        "nested-pickle": call("pickle.loads", raw),
        "nested-torch-load": call("torch.serialization.load", text(str(canary))),
        "hub": call("torch.hub.load", text(str(canary)), text("evil")),
        "numpy-load": call("numpy.load", text(str(canary))),
        "numpy-reconstruct": call("numpy.core.multiarray._reconstruct", name("numpy.ndarray")),
        "rebuild-from-type": call(
            "torch._tensor._rebuild_from_type_v2",
            name("os.system"),
            name("torch.Tensor"),
            items(shell),
        ),
        "copyreg": call("copyreg._reconstructor", name("os._wrap_close"), b"N"),
        "instance": b"(" + shell + b"ios\nsystem\n",
        "object": b"(" + name("os.system") + shell + b"o",
        "new-object": name("os.system") + items(shell) + b"\x81",
        "new-object-ex": name("os.system") + items(shell) + b"}\x92",
        "stack-global": text("os") + text("system") + b"\x93" + items(shell) + b"R",
        "extension": b"\x82\x01" + items(shell) + b"R",
        "build": call("collections.OrderedDict") + table([(text("__reduce__"), shell)]) + b"b",
        "build-class": name("os.system") + table([(text("a"), shell)]) + b"b",
        "call-of-text": shell + items(shell) + b"R",
        "module-source": items(text("module"), name("os.system"), shell, shell) + b"Q",
        "persistent-text": b"P" + command.encode() + b"\n",
        "protocol-0": pickle.dumps(_Touch(canary), 0)[:-1],
        "protocol-4": pickle.dumps(_Touch(canary), 4)[2:-1],
        "protocol-5": pickle.dumps(_Touch(canary), 5)[2:-1],
    }


class _Touch:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.canary}'",)


def sings(canary: Path) -> None:
    """Shows that the canary would sing: unpickles one of them."""
    pickle.loads(whole(_code(canary)["os.system"]))


def _placed(evil: bytes, state: State) -> dict[str, bytes]:
    """The same code in other places of a state dict."""
    pairs = [(text(k), of_array(a, str(i))) for i, (k, a) in enumerate(state.items())]
    hooks = items(
        storage("torch.FloatStorage", "0", 3),
        number(0),
        items(number(3)),
        items(number(1)),
        b"\x89",
        evil,
    )
    return {
        "value": table([*pairs[1:], (text("evil"), evil)]),
        "nested": table([(text("state_dict"), table(pairs)), (text("a"), b"](" + evil + b"e")]),
        "key": table([*pairs, (evil, b"N")]),
        "metadata": call("collections.OrderedDict") + table([(text("_metadata"), evil)]) + b"b",
        "hooks": table([(text("w"), name("torch._utils._rebuild_tensor_v2") + hooks + b"R")]),
        "shape": table([(text("w"), call("torch.Size", evil))]),
        "storage-key": table(
            [(text("w"), items(text("storage"), name("torch.FloatStorage"), evil) + b"Q")]
        ),
        "forgotten": evil + b"0" + table(pairs),
    }


# Resources


def hungry(state: State) -> dict[str, bytes]:
    """Pickles of a few bytes that claim memory or time without end."""
    huge = number(40 << 30)
    digits = call("_codecs.encode", text("ab" * 500), text("latin1"))
    for _ in range(40):
        digits = call("_codecs.encode", digits, text("hex"))
    nested = b")"
    for i in range(60):
        nested += b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86"
    pairs = b"](" + b"".join(items(text(str(i)), b"N") for i in range(2000)) + b"eq\x00"
    copies = pairs + b"](" + (name("collections.OrderedDict") + b"h\x00\x85R") * 2000 + b"e\x86"
    memoized = text("x" * 1000) + b"q\x01"
    big = storage("torch.FloatStorage", "0", 40 << 30)
    return {
        "bytearray": call("builtins.bytearray", huge),
        "codecs": digits,
        "tensor-class": call("torch.Tensor", huge),
        "quantised-size": call("torch._utils._rebuild_qtensor", huge, items(huge)),
        "hashed-tuples": b"}" + nested + b"Ns",
        "copied-items": copies,
        "shared-text": memoized + b"](" + b"h\x01" * 50_000 + b"e\x86",
        "deep-lists": b"]" * 50_000 + b"a" * 49_999,
        "deep-tuples": b")" + b"\x85" * 50_000,
        "storage-of-160-gb": table([(text("w"), tensor(big, [40 << 30], [1]))]),
        "stride-0": table(
            [(text("w"), tensor(storage("torch.FloatStorage", "0", 3), [1 << 30] * 2, [0, 0]))]
        ),
        "stride-fits": table(
            [(text("w"), tensor(storage("torch.FloatStorage", "0", 3), [3, 18], [0, 0]))]
        ),
        "many-dimensions": table(
            [(text("w"), tensor(storage("torch.FloatStorage", "0", 1), [1] * 5000, [1] * 5000))]
        ),
        "empty-but-wide": table(
            [
                (
                    text("conv_block1.0.weight"),
                    tensor(storage("torch.FloatStorage", "9", 0), [0], [1]),
                ),
                *(
                    (text(key), tensor(storage("torch.FloatStorage", "9", 0), [1 << 61, 0], [0, 1]))
                    for key in ("attn1.W_l.weight", "cls.weight")
                ),
            ]
        ),
        "holds-itself": b"}q\x00" + text("state_dict") + b"h\x00s",
        "list-holds-itself": table([(text("a"), b"]q\x00h\x00a")]),
    }


def impossible(state: State) -> dict[str, bytes]:
    """Tensors that no PyTorch writes."""

    def one(**change: object) -> bytes:
        given = {
            "kind": "torch.FloatStorage",
            "key": "0",
            "count": 3,
            "shape": [3],
            "strides": [1],
            "offset": 0,
        }
        given |= change
        held = storage(given["kind"], given["key"], given["count"])  # type: ignore[arg-type]
        return table(
            [(text("w"), tensor(held, given["shape"], given["strides"], offset=given["offset"]))]
        )  # type: ignore[arg-type]

    return {
        "negative-size": one(shape=[-3]),
        "negative-stride": one(strides=[-1]),
        "negative-offset": one(offset=-1),
        "negative-count": one(count=-3),
        "offset-behind-the-end": one(offset=2),
        "offset-of-2048-bits": one(offset=1 << 1000),
        "size-of-2048-bits": one(shape=[1 << 1000]),
        "shape-without-strides": one(shape=[3, 1]),
        "no-such-storage": one(key="99"),
        "storage-elsewhere": one(key="../../data.pkl"),
        "storage-too-short": one(count=999),
        "storage-too-long": one(count=2, shape=[2]),
        "storage-of-two-types": table(
            [
                (text(kind), tensor(storage(f"torch.{kind}", "0", 3), [3], [1]))
                for kind in ("FloatStorage", "DoubleStorage")
            ]
        ),
        "untyped": one(kind="torch.storage.UntypedStorage"),
        "storage-is-text": table([(text("w"), tensor(text("0"), [3], [1]))]),
        "tensor-of-nothing": table([(text("w"), call("torch._utils._rebuild_tensor_v2"))]),
        "shape-of-text": table(
            [
                (
                    text("w"),
                    call(
                        "torch._utils._rebuild_tensor_v2",
                        storage("torch.FloatStorage", "0", 3),
                        number(0),
                        items(text("3")),
                        items(text("1")),
                    ),
                )
            ]
        ),
        "empty-stack": b"",
        "two-values": b"NN",
        "only-mark": b"(",
        "unmarked": b"t",
        "unmemoized": b"h\x07",
        "list-as-dictionary": b"]" + text("a") + b"Ns",
        "dictionary-as-list": b"}Na",
    }


# Contents


def contents(state: State) -> dict[str, State]:
    """State dicts of honest pickles that are none of the network's."""
    some = next(iter(state))

    def changed(key: str, array: np.ndarray) -> State:
        return {**state, key: array}

    kernel, variance = state["conv_block2.0.weight"], state["conv_block1.1.running_var"]
    broken = np.array(kernel)
    broken.flat[3] = np.nan
    endless = np.array(state["cls.bias"])
    endless[0] = -np.inf
    return {
        "nan": changed("conv_block2.0.weight", broken),
        "infinite": changed("cls.bias", endless),
        "negative-variance": changed("conv_block1.1.running_var", -variance),
        "channels-last": changed(
            "conv_block2.0.weight", np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))
        ),
        "transposed": changed("cls.weight", np.ascontiguousarray(state["cls.weight"].T)),
        "double": {k: a.astype(np.float64) for k, a in state.items()},
        "integers": changed("cls.bias", np.array([1, 2, 3])),
        "missing": {k: a for k, a in state.items() if not k.startswith("cls")},
        "extra": {**state, **{f"extra{i}": np.zeros(1, np.float32) for i in range(9)}},
        "odd-key": {**state, "a\n\x1b[31m": np.zeros(1, np.float32)},
        "long-key": {**state, "a" * 100_000: np.zeros(1, np.float32)},
        "other-network": {f"layer1.{k}": a for k, a in state.items()},
        "prefixed-twice": {f"module.module.{k}": a for k, a in state.items()},
        "prefixed-in-part": {("module." if k == some else "") + k: a for k, a in state.items()},
        "nothing": {},
    }


# Archives and files


def _archives(state: State) -> dict[str, bytes]:
    table_, good = state_table(state), modern(state_table(state), state)
    parts = records(table_, state)
    pickled = parts[0][1]
    evil = whole(call("os.system", text("true")))
    flipped = bytearray(good)
    flipped[good.index(state["cls.weight"].tobytes()) + 5] ^= 1
    central = good.index(b"PK\x01\x02")
    encrypted = bytearray(good)
    encrypted[central + 8] |= 1
    overlapping = bytearray(good)
    second = good.index(b"PK\x01\x02", central + 4)
    third = good.index(b"PK\x01\x02", second + 4)
    overlapping[third + 42 : third + 46] = good[second + 42 : second + 46]
    swollen = bytearray(good)
    swollen[central + 20 : central + 28] = b"\xf0\xff\xff\xff" * 2
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for record in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(record)
            info.size = len(evil)
            archive.addfile(info, io.BytesIO(evil))
    long = table([(text(f"w{i}"), number(i)) for i in range(100_000)])
    return {
        "flipped-bit": bytes(flipped),
        "half": good[: len(good) // 2],
        "without-last-byte": good[:-1],
        "packed": zipped(parts, compression=zipfile.ZIP_DEFLATED),
        "bomb": zipped([*parts, ("a/zeros", b"\0" * (64 << 20))], compression=zipfile.ZIP_DEFLATED),
        "quoting": quoting(pickled, 400),
        "two-pickles": zipped([*parts, ("b/data.pkl", evil)]),
        "same-name-twice": _twice(parts, evil),
        "no-pickle": zipped(parts[1:]),
        "pickle-at-the-top": zipped([("data.pkl", pickled)]),
        "big-endian": zipped([(k, b"big" if "byteorder" in k else v) for k, v in parts]),
        "long-pickle": zipped([("a/data.pkl", whole(long))]),
        "encrypted": bytes(encrypted),
        "overlapping": bytes(overlapping),
        "swollen": bytes(swollen),
        "text-before": b"#!/bin/sh\n" + good,
        "behind-legacy": legacy(call("os.system", text("true")), {}) + good,
        "only-the-end": good[central:],
        "torchscript": zipped(
            [("a/data.pkl", evil), ("a/constants.pkl", evil), ("a/code/m.py", b"")]
        ),
        "tar": tar.getvalue(),
        "legacy-half": legacy(table_, state)[: -len(state["cls.weight"].tobytes())],
        "legacy-without-last-byte": legacy(table_, state)[:-1],
        "legacy-evil-header": legacy(table_, state, header=evil),
        "legacy-evil-keys": legacy(table_, state, keys=evil),
        "legacy-no-keys": legacy(table_, state, keys=whole(b"N")),
        "legacy-view": legacy(state_table(state, items(text("0"), number(0), number(1))), state),
        "legacy-of-160-gb": legacy(
            table(
                [(text("w"), tensor(storage("torch.FloatStorage", "0", 40 << 30), [40 << 30], [1]))]
            ),
            {"w": np.zeros(3, np.float32)},
        ),
        "empty": b"",
        "one-byte": b"P",
        "html": b"<!doctype html><title>404</title>",
        "zeros": b"\0" * 4096,
        "numpy": _npz(state),
        "whole-pickle-module": pickle.dumps(object),
    }


def quoting(pickled: bytes, depth: int) -> bytes:
    """Records of which each holds all that follow: reading each takes the square of the size."""
    names = [f"a/data/{i}".encode() for i in range(depth)] + [b"a/data.pkl"]
    blob, entries = b"", []
    for record in reversed(names):
        content = blob or pickled
        facts = struct.pack("<III", zlib.crc32(content), len(content), len(content))
        sizes = struct.pack("<HH", len(record), 0)
        blob = b"PK\x03\x04" + bytes((10, *[0] * 9)) + facts + sizes + record + content
        entries.append((record, facts, len(blob)))
    central = b"".join(
        b"PK\x01\x02" + bytes((10, 0, 10, *[0] * 9)) + facts + struct.pack("<H", len(record))
        + bytes(12) + struct.pack("<I", len(blob) - size) + record
        for record, facts, size in entries
    )  # fmt: skip
    end = struct.pack("<HHIIH", len(entries), len(entries), len(central), len(blob), 0)
    return blob + central + b"PK\x05\x06" + bytes(4) + end


def _twice(parts: list[tuple[str, bytes]], evil: bytes) -> bytes:
    # zipfile warns of a second record of one name, so the names are made equal afterwards.
    content = zipped([*parts, ("a/dato.pkl", evil)])
    return content.replace(b"a/dato.pkl", b"a/data.pkl")


def _npz(state: State) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{k.replace(".", "_"): a for k, a in state.items()})
    return stream.getvalue()


def hostile(state: State, canary: Path) -> dict[str, bytes]:
    """A file of each kind, by a name that says what is wrong with it."""
    found = _archives(state)
    for container, wrap in CONTAINERS.items():
        for kind, pickled in _code(canary).items():
            found[f"code-{kind}-{container}"] = wrap(pickled, state)
        for kind, pickled in _placed(_code(canary)["os.system"], state).items():
            found[f"code-in-{kind}-{container}"] = wrap(pickled, state)
        if container != "pickle":
            for kind, pickled in {**hungry(state), **impossible(state)}.items():
                found[f"{kind}-{container}"] = wrap(pickled, {"w": np.zeros(3, np.float32)})
            for kind, content in contents(state).items():
                found[f"{kind}-{container}"] = wrap(state_table(content), content)
    return found


def put_odd_files(folder: Path) -> list[Path]:
    """Names that are no regular file."""
    paths = {kind: folder / f"{kind}.pth" for kind in ("loop", "folder", "fifo", "zero", "none")}
    paths["loop"].symlink_to(paths["loop"])
    paths["folder"].mkdir()
    os.mkfifo(paths["fifo"])
    paths["zero"].symlink_to("/dev/zero")
    return list(paths.values())


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.canary}'",)


# Mutations


def mutated(state: State, case: int) -> tuple[str, bytes]:
    """A damaged file, and how: its bytes, or the bytes of its pickle in a whole container."""
    rng = np.random.default_rng([22, case])
    container = ("zip", "legacy")[case % 2]
    wrap = CONTAINERS[container]
    pickled = state_table(state)
    mutation = _MUTATIONS[case // 2 % len(_MUTATIONS)]
    if case // 2 // len(_MUTATIONS) % 2:
        data = bytearray(pickled)
        mutation(data, rng)
        return f"{container}-pickle", wrap(bytes(data), state)
    data = bytearray(wrap(pickled, state))
    mutation(data, rng)
    return container, bytes(data)


def _flip_bits(data: bytearray, rng: Rng) -> None:
    for place in rng.integers(0, len(data), rng.integers(1, 4)):
        data[place] ^= 1 << int(rng.integers(8))


def _cut(data: bytearray, rng: Rng) -> None:
    del data[int(rng.integers(len(data))) :]


def _insert(data: bytearray, rng: Rng) -> None:
    place = int(rng.integers(len(data)))
    data[place:place] = rng.bytes(int(rng.integers(1, 16)))


def _remove(data: bytearray, rng: Rng) -> None:
    place = int(rng.integers(len(data)))
    del data[place : place + int(rng.integers(1, 16))]


def _overwrite(data: bytearray, rng: Rng) -> None:
    for place in rng.integers(0, len(data), rng.integers(1, 4)):
        data[place] = int(rng.choice([0, 1, 0x7F, 0xFF, *b"(.RQbuethq\x85\x8a"]))


def _swap(data: bytearray, rng: Rng) -> None:
    a, b = rng.integers(0, max(1, len(data) - 16), 2).tolist()
    data[a : a + 16], data[b : b + 16] = data[b : b + 16], data[a : a + 16]


_MUTATIONS: tuple[Callable[[bytearray, Rng], None], ...] = (
    _flip_bits,
    _cut,
    _insert,
    _remove,
    _overwrite,
    _swap,
)
