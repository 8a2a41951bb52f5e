"""Small files whose other values, beside an honest state dict, ask for much memory or time."""

from __future__ import annotations

from tests.helpers.weight_faults import (
    CONTAINERS,
    State,
    call,
    hungry,
    impossible,
    items,
    name,
    number,
    state_table,
    table,
    text,
)

# As many as a pickle of a megabyte has place for.
MANY = 20_000


def beside(state: State) -> dict[str, bytes]:
    """Values of a checkpoint that are stepped over, one of each kind."""
    typed = "torch._tensor._rebuild_from_type_v2"
    nested = items(number(0))
    for _ in range(MANY // 20):
        nested = items(name(typed), name("torch.Tensor"), nested)
    calls = call("module.function", b")")
    instance = name("module.Class") + b")\x81"
    return {
        **hungry(state),
        **impossible(state),
        "nested-rebuilds": name(typed) + nested + b"R",
        "calls-of-calls": calls + b")R" * MANY,
        "calls-with-calls": (name("module.f")) * MANY + b")R" + b"\x85R" * (MANY - 1),
        "instances": b"(" + instance * MANY + b"t",
        "states-of-states": instance + b"}b" * MANY,
        "empty-sets": b"(" + b"\x8f" * MANY + b"t",
        "keys-that-are-none": b"}(" + b"NN" * MANY + b"u",
        "keys-that-are-instances": b"}(" + (instance + b"N") * MANY + b"u",
        "appended-to-an-instance": instance + b"(" + b"N" * MANY + b"e",
        "endless-bytes": call("builtins.bytearray", number(40 << 30)),
        "long-number": b"\x8b" + (MANY * 10).to_bytes(4, "little") + b"\x7f" * (MANY * 10),
        "remembered": b"N" + b"\x94" * MANY,
        "names-of-classes": b"(" + name("a" * 40 + ".B") * MANY + b"t",
    }


def _tensors_named(names: list[str], state: State) -> bytes:
    """A state dict with a small tensor more under each of these names."""
    shared = state_table({names[0]: next(iter(state.values()))})[2:-1]
    first = text(names[0])
    rebuilt = shared[len(first) :]
    rest = b"".join(text(other) + b"h\x00" for other in names[1:])
    return b"}(" + first + rebuilt + b"q\x00" + rest + b"u"


def around(state: State) -> dict[str, bytes]:
    """Whole checkpoints whose entries and names take long to compare if done badly."""
    entries = ("state_dict", "model", "net", "weights", "ema")
    deep = state_table(state)
    for _ in range(MANY // 4):
        deep = table([(text("model"), deep)])
    # Each of five dictionaries holds the next under five names.
    shared = state_table(state)
    for level in range(5):
        place = bytes([level])
        pairs = [(text(entry), b"h" + place) for entry in entries]
        shared = shared + b"q" + place + b"0" + table(pairs) if level else shared + b"q\x00"
    prefixes = ["module", "model", "net", "backbone", "encoder", "vgg", "ema"]
    orders = [
        ".".join(prefixes[(i // 7**j) % 7] for j in range(6)) + f".conv_block{i}"
        for i in range(MANY // 2)
    ]
    return {
        "deep-entries": deep,
        "repeated-prefix": _tensors_named(["module." * MANY + "conv_block1.0.weight"], state),
        "many-prefixes": _tensors_named(orders, state),
        "many-parts": _tensors_named([".".join("a" * MANY)], state),
        "many-wrappers": _tensors_named([f"a{i}.module.b" for i in range(MANY)], state),
        "many-counters": _tensors_named([f"a{i}.total_ops" for i in range(MANY)], state),
        "many-names": _tensors_named([f"features.{i}" for i in range(MANY)], state),
    }


def burdens(state: State) -> dict[str, bytes]:
    """A file of each kind in both containers of PyTorch's."""
    found = {}
    for container in ("zip", "legacy"):
        wrap = CONTAINERS[container]
        for kind, pickled in beside(state).items():
            pairs = [(text("state_dict"), state_table(state)), (text("extra"), pickled)]
            found[f"{kind}-{container}"] = wrap(table(pairs), state)
        for kind, pickled in around(state).items():
            found[f"{kind}-{container}"] = wrap(pickled, state)
    return found
