"""The handlers of evaluation: convolution, normalisation, ReLU and pooling, in one operation."""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from flax_attn.ops.llvm.evaluation_tiles import LINE, kernel_unit, tiles_unit
from flax_attn.ops.llvm.fused import Fused, Parts
from flax_attn.ops.llvm.handler_builder import HandlerBuilder
from flax_attn.ops.llvm.ir import FLOAT_BYTES, Emitter, Machine
from flax_attn.ops.llvm.plane_products import PANEL, SLICE
from flax_attn.ops.llvm.threads import Parallel
from flax_attn.ops.llvm.tiles import TILES_A_UNIT
from flax_attn.ops.winograd import POSITIONS, REACH, TILE

# Up to this many tiles do not repay transforming the kernels before, for all workers.
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
# The most rows of tiles of a unit that computes two convolutions, and how many units each worker
# should have.
STRIP_TILES, UNITS_A_WORKER = 7, 4


class EvaluationUnits(NamedTuple):
    """The phases of a convolution.

    Args:
      kernels: transforms the kernels.
      tiles: transforms the tiles of the image.
      fused: transforms and multiplies a block of tiles.
      panels: multiplies a block of tiles by a panel of kernels that it transforms itself.
      strips: computes the convolution before, and is otherwise as ``fused``.
    """

    kernels: ir.Function
    tiles: ir.Function
    fused: ir.Function
    panels: ir.Function
    strips: ir.Function


def build(machine: Machine) -> ir.Module:
    """Builds a module with the handlers evaluate, evaluate_pooled, pair and pair_pooled."""
    module = ir.Module("flax_attn_evaluation")
    parallel = Parallel(module)
    parts = Parts.of(module, machine)
    kernels = kernel_unit(module, machine)
    tiles = tiles_unit(module, machine, parts.image_transform)
    for pooled in (False, True):
        of = Fused(module, machine, parts, pooled=pooled)
        units = EvaluationUnits(kernels, tiles, of.fused_unit(), of.panel_unit(), of.strip_unit())
        end = "_pooled" if pooled else ""
        _evaluate(HandlerBuilder(module, machine, f"evaluate{end}", parallel), units, pooled)
        _pair(HandlerBuilder(module, machine, f"pair{end}", parallel), units, pooled)
    return module


def _evaluate(plan: HandlerBuilder, units: EvaluationUnits, pooled: bool) -> None:
    """Emits the operation on (x, kernel, factor, offset)."""
    e, bld = plan.e, plan.e.builder
    b, h, w, c = plan.sizes(0, 4)
    d = plan.sizes(1, 4)[3]
    down, across = e.ceil_div(h, TILE), e.ceil_div(w, TILE)
    number = e.mul(b, down, across)
    _set_arguments(plan, "image", "kernel", "factor", "offset")
    plan.set(h=h, w=w, c=c, d=d, down=down, across=across)
    plan.set(out=plan.result(_floats(e, b, h, w, d, pooled)))
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

    room = _even(e, number, e.add(e.div(SHARED_BYTES, e.mul(c, POSITIONS * FLOAT_BYTES)), 1))
    block = choose(_even_block(e, number, c, workers), _even(e, room, e.number(BLOCK)))
    room = choose(block, room)
    planes = _set_planes(plan, c, room, block, choose(e.mul(c, d), PANEL * SLICE))
    plan.set(block=block, room=room, first=0, count=number)
    plan.allocate(
        zeros=e.maximum(c, d),
        waste=e.maximum(c, d),
        kernels=e.mul(planes.kernel, POSITIONS, choose(1, workers)),
        tiles=e.mul(planes.tile, POSITIONS, choose(workers, 1)),
        products=e.mul(planes.product, POSITIONS, workers),
    )
    plan.clear("zeros", c)
    with bld.if_else(narrow) as (then, otherwise):
        with then:
            plan.run(units.kernels, c)
            plan.run(units.fused, e.ceil_div(number, block))
        with otherwise, plan.rounds(number, room) as count:
            plan.run(units.tiles, e.ceil_div(count, TILES_A_UNIT))
            plan.run(units.panels, e.mul(e.ceil_div(count, block), panels))
    plan.end()


def _pair(plan: HandlerBuilder, units: EvaluationUnits, pooled: bool) -> None:
    """Emits the operation on what a convolution of few channels gives, and that convolution.

    It is of (x padded by one pixel, and by six to the right, its kernel [c / chunk, 9 few, chunk],
    factor and offset; kernel, factor and offset).
    """
    e = plan.e
    b, padded_h, padded, few = plan.sizes(0, 4)
    h, w = e.sub(padded_h, 2), e.sub(padded, 1 + plan.machine.rows)
    _, _, c, d = plan.sizes(4, 4)
    down, across = e.ceil_div(h, TILE), e.ceil_div(w, TILE)
    before = ("first_kernel", "first_factor", "first_offset")
    _set_arguments(plan, "image", *before, "kernel", "factor", "offset")
    plan.set(h=h, w=w, c=c, d=d, down=down, across=across)
    plan.set(out=plan.result(_floats(e, b, h, w, d, pooled)))
    workers = plan.threads()
    block = _even_block(e, across, c, e.number(1))
    # Enough units for all workers to end at about the same time.
    most = e.div(e.mul(b, down), e.mul(workers, UNITS_A_WORKER))
    strips = e.ceil_div(down, e.minimum(e.maximum(most, 1), STRIP_TILES))
    strip_tiles = e.ceil_div(down, strips)
    columns = e.add(e.mul(across, TILE), plan.machine.rows + 2)
    plan.set(few=few, padded=padded, columns=columns, strips=strips, strip_tiles=strip_tiles)
    planes = _set_planes(plan, c, block, block, e.mul(c, d))
    plan.set(block=block)
    plan.allocate(
        waste=d,
        kernels=e.mul(planes.kernel, POSITIONS),
        tiles=e.mul(planes.tile, POSITIONS, workers),
        products=e.mul(planes.product, POSITIONS, workers),
        strip=e.mul(columns, c, REACH, workers),
    )
    plan.run(units.kernels, c)
    plan.run(units.strips, e.mul(b, strips))
    plan.end()


class Planes(NamedTuple):
    """The floats from one of the 36 planes to the next."""

    tile: ir.Value
    kernel: ir.Value
    product: ir.Value


def _set_arguments(plan: HandlerBuilder, *names: str) -> None:
    plan.set(**{name: plan.argument(i) for i, name in enumerate(names)})


def _set_planes(
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


def _floats(
    e: Emitter, b: ir.Value, h: ir.Value, w: ir.Value, d: ir.Value, pooled: bool
) -> ir.Value:
    """Returns how many numbers the output has."""
    return e.mul(b, e.div(h, 2), e.div(w, 2), d) if pooled else e.mul(b, h, w, d)


def _even_block(e: Emitter, tiles: ir.Value, c: ir.Value, workers: ir.Value) -> ir.Value:
    """Returns the tiles of a block that fits a core's own cache, equally many blocks a worker."""
    most = e.add(e.div(FUSED_BYTES, e.mul(c, POSITIONS * FLOAT_BYTES)), 1)
    blocks = e.mul(e.ceil_div(e.ceil_div(tiles, most), workers), workers)
    return e.maximum(e.ceil_div(tiles, blocks), 1)


def _even(e: Emitter, tiles: ir.Value, most: ir.Value) -> ir.Value:
    """Returns the tiles of equal parts of ``most`` at most."""
    return e.ceil_div(tiles, e.ceil_div(tiles, most))
