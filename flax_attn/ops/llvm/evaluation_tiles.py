"""The transforms of evaluation, and the convolution of few channels before it.

Planes are a cache line further apart than they are long: at distances of powers of two they would
evict each other.
"""

from __future__ import annotations

from collections.abc import Callable

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
from flax_attn.ops.llvm.products import fused_multiply_add
from flax_attn.ops.llvm.tiles import TILES_A_UNIT, Grid, transform_kernels
from flax_attn.ops.winograd import REACH, TILE, both_axes, input_map

# Floats of a cache line.
LINE = 16


def kernel_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """Builds the unit that computes G g G^T for the kernels of one input channel."""
    e, x, channel, _ = begin_unit(module, "kernel_unit", machine)
    chunk, plane = machine.chunk, x.kernel_plane
    with e.loop(e.div(x.d, chunk)) as part:
        place = e.mul(e.add(e.mul(part, x.c), channel), chunk)
        transform_kernels(e, x, machine, channel, part, e.at(x.kernels, place), plane)
    e.builder.ret_void()
    return e.function


def tiles_unit(module: ir.Module, machine: Machine, transform: ir.Function) -> ir.Function:
    """Builds the unit that runs ``image_transform`` on a few tiles, for all workers."""
    e, x, index, _ = begin_unit(module, "tiles_unit", machine)
    start = e.mul(index, TILES_A_UNIT)
    count = e.minimum(e.sub(x.count, start), TILES_A_UNIT)
    to = e.at(x.tiles, e.mul(start, x.c))
    e.builder.call(transform, [x.address, e.add(x.first, start), to, count])
    e.builder.ret_void()
    return e.function


def image_transform(module: ir.Module, machine: Machine) -> ir.Function:
    """Defines B^T D B of tiles of the image, with zeros around it.

    Its arguments are ``(context, first tile, out, tiles)``, and out is [36, tiles, c].
    """
    kinds = [POINTER, INT, POINTER, INT]
    e, (context, first, out, count) = define(module, "image_transform", kinds, machine.lanes)
    x = Context(e, context)
    grid, zeros = Grid(x.image, x.c, side=REACH, margin=1), x.zeros

    def places(t: ir.Value) -> list[ir.Value]:
        pixels = grid.pixels(e, x, e.add(first, t))
        return [e.builder.select(p.inside, p.address, zeros) for p in pixels]

    _transform(e, x, places, out, count)
    return e.function


def strip_transform(module: ir.Module, machine: Machine) -> ir.Function:
    """Defines B^T D B of tiles of a worker's strip.

    Its arguments are ``(context, strip, first tile of the row, out, tiles)``.
    """
    kinds = [POINTER, POINTER, INT, POINTER, INT]
    e, (context, strip, first, out, count) = define(module, "strip_transform", kinds, machine.lanes)
    x = Context(e, context)
    c, row = x.c, e.mul(x.columns, x.c)

    def places(t: ir.Value) -> list[ir.Value]:
        left = e.mul(e.add(first, t), TILE)
        return [
            e.at(strip, e.add(e.mul(row, i), e.mul(e.add(left, j), c)))
            for i in range(REACH)
            for j in range(REACH)
        ]

    _transform(e, x, places, out, count)
    return e.function


def _transform(
    e: Emitter,
    x: Context,
    places: Callable[[ir.Value], list[ir.Value]],
    out: ir.Value,
    count: ir.Value,
) -> None:
    """Emits B^T D B of tiles, whose 6x6 pixels are at ``places``, into [36, count, c]."""
    c, plane = x.c, x.tile_plane
    with e.loop(count) as t:
        pixels, to = places(t), e.at(out, e.mul(t, c))
        with e.loop(c, step=e.lanes) as channel:
            values = [e.load(e.at(pixel, channel)) for pixel in pixels]
            e.store_planes(both_axes(input_map, values), e.at(to, channel), plane)
    e.builder.ret_void()


def clear(e: Emitter, target: ir.Value, floats: ir.Value) -> None:
    """Emits zeros, whole vectors of them."""
    with e.loop(floats, step=e.lanes) as i:
        e.store(Values(e.builder, e.zeros), e.at(target, i))


def first_layer_block(module: ir.Module, machine: Machine) -> ir.Function:
    """Defines max(factor * value + offset, 0) of a direct convolution, of some pixels and a chunk.

    Its arguments are ``(pixels, row of pixels, few, kernel, factor, offset, out, row of out)``; the
    kernel is [9 few, chunk].
    """
    name = "first_layer_block"
    kinds = [POINTER, INT, INT, POINTER, POINTER, POINTER, POINTER, INT]
    e, (pixels, row, few, kernel, factor, offset, out, out_row) = define(
        module, name, kinds, machine.lanes
    )
    fma = fused_multiply_add(module, e)
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


def first_layer_row(
    e: Emitter,
    x: Context,
    machine: Machine,
    block: ir.Function,
    number: ir.Value,
    row: ir.Value,
    target: ir.Value,
) -> None:
    """Emits one row of the convolution before; zeros where the image has none."""
    b = e.builder
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
