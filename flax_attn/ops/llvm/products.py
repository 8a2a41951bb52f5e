"""Units of work that multiply in the 36 planes of Winograd's form: nearly all of the arithmetic."""

from __future__ import annotations

from llvmlite import ir

from flax_attn.ops.llvm.ir import (
    INT,
    POINTER,
    Emitter,
    Machine,
    Values,
    begin_unit,
    define,
)


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


def sum_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """Builds the unit that sums over the tiles in memory, for a plane and a vector of inputs."""
    e, x, index, _ = begin_unit(module, "sum_unit", machine)
    chunk, lanes, rows = machine.chunk, machine.lanes, machine.sum_rows
    first, more = (
        block_product(module, machine, name, rows=rows, accumulate=accumulate)
        for name, accumulate in (("first_sums", False), ("more_sums", True))
    )
    d, room, count, keep, vectors = x.d, x.room, x.count, x.keep, e.div(x.c, lanes)
    plane, vector = e.div(index, vectors), e.mul(e.mod(index, vectors), lanes)
    left = e.at(x.tiles, e.add(e.mul(plane, x.tile_plane), e.mul(vector, room)))
    right = e.at(x.cotangents, e.mul(plane, x.cotangent_plane))
    sums = e.at(x.sums, e.add(e.mul(plane, x.sum_plane), e.mul(vector, d)))
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
