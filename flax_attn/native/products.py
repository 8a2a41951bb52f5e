"""Units that multiply in the 36 planes of Winograd's form, where nearly all arithmetic is."""

from __future__ import annotations

from llvmlite import ir

from flax_attn.native.context import Machine, begin_unit
from flax_attn.native.emit import INT, POINTER, Emitter, Values, define
from flax_attn.native.tiles import output_tiles, pixel_addresses
from flax_attn.winograd_maps import POSITIONS, both_axes, output_map


def block_product(
    module: ir.Module, machine: Machine, name: str, *, rows: int, accumulate: bool
) -> ir.Function:
    """out[rows, chunk] = a[rows, k] b[k, chunk], or added to it, summed in registers.

    ``(a, row of a, step of a, b, out, row of out, k)`` with steps in floats; the rows of b lie
    one after the other.
    """
    kinds = [POINTER, INT, INT, POINTER, POINTER, INT, INT]
    e, (a, a_row, a_step, b, out, out_row, depth) = define(module, name, kinds, machine.lanes)
    fma = _fused_multiply_add(module, e)
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


def product_unit(
    module: ir.Module, machine: Machine, block: ir.Function, *, affine: bool
) -> ir.Function:
    """A block of tiles and a chunk of output channels: products, and A^T M A into the output.

    With ``affine`` the output is max(factor * value + offset, 0).
    """
    name = "affine_product_unit" if affine else "product_unit"
    e, x, index, worker = begin_unit(module, name, machine)
    chunk, c, d = machine.chunk, x.c, x.d
    blocks = e.ceil_div(x.count, x.block)
    part, first = e.div(index, blocks), e.mul(e.mod(index, blocks), x.block)
    number = e.minimum(e.sub(x.count, first), x.block)
    plane = e.mul(x.block, chunk)
    products = e.at(x.products, e.mul(worker, plane, POSITIONS))
    tiles, kernels = e.at(x.tiles, e.mul(first, c)), e.at(x.kernels, e.mul(part, c, chunk))
    tile_plane, kernel_plane = e.mul(x.room, c), e.mul(c, d)
    with e.loop(POSITIONS) as p:
        left, right = e.at(tiles, e.mul(p, tile_plane)), e.at(kernels, e.mul(p, kernel_plane))
        target = e.at(products, e.mul(p, plane))
        with e.loop(number, step=machine.rows) as t:
            a, out = e.at(left, e.mul(t, c)), e.at(target, e.mul(t, chunk))
            e.builder.call(block, [a, c, e.number(1), right, out, e.number(chunk), c])
    with e.loop(number) as t:
        tile = e.add(x.first, first, t)
        pixels = pixel_addresses(e, x, tile, output_tiles(x), outside=x.waste)
        with e.loop(machine.columns) as column:
            start = e.mul(column, e.lanes)
            source = e.at(products, e.add(e.mul(t, chunk), start))
            values = [e.load(e.at(source, e.mul(plane, p))) for p in range(POSITIONS)]
            channel = e.add(e.mul(part, chunk), start)
            outputs = both_axes(output_map, values)
            if affine:
                factor, offset = (e.load(e.at(a, channel)) for a in (x.factor, x.offset))
                outputs = [_relu(e, value * factor + offset) for value in outputs]
            for value, pixel in zip(outputs, pixels, strict=True):
                e.store(value, e.at(pixel, channel))
    e.builder.ret_void()
    return e.function


def sum_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """One plane and one vector of input channels: sums over the tiles in memory."""
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


def _fused_multiply_add(module: ir.Module, e: Emitter) -> ir.Function:
    name, kind = f"llvm.fma.v{e.lanes}f32", ir.FunctionType(e.vector, [e.vector] * 3)
    return module.globals.get(name) or ir.Function(module, kind, name)


def _relu(e: Emitter, value: Values) -> Values:
    # Kept where not below zero, so that what is not a number stays one.
    below = e.builder.fcmp_ordered("<", value.value, e.zeros)
    return Values(e.builder, e.builder.select(below, e.zeros, value.value))
