"""The handlers, XLA's operations of ours: how their work is cut, and in which order it runs."""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from flax_attn.ops.llvm import channels
from flax_attn.ops.llvm.channels import PIXELS_A_PART
from flax_attn.ops.llvm.convolution import Units, convolve, set_tiling
from flax_attn.ops.llvm.fused import Ending, Fused
from flax_attn.ops.llvm.handler_builder import HandlerBuilder
from flax_attn.ops.llvm.ir import FLOAT_BYTES, Machine
from flax_attn.ops.llvm.plane_products import plane_product
from flax_attn.ops.llvm.products import sum_unit
from flax_attn.ops.llvm.threads import Parallel
from flax_attn.ops.llvm.tiles import (
    LINE,
    TILES_A_UNIT,
    gradient_tiles_unit,
    image_transform,
    kernel_unit,
    tap_unit,
    tiles_unit,
    turn_unit,
)
from flax_attn.ops.winograd import POSITIONS

# Floats of transformed tiles in memory at once, for each sum and worker: few of them stay in a
# core's own cache, but each round of them reads and writes all sums.
FLOATS_A_SUM = 2
# Tiles of a worker at least, and bytes of all tiles at most.
FEWEST_TILES, GRADIENT_BYTES = 64, 64 << 20
# What a normalised map is read by.
OF_INPUT = ("input_factor", "input_offset")
# What the gradient of a normalisation and ReLU is made of, beside the map.
OF_NORMALISATION = ("cotangent", "factor", "offset", "kernel")


def build(machine: Machine) -> ir.Module:
    """Builds a module with every handler of training.

    They are convolve, convolve_turned, convolve_affine_relu, convolve_normalised; kernel_gradient
    and normalised_kernel_gradient; moments, relu_sums and relu_gradient.
    """
    module = ir.Module("flax_attn")
    parallel = Parallel(module)

    def plan(name: str) -> HandlerBuilder:
        return HandlerBuilder(module, machine, name, parallel)

    raw, normalised = (
        image_transform(module, machine, normalised=normalised) for normalised in (False, True)
    )
    tiles = {of: tiles_unit(module, machine, of) for of in (raw, normalised)}
    kernels, product = kernel_unit(module, machine), plane_product(module, machine)
    plain, affine = (
        Fused(module, machine, product, ending) for ending in (Ending.PLAIN, Ending.AFFINE)
    )
    units = Units(kernels, tiles[raw], plain.fused_unit(raw), plain.panel_unit())
    convolve(plan("convolve"), units)
    convolve(plan("convolve_turned"), units, turn=turn_unit(module, machine))
    units = units._replace(tiles=tiles[normalised], fused=plain.fused_unit(normalised))
    convolve(plan("convolve_normalised"), units, *OF_INPUT)
    units = Units(kernels, tiles[raw], affine.fused_unit(raw), affine.panel_unit())
    convolve(plan("convolve_affine_relu"), units, "factor", "offset")
    sums, taps = sum_unit(module, machine), tap_unit(module, machine)
    of_raw, of_normalised = (
        GradientUnits(gradient_tiles_unit(module, machine, of), sums, taps)
        for of in (raw, normalised)
    )
    _kernel_gradient(plan("kernel_gradient"), of_raw)
    _kernel_gradient(plan("normalised_kernel_gradient"), of_normalised, *OF_INPUT)
    total = channels.total_unit(module, machine)
    part = channels.moments_unit(module, machine)
    _channel_sums(plan("moments"), part, total, "offset")
    part = channels.relu_sums_unit(module, machine)
    _channel_sums(plan("relu_sums"), part, total, *OF_NORMALISATION)
    _relu_gradient(plan("relu_gradient"), channels.relu_gradient_unit(module, machine))
    return module


class GradientUnits(NamedTuple):
    """The phases of a kernel's gradient, in their order.

    Args:
      tiles: transforms the tiles of the image, and those of the output's gradient.
      sums: adds up their products over the tiles.
      taps: transforms the sums back into the kernel's gradient.
    """

    tiles: ir.Function
    sums: ir.Function
    taps: ir.Function


def _kernel_gradient(plan: HandlerBuilder, units: GradientUnits, *operands: str) -> None:
    """Emits the kernel's gradient from (x, the output's gradient, operands).

    Sums run over the tiles in their order, so they do not depend on the number of threads.
    """
    e, lanes = plan.e, plan.machine.lanes
    (b, h, w, c), (_, _, _, d) = plan.sizes(0, 4), plan.sizes(1, 4)
    number = e.mul(b, *set_tiling(plan, h, w))
    of_worker = e.maximum(e.div(e.mul(c, d, FLOATS_A_SUM), e.add(c, d)), FEWEST_TILES)
    most = e.div(GRADIENT_BYTES, e.mul(e.add(c, d), POSITIONS * FLOAT_BYTES))
    room = e.even(number, e.minimum(e.mul(of_worker, plan.threads()), e.add(most, 1)))
    tiles, cotangents, sums = (e.add(e.mul(*size), LINE) for size in ((room, c), (room, d), (c, d)))
    plan.set_arguments("image", "cotangent", *operands)
    plan.set(out=plan.result(e.mul(c, d, 9)))
    plan.set(c=c, d=d, room=room, tile_step=lanes, vector_step=e.mul(room, lanes), keep=0)
    plan.set(tile_plane=tiles, cotangent_plane=cotangents, sum_plane=sums)
    plan.allocate(
        zeros=e.maximum(c, d),
        tiles=e.mul(tiles, POSITIONS),
        cotangents=e.mul(cotangents, POSITIONS),
        sums=e.mul(sums, POSITIONS),
    )
    plan.clear("zeros", e.maximum(c, d))
    with plan.rounds(number, room) as count:
        plan.run(units.tiles, e.ceil_div(count, TILES_A_UNIT))
        plan.run(units.sums, e.mul(e.div(c, lanes), POSITIONS))
        plan.set(keep=1)
    plan.run(units.taps, c)
    plan.end()


def _channel_sums(
    plan: HandlerBuilder, part: ir.Function, total: ir.Function, *operands: str
) -> None:
    """Emits two sums for each channel, over all pixels, of (x, operands): [2, c]."""
    e = plan.e
    b, h, w, c = plan.sizes(0, 4)
    pixels = e.mul(b, h, w)
    parts = e.ceil_div(pixels, PIXELS_A_PART)
    plan.set_arguments("image", *operands)
    plan.set(out=plan.result(e.mul(c, 2)))
    plan.set(c=c, count=pixels, room=parts)
    plan.allocate(sums=e.mul(parts, 2, c))
    plan.run(part, parts)
    plan.run(total, e.div(e.mul(c, 2), e.lanes))
    plan.end()


def _relu_gradient(plan: HandlerBuilder, part: ir.Function) -> None:
    """Emits the gradient of a normalisation and ReLU in its input, of the same shape."""
    e = plan.e
    b, h, w, c = plan.sizes(0, 4)
    pixels = e.mul(b, h, w)
    plan.set_arguments("image", *OF_NORMALISATION, "through_mean", "through_var")
    plan.set(out=plan.result(e.mul(pixels, c)), c=c, count=pixels)
    plan.run(part, e.ceil_div(pixels, PIXELS_A_PART))
    plan.end()
