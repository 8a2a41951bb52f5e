"""The plan of a convolution, in training and in evaluation: how its work is cut, and its order."""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from flax_attn.ops.llvm.fused import Ending
from flax_attn.ops.llvm.handler_builder import HandlerBuilder
from flax_attn.ops.llvm.ir import FLOAT_BYTES, Emitter
from flax_attn.ops.llvm.plane_products import PANEL, SLICE
from flax_attn.ops.llvm.tiles import LINE, TILES_A_UNIT
from flax_attn.ops.winograd import POSITIONS, TILE

# Up to this many tiles do not repay transforming the kernels before, for all workers, and are in
# memory at once, whatever they take: a second round would transform the kernels again.
FEW_TILES = 192
# Up to this many input channels a block's transformed tiles stay in a core's own cache, and up to
# this many pairs of channels all transformed kernels are near enough to be read for every block.
FUSED_CHANNELS, FUSED_PAIRS = 128, 128 * 128
# Bytes of them, about.
FUSED_BYTES = 400 << 10
# Bytes of transformed tiles in memory at once, where all workers share them.
SHARED_BYTES = 8 << 20
# Tiles a unit multiplies of those.
BLOCK = 256


class Units(NamedTuple):
    """The phases of a convolution.

    Args:
      kernels: transforms the kernels.
      tiles: transforms the tiles of the image.
      fused: transforms and multiplies a block of tiles.
      panels: multiplies a block of tiles by a panel of kernels that it transforms itself.
    """

    kernels: ir.Function
    tiles: ir.Function
    fused: ir.Function
    panels: ir.Function


def convolve(
    plan: HandlerBuilder,
    units: Units,
    *operands: str,
    ending: Ending = Ending.PLAIN,
    turn: ir.Function | None = None,
) -> None:
    """Emits the convolution of (x, kernel, operands); with ``turn``, by [3, 3, d, c] turned."""
    e, bld = plan.e, plan.e.builder
    b, h, w, c = plan.sizes(0, 4)
    d = plan.sizes(1, 4)[3 if turn is None else 2]
    number = e.mul(b, *set_tiling(plan, h, w))
    plan.set_arguments("image", "kernel" if turn is None else "turned", *operands)
    plan.set(c=c, d=d, tile_step=c, vector_step=e.lanes)
    plan.set(out=plan.result(output_floats(e, b, h, w, d, ending)))
    narrow = bld.and_(
        bld.icmp_unsigned(">", number, e.number(FEW_TILES)),
        bld.and_(
            bld.icmp_unsigned("<=", c, e.number(FUSED_CHANNELS)),
            bld.icmp_unsigned("<=", e.mul(c, d), e.number(FUSED_PAIRS)),
        ),
    )
    workers, panels = plan.threads(), e.ceil_div(d, PANEL)

    def choose(of_narrow: ir.Value | int, otherwise: ir.Value | int) -> ir.Value:
        return bld.select(narrow, e.number(of_narrow), e.number(otherwise))

    most = e.add(e.div(SHARED_BYTES, e.mul(c, POSITIONS * FLOAT_BYTES)), 1)
    room = e.even(number, e.maximum(most, FEW_TILES))
    block = choose(even_block(e, number, c, workers), e.even(room, e.number(BLOCK)))
    room = choose(block, room)
    planes = set_planes(plan, c, room, block, choose(e.mul(c, d), PANEL * SLICE))
    plan.set(block=block, room=room, first=0, count=number)
    memory = {
        "zeros": e.maximum(c, d),
        "waste": e.maximum(c, d),
        "kernels": e.mul(planes.kernel, POSITIONS, choose(1, workers)),
        "tiles": e.mul(planes.tile, POSITIONS, choose(workers, 1)),
        "products": e.mul(planes.product, POSITIONS, workers),
    }
    if turn is None:
        plan.allocate(**memory)
    else:
        plan.allocate(**memory, kernel=e.mul(c, d, 9))
        plan.run(turn, e.number(9))
    plan.clear("zeros", c)
    with bld.if_else(narrow) as (then, otherwise):
        with then:
            plan.run(units.kernels, c)
            plan.run(units.fused, e.ceil_div(number, block))
        with otherwise, plan.rounds(number, room) as count:
            plan.run(units.tiles, e.ceil_div(count, TILES_A_UNIT))
            plan.run(units.panels, e.mul(e.ceil_div(count, block), panels))
    plan.end()


class Planes(NamedTuple):
    """The floats from one of the 36 planes to the next."""

    tile: ir.Value
    kernel: ir.Value
    product: ir.Value


def set_tiling(plan: HandlerBuilder, h: ir.Value, w: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Sets the size of an image and of its tiles in the table; returns those down and across."""
    down, across = (plan.e.ceil_div(size, TILE) for size in (h, w))
    plan.set(h=h, w=w, down=down, across=across)
    return down, across


def set_planes(
    plan: HandlerBuilder, c: ir.Value, room: ir.Value, block: ir.Value, kernels: ir.Value
) -> Planes:
    """Sets the sizes of planes of so many tiles, tiles a product has, and floats of kernels.

    Products run over the end of their tiles up to a whole block of rows.
    """
    e, rows = plan.e, plan.machine.rows

    def whole(tiles: ir.Value) -> ir.Value:
        return e.mul(e.ceil_div(e.add(tiles, 1), rows), rows)

    planes = Planes(
        tile=e.add(e.mul(whole(room), c), LINE),
        kernel=e.add(kernels, LINE),
        product=e.add(e.mul(whole(block), PANEL), LINE),
    )
    plan.set(tile_plane=planes.tile, kernel_plane=planes.kernel, product_plane=planes.product)
    return planes


def output_floats(
    e: Emitter, b: ir.Value, h: ir.Value, w: ir.Value, d: ir.Value, ending: Ending
) -> ir.Value:
    """Returns how many numbers the output has."""
    return e.mul(b, e.div(h, 2), e.div(w, 2), d) if ending is Ending.POOLED else e.mul(b, h, w, d)


def even_block(e: Emitter, tiles: ir.Value, c: ir.Value, workers: ir.Value) -> ir.Value:
    """Returns the tiles of a block that fits a core's own cache, equally many blocks a worker."""
    most = e.add(e.div(FUSED_BYTES, e.mul(c, POSITIONS * FLOAT_BYTES)), 1)
    blocks = e.mul(e.ceil_div(e.ceil_div(tiles, most), workers), workers)
    return e.maximum(e.ceil_div(tiles, blocks), 1)
