"""Units of work over parts of the pixels of a map: sums of each channel, and what follows of them.

A unit sums over one part of the pixels; another adds up the parts in their order, so that the
result does not depend on the number of threads.
"""

from __future__ import annotations

from llvmlite import ir

from flax_attn.ops.llvm.ir import Context, Emitter, Machine, Values, begin_unit

PIXELS_A_PART = 512


def moments_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """Builds the unit that sums x - pivot and its square over a part of the pixels."""
    e, x, index, _ = begin_unit(module, "moments_unit", machine)

    def terms(channel: ir.Value, pixel: ir.Value) -> list[Values]:
        away = e.load(e.at(e.at(x.image, pixel), channel)) - e.load(e.at(x.offset, channel))
        return [away, away * away]

    _sum_part(e, x, machine, index, terms)
    return e.function


def relu_sums_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """Builds the unit that sums g and g (x - mean), where factor x + offset > 0, over a part."""
    e, x, index, _ = begin_unit(module, "relu_sums_unit", machine)

    def terms(channel: ir.Value, pixel: ir.Value) -> list[Values]:
        place = e.add(pixel, channel)
        value, g = e.load(e.at(x.image, place)), e.load(e.at(x.cotangent, place))
        factor, offset, mean = (e.load(e.at(a, channel)) for a in (x.factor, x.offset, x.kernel))
        above = e.builder.fcmp_ordered(">", (value * factor + offset).value, e.zeros)
        g = Values(e.builder, e.builder.select(above, g.value, e.zeros))
        return [g, g * (value - mean)]

    _sum_part(e, x, machine, index, terms)
    return e.function


def relu_gradient_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """Builds the unit that writes the gradient of a normalisation and ReLU over a part.

    It is factor (g' - through_mean - (x - mean) through_var), g' being g where
    factor x + offset > 0 and 0 elsewhere. ``out`` may lie where g does.
    """
    e, x, index, _ = begin_unit(module, "relu_gradient_unit", machine)
    first = e.mul(index, PIXELS_A_PART)
    pixels = e.minimum(e.sub(x.count, first), PIXELS_A_PART)
    vectors = (x.factor, x.offset, x.kernel, x.through_mean, x.through_var)
    with e.loop(pixels) as i, e.loop(x.c, step=machine.lanes) as channel:
        place = e.add(e.mul(e.add(first, i), x.c), channel)
        value, g = e.load(e.at(x.image, place)), e.load(e.at(x.cotangent, place))
        factor, offset, mean, through_mean, through_var = (
            e.load(e.at(vector, channel)) for vector in vectors
        )
        above = e.builder.fcmp_ordered(">", (value * factor + offset).value, e.zeros)
        passed = Values(e.builder, e.builder.select(above, g.value, e.zeros))
        gradient = factor * (passed - through_mean - (value - mean) * through_var)
        e.store(gradient, e.at(x.out, place))
    e.builder.ret_void()
    return e.function


def _sum_part(e: Emitter, x: Context, machine: Machine, index: ir.Value, terms) -> None:
    """Emits sums of both terms over the pixels of a part, stored at the part's row of ``sums``."""
    c, columns = x.c, machine.columns
    first = e.mul(index, PIXELS_A_PART)
    pixels = e.minimum(e.sub(x.count, first), PIXELS_A_PART)
    target = e.at(x.sums, e.mul(index, 2, c))
    with e.loop(c, step=machine.chunk) as start:
        channels = [e.add(start, j * e.lanes) for j in range(columns)]
        with e.fold(pixels, [e.zeros] * (2 * columns)) as (i, sums, following):
            pixel = e.mul(e.add(first, i), c)
            added = [term for channel in channels for term in terms(channel, pixel)]
            for total, term in zip(sums, added, strict=True):
                following.append((Values(e.builder, total) + term).value)
        for j, channel in enumerate(channels):
            for k in range(2):
                place = e.at(target, e.add(e.mul(k, c), channel))
                e.store(Values(e.builder, sums[2 * j + k]), place)
    e.builder.ret_void()


def total_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """Builds the unit that sums one vector of [2, c] over all parts."""
    e, x, index, _ = begin_unit(module, "total_unit", machine)
    start, row = e.mul(index, e.lanes), e.mul(x.c, 2)
    with e.fold(x.room, [e.zeros]) as (part, sums, following):
        value = e.load(e.at(x.sums, e.add(e.mul(part, row), start)))
        following.append((Values(e.builder, sums[0]) + value).value)
    e.store(Values(e.builder, sums[0]), e.at(x.out, start))
    e.builder.ret_void()
    return e.function
