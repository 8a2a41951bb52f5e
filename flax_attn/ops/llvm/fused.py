"""Units of work of evaluation: a block of tiles is transformed, multiplied, normalised and pooled.

What lies between is a worker's own and small, so that it stays in the core's own cache. Planes are
a cache line further apart than they are long: planes at powers of two would evict each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from flax_attn.ops.llvm.ir import Context, Emitter, Machine, Values, begin_unit
from flax_attn.ops.llvm.products import block_product
from flax_attn.ops.llvm.tiles import Grid, transform_kernels
from flax_attn.ops.winograd import (
    POSITIONS,
    REACH,
    TILE,
    both_axes,
    input_map,
    output_map,
)

# Output channels whose products a worker holds at once.
PANEL = 64
# Input channels that are multiplied at once: with a chunk of outputs a plane stays in the L1 cache.
SLICE = 128
# Floats of a cache line.
LINE = 16
# Rows of the blocks that finish a product whose tiles do not fill the last block.
LESS_ROWS = (4, 2)
TILES_A_UNIT = 8


@dataclass(frozen=True)
class Product:
    """The functions that multiply blocks of so many rows, and those that add to what is there."""

    machine: Machine
    fresh: dict[int, ir.Function]
    more: dict[int, ir.Function]

    @classmethod
    def of(cls, module: ir.Module, machine: Machine) -> Product:
        """Defines the functions in a module."""
        fresh, more = (
            {
                rows: block_product(
                    module, machine, f"{name}_{rows}", rows=rows, accumulate=accumulate
                )
                for rows in (machine.rows, *LESS_ROWS)
            }
            for name, accumulate in (("fresh", False), ("more", True))
        )
        return cls(machine, fresh, more)

    def planes(
        self,
        e: Emitter,
        x: Context,
        *,
        left: ir.Value,
        right: ir.Value,
        right_step: ir.Value,
        out: ir.Value,
        count: ir.Value,
        chunks: ir.Value,
        depth: ir.Value,
        more: ir.Value | None = None,
    ) -> None:
        """Emits the 36 products of ``count`` tiles and some chunks of outputs.

        ``left`` is [36, count, c], ``right`` [36, chunks, depth, chunk], ``right_step`` floats from
        a chunk to the next, and ``out`` [36, count, PANEL]. Where ``more`` is not 0, they are added
        to ``out``.
        """
        c, tile_plane, kernel_plane = x.c, x.tile_plane, x.kernel_plane
        product_plane, chunk = x.product_plane, self.machine.chunk

        def multiply(functions: dict[int, ir.Function], k: ir.Value | int) -> None:
            deep = e.minimum(e.sub(depth, k), SLICE)
            b = e.at(to_right, e.mul(k, chunk))

            def block(rows: int, t: ir.Value) -> None:
                a, target = e.at(to_left, e.add(e.mul(t, c), k)), e.at(to_out, e.mul(t, PANEL))
                arguments = [a, c, e.number(1), b, target, e.number(PANEL), deep]
                e.builder.call(functions[rows], arguments)

            self._cover(e, count, block)

        with e.loop(POSITIONS) as p, e.loop(chunks) as q:
            to_left = e.at(left, e.mul(p, tile_plane))
            to_right = e.at(right, e.add(e.mul(p, kernel_plane), e.mul(q, right_step)))
            to_out = e.at(out, e.add(e.mul(p, product_plane), e.mul(q, chunk)))
            if more is None:
                multiply(self.fresh, 0)
            else:
                added = e.builder.icmp_unsigned("!=", more, e.number(0))
                with e.builder.if_else(added) as (then, otherwise):
                    with then:
                        multiply(self.more, 0)
                    with otherwise:
                        multiply(self.fresh, 0)
            with e.loop(e.sub(e.maximum(depth, SLICE), SLICE), step=SLICE) as k:
                multiply(self.more, e.add(k, SLICE))

    def _cover(self, e: Emitter, count: ir.Value, block: Callable[[int, ir.Value], None]) -> None:
        """Emits blocks that cover ``count`` rows: whole ones, then the smallest for the rest."""
        rows = self.machine.rows
        rest = e.mod(count, rows)
        wide = e.builder.icmp_unsigned(">", rest, e.number(LESS_ROWS[0]))
        whole = e.builder.select(wide, e.add(count, rows), count)
        whole = e.mul(e.div(whole, rows), rows)
        with e.loop(whole, step=rows) as t:
            block(rows, t)
        for most, least in zip(LESS_ROWS, (*LESS_ROWS[1:], 0), strict=True):
            fits = e.builder.and_(
                e.builder.icmp_unsigned("<=", rest, e.number(most)),
                e.builder.icmp_unsigned(">", rest, e.number(least)),
            )
            with e.builder.if_then(fits):
                block(most, whole)


@dataclass(frozen=True)
class Fused:
    """Builds the units of evaluation, whose output is max(factor * value + offset, 0), or pooled.

    Args:
      module: the module that the units are added to.
      machine: the vectors of the processor.
      product: its functions of products.
      pooled: whether the maximum of each 2x2 pixels is written, instead of each pixel.
    """

    module: ir.Module
    machine: Machine
    product: Product
    pooled: bool

    def _begin(self, name: str) -> tuple[Emitter, Context, ir.Value, ir.Value]:
        return begin_unit(self.module, f"pooled_{name}" if self.pooled else name, self.machine)

    def fused_unit(self) -> ir.Function:
        """Builds the unit of a block of tiles and all outputs, which transforms its tiles itself."""
        e, x, index, worker = self._begin("fused_unit")
        first = e.mul(index, x.block)
        count = e.minimum(e.sub(x.count, first), x.block)
        tiles = e.at(x.tiles, e.mul(worker, x.tile_plane, POSITIONS))
        transform(e, x, image_places(e, x, first), tiles, count)
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
        chunks = self._chunks(e, x, panel)
        with e.loop(c, step=SLICE) as k:
            depth = e.minimum(e.sub(c, k), SLICE)
            with e.loop(depth) as channel, e.loop(chunks) as q:
                target = e.at(kernels, e.mul(e.add(e.mul(q, SLICE), channel), chunk))
                part = e.add(e.mul(panel, PANEL // chunk), q)
                transform_kernels(e, x, self.machine, e.add(k, channel), part, target, plane)
            self.product.planes(
                e,
                x,
                left=e.at(x.tiles, e.add(e.mul(first, c), k)),
                right=kernels,
                right_step=e.number(SLICE * chunk),
                out=products,
                count=count,
                chunks=chunks,
                depth=depth,
                more=k,
            )
        self._finish(e, x, products, e.add(x.first, first), count, panel, chunks)
        e.builder.ret_void()
        return e.function

    def strip_unit(self) -> ir.Function:
        """Builds the unit of some rows of tiles, which computes the convolution before, too.

        That is max(first_factor * value + first_offset, 0) of a convolution of few channels, of the
        six rows that a row of tiles reads. Two of them serve the next row of tiles.
        """
        e, x, index, worker = self._begin("strip_unit")
        number, start = e.div(index, x.strips), e.mul(e.mod(index, x.strips), x.strip_tiles)
        row_floats = e.mul(x.columns, x.c)
        strip = e.at(x.strip, e.mul(worker, row_floats, REACH))
        tiles = e.at(x.tiles, e.mul(worker, x.tile_plane, POSITIONS))
        first_block = first_layer_block(self.module, self.machine)
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
                self._first_layer_row(e, x, first_block, number, e.add(top, row), place)
            before = e.mul(e.add(e.mul(number, down), start, r), across)
            with e.loop(across, step=block) as t:
                count = e.minimum(e.sub(across, t), block)
                transform(e, x, strip_places(e, x, strip, t), tiles, count)
                self._panels(e, x, worker, tiles, e.add(before, t), count)
        e.builder.ret_void()
        return e.function

    def _first_layer_row(
        self,
        e: Emitter,
        x: Context,
        block: ir.Function,
        number: ir.Value,
        row: ir.Value,
        target: ir.Value,
    ) -> None:
        """Emits one row of the convolution before; zeros where the image has none."""
        b, machine = e.builder, self.machine
        h, w, c, few, padded = x.h, x.w, x.c, x.few, x.padded
        with b.if_else(e.inside(row, h)) as (then, otherwise):
            with then:
                rows = e.add(e.mul(number, e.add(h, 2)), row)
                source, step = e.at(x.image, e.mul(rows, padded, few)), e.mul(padded, few)
                with e.loop(e.div(c, machine.chunk)) as part, e.loop(w, step=machine.rows) as j:
                    channel = e.mul(part, machine.chunk)
                    kernel = e.at(x.first_kernel, e.mul(channel, few, 9))
                    place = e.at(target, e.add(e.mul(e.add(j, 1), c), channel))
                    factor, offset = (e.at(a, channel) for a in (x.first_factor, x.first_offset))
                    pixels = e.at(source, e.mul(j, few))
                    b.call(block, [pixels, step, few, kernel, factor, offset, place, c])
                clear(e, target, c)
                end = e.add(w, 1)
                clear(e, e.at(target, e.mul(end, c)), e.mul(e.sub(x.columns, end), c))
            with otherwise:
                clear(e, target, e.mul(x.columns, c))

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
        """Emits all outputs of some transformed tiles."""
        with e.loop(e.ceil_div(x.d, PANEL)) as panel:
            self._panel(e, x, worker, tiles, first, count, panel)

    def _panel(
        self,
        e: Emitter,
        x: Context,
        worker: ir.Value,
        tiles: ir.Value,
        first: ir.Value,
        count: ir.Value,
        panel: ir.Value,
    ) -> None:
        """Emits a panel of outputs of some transformed tiles, by kernels transformed before."""
        products, chunks = self._products(e, x, worker), self._chunks(e, x, panel)
        self.product.planes(
            e,
            x,
            left=tiles,
            right=e.at(x.kernels, e.mul(panel, PANEL, x.c)),
            right_step=e.mul(x.c, self.machine.chunk),
            out=products,
            count=count,
            chunks=chunks,
            depth=x.c,
        )
        self._finish(e, x, products, first, count, panel, chunks)

    def _finish(
        self,
        e: Emitter,
        x: Context,
        products: ir.Value,
        first: ir.Value,
        count: ir.Value,
        panel: ir.Value,
        chunks: ir.Value,
    ) -> None:
        """Emits A^T M A, normalised, of ``count`` tiles from ``first`` on, into the output."""
        plane, start = x.product_plane, e.mul(panel, PANEL)
        factors, offsets = x.factor, x.offset
        with e.loop(count) as t:
            places = self._places(e, x, e.add(first, t))
            with e.loop(e.mul(chunks, self.machine.columns)) as vector:
                along = e.mul(vector, e.lanes)
                channel = e.add(start, along)
                source = e.at(products, e.add(e.mul(t, PANEL), along))
                outputs = both_axes(output_map, e.load_planes(source, plane, POSITIONS))
                factor, offset = (e.load(e.at(a, channel)) for a in (factors, offsets))
                outputs = [value * factor + offset for value in outputs]
                if self.pooled:
                    outputs = [_largest(e, outputs, i, j) for i in range(2) for j in range(2)]
                for value, place in zip(outputs, places, strict=True):
                    e.store(e.relu(value), e.at(place, channel))

    def _places(self, e: Emitter, x: Context, tile: ir.Value) -> list[ir.Value]:
        """Returns the addresses of a tile's outputs."""
        if not self.pooled:
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


def kernel_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """Builds the unit that computes G g G^T for the kernels of one input channel."""
    e, x, channel, _ = begin_unit(module, "kernel_unit", machine)
    chunk, plane = machine.chunk, x.kernel_plane
    with e.loop(e.div(x.d, chunk)) as part:
        place = e.mul(e.add(e.mul(part, x.c), channel), chunk)
        transform_kernels(e, x, machine, channel, part, e.at(x.kernels, place), plane)
    e.builder.ret_void()
    return e.function


def tiles_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """Builds the unit that computes B^T D B for a few tiles of the image, for all workers."""
    e, x, index, _ = begin_unit(module, "tiles_unit", machine)
    start = e.mul(index, TILES_A_UNIT)
    count = e.minimum(e.sub(x.count, start), TILES_A_UNIT)
    places = image_places(e, x, e.add(x.first, start))
    transform(e, x, places, e.at(x.tiles, e.mul(start, x.c)), count)
    e.builder.ret_void()
    return e.function


# Returns the addresses of the 6x6 pixels of a tile.
Places = Callable[[ir.Value], list[ir.Value]]


def image_places(e: Emitter, x: Context, first: ir.Value) -> Places:
    """Returns the places of the tiles from ``first`` on in the image; zeros outside of it."""
    grid, zeros = Grid(x.image, x.c, side=REACH, margin=1), x.zeros

    def places(t: ir.Value) -> list[ir.Value]:
        pixels = grid.pixels(e, x, e.add(first, t))
        return [e.builder.select(p.inside, p.address, zeros) for p in pixels]

    return places


def strip_places(e: Emitter, x: Context, strip: ir.Value, first: ir.Value) -> Places:
    """Returns the places of the tiles from ``first`` on in a worker's strip."""
    c, row = x.c, e.mul(x.columns, x.c)

    def places(t: ir.Value) -> list[ir.Value]:
        left = e.mul(e.add(first, t), TILE)
        return [
            e.at(strip, e.add(e.mul(row, i), e.mul(e.add(left, j), c)))
            for i in range(REACH)
            for j in range(REACH)
        ]

    return places


def transform(e: Emitter, x: Context, places: Places, target: ir.Value, count: ir.Value) -> None:
    """Emits B^T D B of ``count`` tiles into [36, count, c]."""
    c, plane = x.c, x.tile_plane
    with e.loop(count) as t:
        pixels, to = places(t), e.at(target, e.mul(t, c))
        with e.loop(c, step=e.lanes) as channel:
            values = [e.load(e.at(pixel, channel)) for pixel in pixels]
            e.store_planes(both_axes(input_map, values), e.at(to, channel), plane)


def clear(e: Emitter, target: ir.Value, floats: ir.Value) -> None:
    """Emits zeros, whole vectors of them."""
    with e.loop(floats, step=e.lanes) as i:
        e.store(Values(e.builder, e.zeros), e.at(target, i))


def first_layer_block(module: ir.Module, machine: Machine) -> ir.Function:
    """Defines max(factor * value + offset, 0) of a direct convolution, of some pixels and a chunk.

    Its arguments are ``(pixels, row of pixels, few, kernel, factor, offset, out, row of out)``; the
    kernel is [9 few, chunk].
    """
    from flax_attn.ops.llvm.ir import INT, POINTER, define
    from flax_attn.ops.llvm.products import _fused_multiply_add

    name = "first_layer_block"
    if name in module.globals:
        return module.globals[name]
    kinds = [POINTER, INT, INT, POINTER, POINTER, POINTER, POINTER, INT]
    e, (pixels, row, few, kernel, factor, offset, out, out_row) = define(
        module, name, kinds, machine.lanes
    )
    fma = _fused_multiply_add(module, e)
    rows, columns = machine.rows, machine.columns
    wide = e.mul(few, 3)
    start = [e.zeros] * (rows * columns)
    with e.fold(3, start) as (u, sums, following):
        source, taps = e.at(pixels, e.mul(u, row)), e.at(kernel, e.mul(u, wide, machine.chunk))
        with e.fold(wide, sums) as (k, inner, next_):
            right = e.at(taps, e.mul(k, machine.chunk))
            vectors = [e.load(e.at(right, j * e.lanes)).value for j in range(columns)]
            for i in range(rows):
                value = e.broadcast(e.at(source, e.add(e.mul(few, i), k)))
                for j, vector in enumerate(vectors):
                    total = inner[columns * i + j]
                    next_.append(e.builder.call(fma, [value, vector, total]))
        following.extend(inner)
    for j in range(columns):
        scale, shift = (e.load(e.at(a, j * e.lanes)) for a in (factor, offset))
        for i in range(rows):
            value = Values(e.builder, sums[columns * i + j]) * scale + shift
            e.store(e.relu(value), e.at(out, e.add(e.mul(out_row, i), j * e.lanes)))
    e.builder.ret_void()
    return e.function
