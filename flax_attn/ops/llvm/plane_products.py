"""The 36 products of a block of tiles and a panel of outputs, in blocks that fit its tiles."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from flax_attn.ops.llvm.ir import INT, POINTER, Context, Emitter, Machine, define
from flax_attn.ops.llvm.products import block_product
from flax_attn.ops.winograd import POSITIONS

# Output channels whose products a worker holds at once: whole chunks on every machine.
PANEL = 64
# Input channels that are multiplied at once: with a chunk of outputs a plane stays in the L1 cache.
SLICE = 128
# Rows of the blocks that finish a product whose tiles do not fill the last block.
LESS_ROWS = (4, 2)


def plane_product(module: ir.Module, machine: Machine) -> ir.Function:
    """Defines the 36 products of some tiles and some chunks of outputs.

    Its arguments are ``(context, left, right, step of right, out, tiles, chunks, depth, more)``:
    left is [36, tiles, c], right [36, chunks, depth, chunk] with so many floats from a chunk to the
    next, and out [36, tiles, PANEL]. Where ``more`` is not 0 they are added to out.
    """
    kinds = [POINTER, POINTER, POINTER, INT, POINTER, INT, INT, INT, INT]
    e, arguments = define(module, "plane_product", kinds, machine.lanes)
    context, left, right, right_step, out, tiles, chunks, depth, more = arguments
    x, chunk = Context(e, context), machine.chunk
    c, tile_plane, kernel_plane, product_plane = x.c, x.tile_plane, x.kernel_plane, x.product_plane
    fresh, added = (
        {
            rows: block_product(module, machine, f"{name}_{rows}", rows=rows, accumulate=accumulate)
            for rows in (machine.rows, *LESS_ROWS)
        }
        for name, accumulate in (("fresh", False), ("added", True))
    )
    with e.loop(POSITIONS) as p, e.loop(chunks) as q:
        to_left = e.at(left, e.mul(p, tile_plane))
        to_right = e.at(right, e.add(e.mul(p, kernel_plane), e.mul(q, right_step)))
        to_out = e.at(out, e.add(e.mul(p, product_plane), e.mul(q, chunk)))
        with e.loop(depth, step=SLICE) as k:
            deep, b = e.minimum(e.sub(depth, k), SLICE), e.at(to_right, e.mul(k, chunk))

            def multiply(blocks: dict[int, ir.Function]) -> None:
                def block(rows: int, t: ir.Value) -> None:
                    a = e.at(to_left, e.add(e.mul(t, c), k))
                    target = e.at(to_out, e.mul(t, PANEL))
                    steps = [a, c, e.number(1), b, target, e.number(PANEL), deep]
                    e.builder.call(blocks[rows], steps)

                _cover(e, machine.rows, tiles, block)

            is_added = e.builder.icmp_unsigned("!=", e.builder.or_(more, k), e.number(0))
            with e.builder.if_else(is_added) as (then, otherwise):
                with then:
                    multiply(added)
                with otherwise:
                    multiply(fresh)
    e.builder.ret_void()
    return e.function


def _cover(e: Emitter, rows: int, count: ir.Value, block: Callable[[int, ir.Value], None]) -> None:
    """Emits blocks that cover ``count`` rows: whole ones, then the smallest for the rest."""
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
