"""The convolution of few channels, computed directly into the strip that the next one reads."""

from __future__ import annotations

from llvmlite import ir

from flax_attn.ops.llvm.ir import (
    INT,
    POINTER,
    Context,
    Emitter,
    Machine,
    Values,
    define,
)
from flax_attn.ops.llvm.products import fused_multiply_add
from flax_attn.ops.llvm.tiles import Read, Target, read_places, transform_tiles
from flax_attn.ops.winograd import REACH, TILE, input_map


def strip_transform(module: ir.Module, machine: Machine) -> ir.Function:
    """Defines B^T D B of tiles of a worker's strip.

    Its arguments are ``(context, strip, first tile of the row, out, tiles)``.
    """
    kinds = [POINTER, POINTER, INT, POINTER, INT]
    e, (context, strip, first, out, count) = define(module, "strip_transform", kinds, machine.lanes)
    x = Context(e, context)
    c, row = x.c, e.mul(x.columns, x.c)

    def reader(t: ir.Value) -> Read:
        left = e.mul(e.add(first, t), TILE)
        places = [
            e.at(strip, e.add(e.mul(row, i), e.mul(e.add(left, j), c)))
            for i in range(REACH)
            for j in range(REACH)
        ]
        return read_places(e, places)

    to = Target(out, x.tile_step, x.vector_step, x.tile_plane)
    transform_tiles(e, count, c, reader, input_map, to)
    e.builder.ret_void()
    return e.function


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
