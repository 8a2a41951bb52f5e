"""Units of work that take a block of tiles through all phases of a convolution.

What lies between is a worker's own and small, so that it stays in the core's own cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from llvmlite import ir

from flax_attn.ops.llvm.first_layer import first_layer_row
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
from flax_attn.ops.llvm.plane_products import PANEL, SLICE
from flax_attn.ops.llvm.tiles import Grid, transform_kernels
from flax_attn.ops.winograd import POSITIONS, REACH, TILE, both_axes, output_map


class Ending(Enum):
    """What becomes of a convolution's values before they are written."""

    PLAIN = "plain"
    AFFINE = "affine"  # max(factor * value + offset, 0)
    POOLED = "pooled"  # the maximum of the same of each 2x2 pixels


class Fused:
    """Builds the units of a convolution that ends in one way.

    Args:
      module: the module that the units are added to.
      machine: the vectors of the processor.
      product: the function of ``plane_product``.
      ending: what is written.
    """

    def __init__(self, module: ir.Module, machine: Machine, product: ir.Function, ending: Ending):
        self.module, self.machine, self.product, self.ending = module, machine, product, ending
        self._finish = self._build_finish()

    def _begin(self, name: str) -> tuple[Emitter, Context, ir.Value, ir.Value]:
        return begin_unit(self.module, f"{self.ending.value}_{name}", self.machine)

    def fused_unit(self, transform: ir.Function) -> ir.Function:
        """Builds the unit that transforms a block of tiles and computes all their outputs.

        ``transform`` is of ``image_transform``.
        """
        e, x, index, worker = self._begin(f"fused_{transform.name}")
        first = e.mul(index, x.block)
        count = e.minimum(e.sub(x.count, first), x.block)
        tiles = e.at(x.tiles, e.mul(worker, x.tile_plane, POSITIONS))
        e.builder.call(transform, [x.address, first, tiles, count])
        self._panels(e, x, worker, tiles, first, count)
        e.builder.ret_void()
        return e.function

    def panel_unit(self) -> ir.Function:
        """Builds the unit of a block of transformed tiles and a panel of outputs.

        It transforms the kernels itself, a slice of the inputs at a time: transformed kernels, four
        times the kernels, never leave the core's own cache.
        """
        e, x, index, worker = self._begin("panel_unit")
        blocks = e.ceil_div(x.count, x.block)
        panel, first = e.div(index, blocks), e.mul(e.mod(index, blocks), x.block)
        count = e.minimum(e.sub(x.count, first), x.block)
        c, chunk = x.c, self.machine.chunk
        plane, products = x.kernel_plane, self._products(e, x, worker)
        kernels = e.at(x.kernels, e.mul(worker, plane, POSITIONS))
        tiles, chunks = e.at(x.tiles, e.mul(first, c)), self._chunks(e, x, panel)
        with e.loop(c, step=SLICE) as k:
            depth = e.minimum(e.sub(c, k), SLICE)
            with e.loop(depth) as channel, e.loop(chunks) as q:
                target = e.at(kernels, e.mul(e.add(e.mul(q, SLICE), channel), chunk))
                part = e.add(e.mul(panel, PANEL // chunk), q)
                transform_kernels(e, x, self.machine, e.add(k, channel), part, target, plane)
            step = e.number(SLICE * chunk)
            operands = [e.at(tiles, k), kernels, step, products, count, chunks, depth, k]
            e.builder.call(self.product, [x.address, *operands])
        self._end(e, x, products, e.add(x.first, first), count, panel)
        e.builder.ret_void()
        return e.function

    def strip_unit(self, first_layer: ir.Function, transform: ir.Function) -> ir.Function:
        """Builds the unit of some rows of tiles, which computes the convolution before, too.

        That is max(first_factor * value + first_offset, 0) of a convolution of few channels, of the
        six rows that a row of tiles reads. Two of them serve the next row of tiles. The functions
        are of ``first_layer_block`` and ``strip_transform``.
        """
        e, x, index, worker = self._begin("strip_unit")
        number, start = e.div(index, x.strips), e.mul(e.mod(index, x.strips), x.strip_tiles)
        row_floats = e.mul(x.columns, x.c)
        strip = e.at(x.strip, e.mul(worker, row_floats, REACH))
        tiles = e.at(x.tiles, e.mul(worker, x.tile_plane, POSITIONS))
        across, block, down = x.across, x.block, x.down
        with e.loop(e.minimum(e.sub(down, start), x.strip_tiles)) as r:
            again = e.builder.icmp_unsigned("!=", r, e.number(0))
            done = e.builder.select(again, e.number(REACH - TILE), e.number(0))
            with e.loop(e.mul(done, row_floats), step=e.lanes) as i:
                e.store(e.load(e.at(strip, e.add(i, e.mul(row_floats, TILE)))), e.at(strip, i))
            top = e.sub(e.mul(e.add(start, r), TILE), 1)
            with e.loop(e.sub(REACH, done)) as i:
                row = e.add(done, i)
                place = e.at(strip, e.mul(row, row_floats))
                rows = (number, e.add(top, row))
                first_layer_row(e, x, self.machine, first_layer, *rows, place)
            before = e.mul(e.add(e.mul(number, down), start, r), across)
            with e.loop(across, step=block) as t:
                count = e.minimum(e.sub(across, t), block)
                e.builder.call(transform, [x.address, strip, t, tiles, count])
                self._panels(e, x, worker, tiles, e.add(before, t), count)
        e.builder.ret_void()
        return e.function

    def _chunks(self, e: Emitter, x: Context, panel: ir.Value) -> ir.Value:
        """Returns how many chunks a panel has."""
        most = PANEL // self.machine.chunk
        return e.minimum(e.sub(e.div(x.d, self.machine.chunk), e.mul(panel, most)), most)

    def _products(self, e: Emitter, x: Context, worker: ir.Value) -> ir.Value:
        return e.at(x.products, e.mul(worker, x.product_plane, POSITIONS))

    def _panels(
        self,
        e: Emitter,
        x: Context,
        worker: ir.Value,
        tiles: ir.Value,
        first: ir.Value,
        count: ir.Value,
    ) -> None:
        """Emits all outputs of some transformed tiles, by kernels transformed before."""
        c, products = x.c, self._products(e, x, worker)
        with e.loop(e.ceil_div(x.d, PANEL)) as panel:
            kernels, step = e.at(x.kernels, e.mul(panel, PANEL, c)), e.mul(c, self.machine.chunk)
            chunks = self._chunks(e, x, panel)
            operands = [tiles, kernels, step, products, count, chunks, c, e.number(0)]
            e.builder.call(self.product, [x.address, *operands])
            self._end(e, x, products, first, count, panel)

    def _end(self, e: Emitter, x: Context, *operands: ir.Value) -> None:
        """Emits A^T M A and the ending: (products, first tile, tiles, panel)."""
        e.builder.call(self._finish, [x.address, *operands])

    def _build_finish(self) -> ir.Function:
        """Defines A^T M A and the ending, of some tiles and a panel of outputs, into the output."""
        kinds, name = [POINTER, POINTER, INT, INT, INT], f"{self.ending.value}_finish"
        e, arguments = define(self.module, name, kinds, self.machine.lanes)
        context, products, first, count, panel = arguments
        x = Context(e, context)
        plane, start, chunks = x.product_plane, e.mul(panel, PANEL), self._chunks(e, x, panel)
        factors, offsets = x.factor, x.offset
        with e.loop(count) as t:
            places = self._places(e, x, e.add(first, t))
            with e.loop(e.mul(chunks, self.machine.columns)) as vector:
                along = e.mul(vector, e.lanes)
                channel = e.add(start, along)
                source = e.at(products, e.add(e.mul(t, PANEL), along))
                outputs = both_axes(output_map, e.load_planes(source, plane, POSITIONS))
                if self.ending is not Ending.PLAIN:
                    factor, offset = (e.load(e.at(a, channel)) for a in (factors, offsets))
                    outputs = [value * factor + offset for value in outputs]
                    if self.ending is Ending.POOLED:
                        outputs = [_largest(e, outputs, i, j) for i in range(2) for j in range(2)]
                    outputs = [e.relu(value) for value in outputs]
                for value, place in zip(outputs, places, strict=True):
                    e.store(value, e.at(place, channel))
        e.builder.ret_void()
        return e.function

    def _places(self, e: Emitter, x: Context, tile: ir.Value) -> list[ir.Value]:
        """Returns the addresses of a tile's outputs."""
        if self.ending is not Ending.POOLED:
            pixels = Grid(x.out, x.d).pixels(e, x, tile)
            return [e.builder.select(p.inside, p.address, x.waste) for p in pixels]
        h, w = e.div(x.h, 2), e.div(x.w, 2)
        of_image = e.mul(x.down, x.across)
        number, place = e.div(tile, of_image), e.mod(tile, of_image)
        top, left = (e.mul(f(place, x.across), 2) for f in (e.div, e.mod))
        places = []
        for i in range(2):
            for j in range(2):
                row, column = e.add(top, i), e.add(left, j)
                inside = e.builder.and_(e.inside(row, h), e.inside(column, w))
                pixel = e.add(e.mul(e.add(e.mul(number, h), row), w), column)
                address = e.at(x.out, e.mul(pixel, x.d))
                places.append(e.builder.select(inside, address, x.waste))
        return places


def _largest(e: Emitter, square: Sequence[Values], i: int, j: int) -> Values:
    """Returns the largest of the 2x2 values at (2i, 2j) of a 4x4 square, NaN if one of them is."""
    corner = 2 * i * TILE + 2 * j
    a, b, c, d = (square[corner + k] for k in (0, 1, TILE, TILE + 1))
    return e.larger(e.larger(a, b), e.larger(c, d))
