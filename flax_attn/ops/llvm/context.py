"""What the units of a job share: the machine they were made for, and a table of numbers."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flax_attn.ops.llvm.ir import INT, POINTER, Emitter, define

ADDRESSES = (
    "image",  # [b, h, w, c]
    "kernel",  # [3, 3, c, d]; of sums over channels, the mean [c]
    "turned",  # [3, 3, d, c], the kernel before it is turned
    "factor",  # [d]
    "offset",  # [d]; of moments, the pivot [c]
    "input_factor",  # [c]
    "input_offset",  # [c]
    "cotangent",  # [b, h, w, d], the gradient in the output
    "out",  # [b, h, w, d], or [3, 3, c, d]
    "zeros",  # max(c, d), read where there is no pixel
    "waste",  # max(c, d), written where there is no pixel
    "kernels",  # [36, d / chunk, c, chunk], or of each worker [36, c, chunk]
    "tiles",  # [36, room, c] for products, [36, c / lanes, room, lanes] for sums
    "cotangents",  # [36, d / chunk, room, chunk]
    "products",  # of each worker: [36, block, chunk]
    "sums",  # [36, c, d], or of parts of the pixels [parts, 2, c]
)
NUMBERS = (
    "h",
    "w",
    "c",
    "d",
    "down",  # tiles from top to bottom of an image
    "across",  # tiles from left to right
    "first",  # the first tile of those in memory
    "count",  # how many are in memory
    "room",  # how many there is room for
    "block",  # how many a unit multiplies
    "tile_step",  # floats from one of ``tiles`` to the next
    "vector_step",  # floats from a vector of channels to the next in ``tiles``
    "keep",  # 0 to overwrite the sums, 1 to add to them
)
FIELD = {name: i for i, name in enumerate(ADDRESSES + NUMBERS)}


@dataclass(frozen=True)
class Machine:
    """Floats of a vector, and the blocks of a product that fill the registers.

    ``rows`` x ``columns`` vectors of sums in the products, ``sum_rows`` x ``columns`` in the
    sums over tiles; ``sum_rows`` divides ``lanes``.
    """

    lanes: int
    columns: int
    rows: int
    sum_rows: int

    @property
    def chunk(self) -> int:
        """Output channels of a block."""
        return self.lanes * self.columns


class Context:
    """The table of a job: an attribute is loaded where it is read."""

    def __init__(self, e: Emitter, address: ir.Value):
        self._e, self._address = e, address

    def __getattr__(self, name: str) -> ir.Value:
        kind = POINTER if name in ADDRESSES else INT
        place = self._e.word(self._address, FIELD[name])
        return self._e.builder.load(place, typ=kind)


def begin_unit(
    module: ir.Module, name: str, machine: Machine
) -> tuple[Emitter, Context, ir.Value, ir.Value]:
    """A new ``unit(context, index, worker)``."""
    e, (context, index, worker) = define(module, name, [POINTER, INT, INT], machine.lanes)
    return e, Context(e, context), index, worker
