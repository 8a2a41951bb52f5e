"""The handlers, XLA's operations of ours: how their work is cut, and in which order it runs."""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from flax_attn.ops.llvm import channels, products, tiles
from flax_attn.ops.llvm.channels import PIXELS_A_PART
from flax_attn.ops.llvm.handler_builder import HandlerBuilder
from flax_attn.ops.llvm.ir import FLOAT_BYTES, Emitter, Machine
from flax_attn.ops.llvm.threads import Parallel
from flax_attn.ops.llvm.tiles import TILES_A_UNIT
from flax_attn.ops.winograd import POSITIONS, TILE

# Bytes of transformed tiles in memory at once: they should stay in the last cache.
FORWARD_BYTES = 8 << 20
GRADIENT_BYTES = 16 << 20
# Tiles a unit multiplies: with a chunk of outputs they should stay in a core's own cache.
BLOCK = 96
# Up to this many tiles, all in memory at once, do not repay storing the transformed kernels.
FEW_TILES = 192


def build(machine: Machine) -> ir.Module:
    """Builds a module with every handler.

    They are convolve, convolve_turned, convolve_affine_relu, convolve_normalised; kernel_gradient
    and normalised_kernel_gradient; moments and relu_sums.
    """
    module = ir.Module("flax_attn")
    parallel = Parallel(module)
    block = products.block_product(
        module, machine, "block_product", rows=machine.rows, accumulate=False
    )

    def plan(name: str, *operands: str, first: int) -> HandlerBuilder:
        """Starts a handler whose arguments from ``first`` on are these operands."""
        started = HandlerBuilder(module, machine, name, parallel)
        started.set(**{field: started.argument(first + i) for i, field in enumerate(operands)})
        return started

    transform, normalised = (
        tiles.input_unit(module, machine, normalised=normalised) for normalised in (False, True)
    )
    kernels = tiles.kernel_unit(module, machine)
    plain, affine = (
        Units(kernels, transform, multiplier.block_unit(), multiplier.chunk_unit())
        for multiplier in (
            products.Multiplier(module, machine, block, affine) for affine in (False, True)
        )
    )
    _convolve(plan("convolve", first=2), plain)
    _convolve(plan("convolve_turned", first=2), plain, turn=tiles.turn_unit(module, machine))
    _convolve(plan("convolve_affine_relu", "factor", "offset", first=2), affine)
    of_input = ("input_factor", "input_offset")
    _convolve(plan("convolve_normalised", *of_input, first=2), plain._replace(tiles=normalised))
    gradient = GradientUnits(
        transform,
        tiles.cotangent_unit(module, machine),
        products.sum_unit(module, machine),
        tiles.tap_unit(module, machine),
    )
    _kernel_gradient(plan("kernel_gradient", first=2), gradient)
    _kernel_gradient(
        plan("normalised_kernel_gradient", *of_input, first=2),
        gradient._replace(tiles=normalised),
    )
    total = channels.total_unit(module, machine)
    moments = plan("moments", "offset", first=1)
    _channel_sums(moments, channels.moments_unit(module, machine), total)
    relu_sums = plan("relu_sums", "cotangent", "factor", "offset", "kernel", first=1)
    _channel_sums(relu_sums, channels.relu_sums_unit(module, machine), total)
    return module


class Units(NamedTuple):
    """The phases of a convolution, in their order.

    Args:
      kernels: transforms the kernels.
      tiles: transforms the tiles of the image.
      blocks: multiplies a block of tiles by transformed kernels.
      chunks: multiplies all tiles by kernels that it transforms itself, where there are few tiles.
    """

    kernels: ir.Function
    tiles: ir.Function
    blocks: ir.Function
    chunks: ir.Function


class GradientUnits(NamedTuple):
    """The phases of a kernel's gradient, in their order.

    Args:
      tiles: transforms the tiles of the image.
      cotangents: transforms the tiles of the output's gradient.
      sums: adds up their products over the tiles.
      taps: transforms the sums back into the kernel's gradient.
    """

    tiles: ir.Function
    cotangents: ir.Function
    sums: ir.Function
    taps: ir.Function


def _convolve(plan: HandlerBuilder, units: Units, *, turn: ir.Function | None = None) -> None:
    """Emits the convolution of (x, kernel); with ``turn``, by the kernel [3, 3, d, c] turned."""
    e, chunk = plan.e, plan.machine.chunk
    b, h, w, c = plan.sizes(0, 4)
    d = plan.sizes(1, 4)[3 if turn is None else 2]
    number, block = _set_tiling(plan, b, h, w), e.number(BLOCK)
    few = e.builder.icmp_unsigned("<=", number, e.number(FEW_TILES))
    all_of_few = e.mul(e.ceil_div(number, block), block)
    room = e.builder.select(few, all_of_few, _room(e, number, c, FORWARD_BYTES, block))
    workers, parts = plan.threads(), e.div(d, chunk)
    plan.set(image=plan.argument(0), out=plan.result(e.mul(b, h, w, d)))
    plan.set(c=c, d=d, room=room, block=block, tile_step=c, vector_step=e.lanes)
    memory = {
        "zeros": e.maximum(c, d),
        "waste": e.maximum(c, d),
        "kernels": e.mul(c, chunk, POSITIONS, e.builder.select(few, workers, parts)),
        "tiles": e.mul(room, c, POSITIONS),
        "products": e.mul(workers, block, chunk * POSITIONS),
    }
    if turn is None:
        plan.set(kernel=plan.argument(1))
        plan.allocate(**memory)
    else:
        plan.set(turned=plan.argument(1))
        plan.allocate(**memory, kernel=e.mul(c, d, 9))
        plan.run(turn, e.number(9))
    plan.clear("zeros", c)
    with e.builder.if_else(few) as (then, otherwise):
        with then, plan.rounds(number, room) as count:
            plan.run(units.tiles, e.ceil_div(count, TILES_A_UNIT))
            plan.run(units.chunks, parts)
        with otherwise:
            plan.run(units.kernels, c)
            with plan.rounds(number, room) as count:
                plan.run(units.tiles, e.ceil_div(count, TILES_A_UNIT))
                plan.run(units.blocks, e.mul(e.ceil_div(count, block), parts))
    plan.end()


def _kernel_gradient(plan: HandlerBuilder, units: GradientUnits) -> None:
    """Emits the kernel's gradient from (x, the output's gradient).

    Sums run over the tiles in their order, so they do not depend on the number of threads.
    """
    e, lanes = plan.e, plan.machine.lanes
    (b, h, w, c), (_, _, _, d) = plan.sizes(0, 4), plan.sizes(1, 4)
    number = _set_tiling(plan, b, h, w)
    room = _room(e, number, e.add(c, d), GRADIENT_BYTES, e.number(1))
    plan.set(image=plan.argument(0), cotangent=plan.argument(1), out=plan.result(e.mul(c, d, 9)))
    plan.set(c=c, d=d, room=room, tile_step=lanes, vector_step=e.mul(room, lanes), keep=0)
    plan.allocate(
        zeros=e.maximum(c, d),
        tiles=e.mul(room, c, POSITIONS),
        cotangents=e.mul(room, d, POSITIONS),
        sums=e.mul(c, d, POSITIONS),
    )
    plan.clear("zeros", e.maximum(c, d))
    with plan.rounds(number, room) as count:
        plan.run(units.tiles, e.ceil_div(count, TILES_A_UNIT))
        plan.run(units.cotangents, e.ceil_div(count, TILES_A_UNIT))
        plan.run(units.sums, e.mul(e.div(c, lanes), POSITIONS))
        plan.set(keep=1)
    plan.run(units.taps, c)
    plan.end()


def _channel_sums(plan: HandlerBuilder, part: ir.Function, total: ir.Function) -> None:
    """Emits two sums for each channel, over all pixels: [2, c]."""
    e = plan.e
    b, h, w, c = plan.sizes(0, 4)
    pixels = e.mul(b, h, w)
    parts = e.ceil_div(pixels, PIXELS_A_PART)
    plan.set(image=plan.argument(0), out=plan.result(e.mul(c, 2)))
    plan.set(c=c, count=pixels, room=parts)
    plan.allocate(sums=e.mul(parts, 2, c))
    plan.run(part, parts)
    plan.run(total, e.div(e.mul(c, 2), e.lanes))
    plan.end()


def _set_tiling(plan: HandlerBuilder, b: ir.Value, h: ir.Value, w: ir.Value) -> ir.Value:
    """Sets the tiles of [b, h, w] in the table; returns how many there are in all."""
    e = plan.e
    down, across = e.ceil_div(h, TILE), e.ceil_div(w, TILE)
    plan.set(h=h, w=w, down=down, across=across)
    return e.mul(b, down, across)


def _room(
    e: Emitter, tiles: ir.Value, channels: ir.Value, most_bytes: int, block: ir.Value
) -> ir.Value:
    """Returns the tiles in memory at once: whole blocks, about ``most_bytes`` at most, evenly."""
    most = e.add(e.div(most_bytes, e.mul(channels, POSITIONS * FLOAT_BYTES)), 1)
    even = e.ceil_div(tiles, e.ceil_div(tiles, most))
    return e.mul(e.ceil_div(even, block), block)
