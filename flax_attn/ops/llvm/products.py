"""Units of work that multiply in the 36 planes of Winograd's form: nearly all of the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flax_attn.ops.llvm.ir import (
    INT,
    POINTER,
    Context,
    Emitter,
    Machine,
    Values,
    begin_unit,
    define,
)
from flax_attn.ops.llvm.tiles import Grid, transform_kernels
from flax_attn.ops.winograd import POSITIONS, both_axes, output_map


def block_product(
    module: ir.Module, machine: Machine, name: str, *, rows: int, accumulate: bool
) -> ir.Function:
    """Defines out[rows, chunk] = a[rows, k] b[k, chunk], or added to out, summed in registers.

    Its arguments are ``(a, row of a, step of a, b, out, row of out, k)`` with steps in floats; the
    rows of b lie one after the other.
    """
    kinds = [POINTER, INT, INT, POINTER, POINTER, INT, INT]
    e, (a, a_row, a_step, b, out, out_row, depth) = define(module, name, kinds, machine.lanes)
    fma = fused_multiply_add(module, e)
    lefts = [e.at(a, e.mul(a_row, i)) for i in range(rows)]
    places = [
        e.at(out, e.add(e.mul(out_row, i), j * e.lanes))
        for i in range(rows)
        for j in range(machine.columns)
    ]
    start = [e.load(place).value if accumulate else e.zeros for place in places]
    with e.fold(depth, start) as (k, sums, following):
        right = e.at(b, e.mul(k, machine.chunk))
        vectors = [e.load(e.at(right, j * e.lanes)).value for j in range(machine.columns)]
        along = e.mul(k, a_step)
        for i, left in enumerate(lefts):
            factor = e.broadcast(e.at(left, along))
            for j, vector in enumerate(vectors):
                total = sums[machine.columns * i + j]
                following.append(e.builder.call(fma, [factor, vector, total]))
    for place, total in zip(places, sums, strict=True):
        e.store(Values(e.builder, total), place)
    e.builder.ret_void()
    return e.function


@dataclass(frozen=True)
class Multiplier:
    """Builds the units that multiply tiles by kernels.

    Args:
      module: the module that the units are added to.
      machine: the vectors of the processor.
      block: the function of ``block_product``.
      affine: whether the output is max(factor * value + offset, 0).
    """

    module: ir.Module
    machine: Machine
    block: ir.Function
    affine: bool

    def _begin(self, name: str) -> tuple[Emitter, Context, ir.Value, ir.Value]:
        return begin_unit(self.module, f"affine_{name}" if self.affine else name, self.machine)

    def block_unit(self) -> ir.Function:
        """Builds the unit of a block of tiles and a chunk of output channels."""
        e, x, index, worker = self._begin("block_unit")
        blocks, plane = e.ceil_div(x.count, x.block), e.mul(x.c, x.d)
        part, number = e.div(index, blocks), e.mod(index, blocks)
        kernels = e.at(x.kernels, e.mul(part, x.c, self.machine.chunk))
        self._multiply(e, x, worker, part, number, kernels, plane)
        e.builder.ret_void()
        return e.function

    def chunk_unit(self) -> ir.Function:
        """Builds the unit of all tiles and a chunk of output channels; it transforms their kernels.

        For few tiles: the transformed kernels, four times the kernels, never leave the caches.
        """
        e, x, part, worker = self._begin("chunk_unit")
        plane = e.mul(x.c, self.machine.chunk)
        kernels = e.at(x.kernels, e.mul(worker, plane, POSITIONS))
        with e.loop(x.c) as channel:
            target = e.at(kernels, e.mul(channel, self.machine.chunk))
            transform_kernels(e, x, self.machine, channel, part, target, plane)
        with e.loop(e.ceil_div(x.count, x.block)) as number:
            self._multiply(e, x, worker, part, number, kernels, plane)
        e.builder.ret_void()
        return e.function

    def _multiply(
        self,
        e: Emitter,
        x: Context,
        worker: ir.Value,
        part: ir.Value,
        number: ir.Value,
        kernels: ir.Value,
        kernel_plane: ir.Value,
    ) -> None:
        """Emits the products M of one block of tiles, and A^T M A into the output."""
        machine, chunk, c = self.machine, self.machine.chunk, x.c
        first = e.mul(number, x.block)
        tiles_here = e.minimum(e.sub(x.count, first), x.block)
        plane, tile_plane = e.mul(x.block, chunk), e.mul(x.room, c)
        products = e.at(x.products, e.mul(worker, plane, POSITIONS))
        tiles = e.at(x.tiles, e.mul(first, c))
        with e.loop(POSITIONS) as p:
            left, right = e.at(tiles, e.mul(p, tile_plane)), e.at(kernels, e.mul(p, kernel_plane))
            target = e.at(products, e.mul(p, plane))
            with e.loop(tiles_here, step=machine.rows) as t:
                a, out = e.at(left, e.mul(t, c)), e.at(target, e.mul(t, chunk))
                e.builder.call(self.block, [a, c, e.number(1), right, out, e.number(chunk), c])
        with e.loop(tiles_here) as t:
            tile = e.add(x.first, first, t)
            pixels = Grid(x.out, x.d).pixels(e, x, tile)
            waste = x.waste
            places = [e.builder.select(pixel.inside, pixel.address, waste) for pixel in pixels]
            with e.loop(machine.columns) as column:
                start = e.mul(column, e.lanes)
                source = e.at(products, e.add(e.mul(t, chunk), start))
                values = e.load_planes(source, plane, POSITIONS)
                channel = e.add(e.mul(part, chunk), start)
                outputs = both_axes(output_map, values)
                if self.affine:
                    factor, offset = (e.load(e.at(a, channel)) for a in (x.factor, x.offset))
                    outputs = [e.relu(value * factor + offset) for value in outputs]
                for value, place in zip(outputs, places, strict=True):
                    e.store(value, e.at(place, channel))


def sum_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """Builds the unit that sums over the tiles in memory, for a plane and a vector of inputs."""
    e, x, index, _ = begin_unit(module, "sum_unit", machine)
    chunk, lanes, rows = machine.chunk, machine.lanes, machine.sum_rows
    first, more = (
        block_product(module, machine, name, rows=rows, accumulate=accumulate)
        for name, accumulate in (("first_sums", False), ("more_sums", True))
    )
    c, d, room, count, keep = x.c, x.d, x.room, x.count, x.keep
    # A unit is one vector of channels in one plane: both axes run through together.
    left, sums = e.at(x.tiles, e.mul(index, lanes, room)), e.at(x.sums, e.mul(index, lanes, d))
    right = e.at(x.cotangents, e.mul(e.div(index, e.div(c, lanes)), d, room))
    with e.loop(e.div(d, chunk)) as part, e.loop(lanes, step=rows) as row:
        b = e.at(right, e.mul(part, room, chunk))
        out = e.at(sums, e.add(e.mul(row, d), e.mul(part, chunk)))
        arguments = [e.at(left, row), e.number(1), e.number(lanes), b, out, d, count]
        with e.builder.if_else(e.builder.icmp_unsigned("!=", keep, e.number(0))) as (then, other):
            with then:
                e.builder.call(more, arguments)
            with other:
                e.builder.call(first, arguments)
    e.builder.ret_void()
    return e.function


def fused_multiply_add(module: ir.Module, e: Emitter) -> ir.Function:
    """Returns the function a b + c of vectors, rounded once."""
    name, kind = f"llvm.fma.v{e.lanes}f32", ir.FunctionType(e.vector, [e.vector] * 3)
    return module.globals.get(name) or ir.Function(module, kind, name)
