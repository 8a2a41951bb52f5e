"""The handlers of evaluation: convolution, normalisation, ReLU and pooling, in one operation."""

from __future__ import annotations

from llvmlite import ir

from flax_attn.ops.llvm.convolution import (
    Units,
    convolve,
    even_block,
    output_floats,
    set_planes,
    set_tiling,
)
from flax_attn.ops.llvm.first_layer import first_layer_block, strip_transform
from flax_attn.ops.llvm.fused import Ending, Fused
from flax_attn.ops.llvm.handler_builder import HandlerBuilder
from flax_attn.ops.llvm.ir import Machine
from flax_attn.ops.llvm.plane_products import plane_product
from flax_attn.ops.llvm.threads import Parallel
from flax_attn.ops.llvm.tiles import image_transform, kernel_unit, tiles_unit
from flax_attn.ops.winograd import POSITIONS, REACH, TILE

# The most rows of tiles of a unit that computes two convolutions, and how many units each worker
# should have.
STRIP_TILES, UNITS_A_WORKER = 7, 4


def build(machine: Machine) -> ir.Module:
    """Builds a module with the handlers evaluate, evaluate_pooled, pair and pair_pooled."""
    module = ir.Module("flax_attn_evaluation")
    parallel = Parallel(module)
    product = plane_product(module, machine)
    kernels, transform = (
        kernel_unit(module, machine),
        image_transform(module, machine, normalised=False),
    )
    tiles = tiles_unit(module, machine, transform)
    of_pair = first_layer_block(module, machine), strip_transform(module, machine)
    for ending, end in ((Ending.AFFINE, ""), (Ending.POOLED, "_pooled")):
        fused = Fused(module, machine, product, ending)
        units = Units(kernels, tiles, fused.fused_unit(transform), fused.panel_unit())
        plan = HandlerBuilder(module, machine, f"evaluate{end}", parallel)
        convolve(plan, units, "factor", "offset", ending=ending)
        plan = HandlerBuilder(module, machine, f"pair{end}", parallel)
        _pair(plan, kernels, fused.strip_unit(*of_pair), ending)
    return module


def _pair(
    plan: HandlerBuilder, kernels: ir.Function, strips_unit: ir.Function, ending: Ending
) -> None:
    """Emits the operation on what a convolution of few channels gives, and that convolution.

    It is of (x padded by one pixel, and by six to the right, its kernel [c / chunk, 9 few, chunk],
    factor and offset; kernel, factor and offset).
    """
    e = plan.e
    b, padded_h, padded, few = plan.sizes(0, 4)
    h, w = e.sub(padded_h, 2), e.sub(padded, 1 + plan.machine.rows)
    _, _, c, d = plan.sizes(4, 4)
    down, across = set_tiling(plan, h, w)
    before = ("first_kernel", "first_factor", "first_offset")
    plan.set_arguments("image", *before, "kernel", "factor", "offset")
    plan.set(c=c, d=d, tile_step=c, vector_step=e.lanes)
    plan.set(out=plan.result(output_floats(e, b, h, w, d, ending)))
    workers = plan.threads()
    block = even_block(e, across, c, e.number(1))
    # Enough units for all workers to end at about the same time.
    most = e.div(e.mul(b, down), e.mul(workers, UNITS_A_WORKER))
    strips = e.ceil_div(down, e.minimum(e.maximum(most, 1), STRIP_TILES))
    strip_tiles = e.ceil_div(down, strips)
    columns = e.add(e.mul(across, TILE), plan.machine.rows + 2)
    plan.set(few=few, padded=padded, columns=columns, strips=strips, strip_tiles=strip_tiles)
    planes = set_planes(plan, c, block, block, e.mul(c, d))
    plan.set(block=block)
    plan.allocate(
        waste=d,
        kernels=e.mul(planes.kernel, POSITIONS),
        tiles=e.mul(planes.tile, POSITIONS, workers),
        products=e.mul(planes.product, POSITIONS, workers),
        strip=e.mul(columns, c, REACH, workers),
    )
    plan.run(kernels, c)
    plan.run(strips_unit, e.mul(b, strips))
    plan.end()
