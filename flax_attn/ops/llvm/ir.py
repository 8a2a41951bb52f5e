"""A small layer over llvmlite: loops, addresses and vectors with arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

BYTE, INT32, INT = ir.IntType(8), ir.IntType(32), ir.IntType(64)
FLOAT = ir.FloatType()
POINTER = ir.PointerType()
VOID = ir.VoidType()
NULL = ir.Constant(POINTER, None)
FLOAT_BYTES = 4


class Values:
    """A vector of floats with arithmetic, so that formulas are written once for all types."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value):
        self.builder, self.value = builder, value

    def _with(self, operation: Callable[..., ir.Value], other: Values | float) -> Values:
        if isinstance(other, Values):
            right = other.value
        else:
            right = ir.Constant(self.value.type, [float(other)] * self.value.type.count)
        # A product and a sum may become one operation.
        return Values(self.builder, operation(self.value, right, flags=["contract"]))

    def __add__(self, other: Values | float) -> Values:
        return self._with(self.builder.fadd, other)

    def __sub__(self, other: Values | float) -> Values:
        return self._with(self.builder.fsub, other)

    def __mul__(self, other: Values | float) -> Values:
        return self._with(self.builder.fmul, other)


class Emitter:
    """The instructions of one function, on integers, pointers to floats and vectors of floats."""

    def __init__(self, function: ir.Function, lanes: int):
        self.function = function
        self.builder = ir.IRBuilder(function.append_basic_block())
        self.vector = ir.VectorType(FLOAT, lanes)
        self.zeros = ir.Constant(self.vector, [0.0] * lanes)
        self.lanes = lanes

    def number(self, value: int | ir.Value) -> ir.Value:
        """Returns an integer as a value of the function; a value as it is."""
        return ir.Constant(INT, value) if isinstance(value, int) else value

    def add(self, *terms: int | ir.Value) -> ir.Value:
        """Adds integers."""
        total = self.number(terms[0])
        for term in terms[1:]:
            total = self.builder.add(total, self.number(term))
        return total

    def sub(self, a: int | ir.Value, b: int | ir.Value) -> ir.Value:
        """Subtracts integers."""
        return self.builder.sub(self.number(a), self.number(b))

    def mul(self, *factors: int | ir.Value) -> ir.Value:
        """Multiplies integers."""
        product = self.number(factors[0])
        for factor in factors[1:]:
            product = self.builder.mul(product, self.number(factor))
        return product

    def div(self, a: int | ir.Value, b: int | ir.Value) -> ir.Value:
        """Returns a // b for integers that are not negative."""
        return self.builder.udiv(self.number(a), self.number(b))

    def mod(self, a: int | ir.Value, b: int | ir.Value) -> ir.Value:
        """Returns a % b for integers that are not negative."""
        return self.builder.urem(self.number(a), self.number(b))

    def ceil_div(self, a: int | ir.Value, b: int | ir.Value) -> ir.Value:
        """Returns a / b rounded up."""
        return self.div(self.sub(self.add(a, b), 1), b)

    def even(self, total: ir.Value, most: int | ir.Value) -> ir.Value:
        """Returns the size of equal parts of a total, of ``most`` at most."""
        return self.ceil_div(total, self.ceil_div(total, most))

    def minimum(self, a: int | ir.Value, b: int | ir.Value) -> ir.Value:
        """Returns the smaller of two integers that are not negative."""
        a, b = self.number(a), self.number(b)
        return self.builder.select(self.builder.icmp_unsigned("<", a, b), a, b)

    def maximum(self, a: int | ir.Value, b: int | ir.Value) -> ir.Value:
        """Returns the larger of two integers that are not negative."""
        a, b = self.number(a), self.number(b)
        return self.builder.select(self.builder.icmp_unsigned(">", a, b), a, b)

    def inside(self, index: ir.Value, size: ir.Value) -> ir.Value:
        """Tests whether 0 <= index < size, in one unsigned comparison."""
        return self.builder.icmp_unsigned("<", index, size)

    def at(self, pointer: ir.Value, index: int | ir.Value) -> ir.Value:
        """Returns the address of the float at ``index``."""
        return self.builder.gep(pointer, [self.number(index)], source_etype=FLOAT)

    def load(self, pointer: ir.Value) -> Values:
        """Loads a vector of floats."""
        value = self.builder.load(pointer, align=FLOAT_BYTES, typ=self.vector)
        return Values(self.builder, value)

    def store(self, values: Values, pointer: ir.Value) -> None:
        """Stores a vector of floats."""
        self.builder.store(values.value, pointer, align=FLOAT_BYTES)

    def load_planes(self, pointer: ir.Value, step: ir.Value, count: int) -> list[Values]:
        """Loads ``count`` vectors, ``step`` floats from one to the next."""
        return [self.load(self.at(pointer, self.mul(step, i))) for i in range(count)]

    def store_planes(self, values: Sequence[Values], pointer: ir.Value, step: ir.Value) -> None:
        """Stores vectors, the inverse of ``load_planes``."""
        for i, value in enumerate(values):
            self.store(value, self.at(pointer, self.mul(step, i)))

    def relu(self, values: Values) -> Values:
        """Returns max(values, 0), and NaN for NaN."""
        below = self.builder.fcmp_ordered("<", values.value, self.zeros)
        return Values(self.builder, self.builder.select(below, self.zeros, values.value))

    def larger(self, a: Values, b: Values) -> Values:
        """Returns the larger of two values, NaN if one of them is."""
        less = self.builder.fcmp_ordered("<", a.value, b.value)
        most = self.builder.select(less, b.value, a.value)
        none = self.builder.fcmp_unordered("uno", b.value, b.value)
        return Values(self.builder, self.builder.select(none, b.value, most))

    def broadcast(self, pointer: ir.Value) -> ir.Value:
        """Returns one float in every lane."""
        scalar = self.builder.load(pointer, align=FLOAT_BYTES, typ=FLOAT)
        none = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(none, scalar, INT32(0))
        lanes = ir.Constant(ir.VectorType(INT32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(one, none, lanes)

    def transposed(self, rows: Sequence[Values]) -> list[Values]:
        """Returns the columns of a square of as many vectors as there are lanes, a power of two.

        It interleaves the first half of the rows with the second, log2(lanes) times over.
        """
        half = self.lanes // 2
        low, high = (
            ir.Constant(
                ir.VectorType(INT32, self.lanes),
                [i // 2 + start + self.lanes * (i % 2) for i in range(self.lanes)],
            )
            for start in (0, half)
        )
        values = [row.value for row in rows]
        for _ in range(half.bit_length()):
            values = [
                self.builder.shuffle_vector(values[i], values[i + half], order)
                for i in range(half)
                for order in (low, high)
            ]
        return [Values(self.builder, value) for value in values]

    def field(self, struct: ir.Value, offset: int, kind: ir.Type) -> ir.Value:
        """Loads the value ``offset`` bytes into a struct."""
        return self.builder.load(self.byte_at(struct, offset), typ=kind)

    def byte_at(self, pointer: ir.Value, offset: int | ir.Value) -> ir.Value:
        """Returns the address ``offset`` bytes from a pointer."""
        return self.builder.gep(pointer, [self.number(offset)], source_etype=BYTE)

    def word(self, pointer: ir.Value, index: int | ir.Value) -> ir.Value:
        """Returns the address of a 64-bit integer or pointer in an array of them."""
        return self.builder.gep(pointer, [self.number(index)], source_etype=INT)

    def call(
        self, address: ir.Value, kind: ir.FunctionType, arguments: Sequence[ir.Value]
    ) -> ir.Value:
        """Calls the function at an address."""
        return self.builder.call(_Callee(address, kind), arguments)

    def stack(self, words: int) -> ir.Value:
        """Returns the address of ``words`` 64-bit words on the stack."""
        typed = self.builder.alloca(INT, size=words)
        # Cast by way of an integer: llvmlite treats pointers with and without a type as different.
        return self.builder.inttoptr(self.builder.ptrtoint(typed, INT), POINTER)

    @contextmanager
    def loop(self, count: int | ir.Value, *, step: int | ir.Value = 1) -> Iterator[ir.Value]:
        """Loops as ``for i in range(0, count, step)``; yields i."""
        with self.fold(count, [], step=step) as (index, _, _):
            yield index

    @contextmanager
    def fold(
        self, count: int | ir.Value, start: Sequence[ir.Value], *, step: int | ir.Value = 1
    ) -> Iterator[tuple[ir.Value, list[ir.Value], list[ir.Value]]]:
        """Loops as ``loop``, carrying values; yields i, the values, and a list for the next ones.

        After the loop the second list holds the carried values as the loop left them.
        """
        b = self.builder
        before, head = b.block, self.function.append_basic_block("head")
        body, after = (self.function.append_basic_block(name) for name in ("body", "after"))
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(INT)
        index.add_incoming(ir.Constant(INT, 0), before)
        carried = [b.phi(value.type) for value in start]
        for phi, value in zip(carried, start, strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_unsigned("<", index, self.number(count)), body, after)
        b.position_at_end(body)
        following: list[ir.Value] = []
        yield index, list(carried), following
        for phi, value in zip(carried, following, strict=True):
            phi.add_incoming(value, b.block)
        index.add_incoming(b.add(index, self.number(step)), b.block)
        b.branch(head)
        b.position_at_end(after)


class _Callee:
    """An address with the type of its function, which an untyped pointer lacks."""

    def __init__(self, address: ir.Value, kind: ir.FunctionType):
        self.type, self.function_type = address.type, kind
        self.get_reference = address.get_reference


def define(
    module: ir.Module, name: str, kinds: Sequence[ir.Type], lanes: int, *, returns: ir.Type = VOID
) -> tuple[Emitter, Sequence[Any]]:
    """Defines a function in a module; returns its emitter and its arguments."""
    function = ir.Function(module, ir.FunctionType(returns, kinds), name)
    return Emitter(function, lanes), function.args


ADDRESSES = (
    "image",  # [b, h, w, c]
    "kernel",  # [3, 3, c, d]; of a normalisation's gradient, the mean [c]
    "turned",  # [3, 3, d, c], the kernel before it is turned
    "factor",  # [d]
    "offset",  # [d]; of moments, the pivot [c]
    "input_factor",  # [c]
    "input_offset",  # [c]
    "through_mean",  # [c], what a normalisation's gradient loses through the mean
    "through_var",  # [c], and through the variance, for each unit away from the mean
    "cotangent",  # [b, h, w, d], the gradient in the output
    "out",  # [b, h, w, d], or [3, 3, c, d]
    "zeros",  # max(c, d), read where there is no pixel
    "waste",  # max(c, d), written where there is no pixel
    "kernels",  # [36, d / chunk, c, chunk], or of each worker [36, chunks, slice, chunk]
    "tiles",  # [36, room, c] for products, [36, c / lanes, room, lanes] for sums
    "cotangents",  # [36, d / chunk, room, chunk]
    "products",  # of each worker: [36, block, panel]
    "sums",  # [36, c, d], or of parts of the pixels [parts, 2, c]
    "first_kernel",  # [c / chunk, 9 * few, chunk], of the convolution before this one
    "first_factor",  # [c]
    "first_offset",  # [c]
    "strip",  # of each worker: [6, columns, c], what the convolution before gives to a row of tiles
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
    "tile_plane",  # floats from one of the 36 planes to the next in ``tiles``
    "kernel_plane",  # the same in ``kernels``
    "product_plane",  # the same in ``products``
    "cotangent_plane",  # the same in ``cotangents``
    "sum_plane",  # the same in ``sums``
    "few",  # channels of the image that the convolution before reads
    "padded",  # pixels in a row of that image
    "columns",  # pixels in a row of ``strip``
    "strips",  # units of an image
    "strip_tiles",  # rows of tiles in a unit
)
FIELD = {name: i for i, name in enumerate(ADDRESSES + NUMBERS)}


@dataclass(frozen=True)
class Machine:
    """The length of a vector in floats, and the blocks of a product that fill the registers.

    Args:
      lanes: floats of a vector.
      columns: vectors of output channels in a block.
      rows: rows of a block in the products, ``rows`` x ``columns`` vectors of sums.
      sum_rows: rows of a block in the sums over tiles; it divides ``lanes``.
    """

    lanes: int
    columns: int
    rows: int
    sum_rows: int

    @property
    def chunk(self) -> int:
        """The output channels of a block."""
        return self.lanes * self.columns


class Context:
    """The table of a job, whose fields are attributes; each is loaded where it is read."""

    def __init__(self, e: Emitter, address: ir.Value):
        self._e, self.address = e, address

    def __getattr__(self, name: str) -> ir.Value:
        kind = POINTER if name in ADDRESSES else INT
        place = self._e.word(self.address, FIELD[name])
        return self._e.builder.load(place, typ=kind)


def begin_unit(
    module: ir.Module, name: str, machine: Machine
) -> tuple[Emitter, Context, ir.Value, ir.Value]:
    """Defines ``unit(context, index, worker)``; returns its emitter, table, index and worker."""
    e, (context, index, worker) = define(module, name, [POINTER, INT, INT], machine.lanes)
    return e, Context(e, context), index, worker
