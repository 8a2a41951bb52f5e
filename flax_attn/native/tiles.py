"""Units that take images and kernels to the 36 planes of Winograd's form, and sums back.

Images are [b, h, w, c] with channels innermost, and every instruction works on a vector of
channels. Tiles are numbered through the batch, row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from flax_attn.native.context import Context, Machine, begin_unit
from flax_attn.native.emit import Emitter
from flax_attn.winograd_maps import (
    POSITIONS,
    REACH,
    TILE,
    Map,
    both_axes,
    cotangent_map,
    input_map,
    kernel_map,
    tap_map,
)

TILES_A_UNIT = 8


def kernel_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """G g G^T for the kernels of one input channel."""
    e, x, channel, _ = begin_unit(module, "kernel_unit", machine)
    chunk, plane = machine.chunk, e.mul(x.c, x.d)
    with e.loop(e.div(x.d, chunk)) as part:
        place = e.mul(e.add(e.mul(part, x.c), channel), chunk)
        transform_kernels(e, x, machine, channel, part, e.at(x.kernels, place), plane)
    e.builder.ret_void()
    return e.function


def transform_kernels(
    e: Emitter,
    x: Context,
    machine: Machine,
    channel: ir.Value,
    part: ir.Value,
    target: ir.Value,
    plane: ir.Value,
) -> None:
    """G g G^T from one input channel to one chunk of outputs, into planes so far apart."""
    d = x.d
    source = e.at(x.kernel, e.add(e.mul(channel, d), e.mul(part, machine.chunk)))
    tap = e.mul(x.c, d)
    with e.loop(machine.columns) as column:
        start = e.mul(column, e.lanes)
        taps = [e.load(e.at(source, e.add(start, e.mul(tap, i)))) for i in range(9)]
        for i, value in enumerate(both_axes(kernel_map, taps)):
            e.store(value, e.at(target, e.add(start, e.mul(plane, i))))


def turn_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """One tap of the kernel turned by 180 degrees, its channels transposed."""
    e, x, tap, _ = begin_unit(module, "turn_unit", machine)
    c, d, lanes = x.c, x.d, e.lanes
    plane = e.mul(c, d)
    source = e.at(x.turned, e.mul(e.sub(8, tap), plane))
    target = e.at(x.kernel, e.mul(tap, plane))
    with e.loop(d, step=lanes) as row, e.loop(c, step=lanes) as column:
        # Of [d, c] to [c, d], a square at a time.
        start, place = e.add(e.mul(row, c), column), e.add(e.mul(column, d), row)
        square = [e.load(e.at(source, e.add(start, e.mul(c, i)))) for i in range(lanes)]
        for i, value in enumerate(e.transposed(square)):
            e.store(value, e.at(target, e.add(place, e.mul(d, i))))
    e.builder.ret_void()
    return e.function


def tap_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """G^T u G for the sums of one input channel."""
    e, x, channel, _ = begin_unit(module, "tap_unit", machine)
    d, plane = x.d, e.mul(x.c, x.d)
    row = e.mul(channel, d)
    source, target = e.at(x.sums, row), e.at(x.out, row)
    with e.loop(d, step=e.lanes) as start:
        sums = [e.load(e.at(source, e.add(start, e.mul(plane, i)))) for i in range(POSITIONS)]
        for i, value in enumerate(both_axes(tap_map, sums)):
            e.store(value, e.at(target, e.add(start, e.mul(plane, i))))
    e.builder.ret_void()
    return e.function


def input_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """B^T D B for a few overlapping 6x6 tiles of the image."""
    e, x, index, _ = begin_unit(module, "input_unit", machine)
    tiles = _Tiles(x.image, x.c, x.tiles, REACH, 1, input_map)
    _transform(e, x, index, tiles, x.tile_step, x.vector_step, together=1)
    return e.function


def cotangent_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """A Y A^T for a few 4x4 tiles of the output's gradient."""
    e, x, index, _ = begin_unit(module, "cotangent_unit", machine)
    tiles = _Tiles(x.cotangent, x.d, x.cotangents, TILE, 0, cotangent_map)
    chunk = e.number(machine.chunk)
    _transform(e, x, index, tiles, chunk, e.mul(x.room, chunk), together=machine.columns)
    return e.function


@dataclass(frozen=True)
class _Tiles:
    """Square tiles of an image, ``side`` pixels wide, that reach ``margin`` to the top and left."""

    image: ir.Value
    channels: ir.Value
    target: ir.Value
    side: int
    margin: int
    one_axis: Map


def _transform(
    e: Emitter,
    x: Context,
    index: ir.Value,
    tiles: _Tiles,
    tile_step: ir.Value,
    group_step: ir.Value,
    *,
    together: int,
) -> None:
    """Transforms a few tiles, ``together`` vectors of channels side by side in a group."""
    start, plane, zeros = e.mul(index, TILES_A_UNIT), e.mul(x.room, tiles.channels), x.zeros
    with e.loop(e.minimum(e.sub(x.count, start), TILES_A_UNIT)) as i:
        number = e.add(start, i)
        pixels = pixel_addresses(e, x, e.add(x.first, number), tiles, outside=zeros)
        target = e.at(tiles.target, e.mul(number, tile_step))
        groups = e.div(tiles.channels, together * e.lanes)
        with e.loop(groups) as group, e.loop(together) as v:
            channel = e.mul(e.add(e.mul(group, together), v), e.lanes)
            values = [e.load(e.at(pixel, channel)) for pixel in pixels]
            place = e.add(e.mul(group, group_step), e.mul(v, e.lanes))
            for p, value in enumerate(both_axes(tiles.one_axis, values)):
                e.store(value, e.at(target, e.add(place, e.mul(plane, p))))
    e.builder.ret_void()


def pixel_addresses(
    e: Emitter, x: Context, tile: ir.Value, tiles: _Tiles, *, outside: ir.Value
) -> list[ir.Value]:
    """Where the pixels of a tile lie, row by row; ``outside`` for those beyond the image."""
    h, w, across = x.h, x.w, x.across
    of_image = e.mul(x.down, across)
    number, place = e.div(tile, of_image), e.mod(tile, of_image)
    top = e.sub(e.mul(e.div(place, across), TILE), tiles.margin)
    left = e.sub(e.mul(e.mod(place, across), TILE), tiles.margin)
    columns = [e.add(left, j) for j in range(tiles.side)]
    addresses = []
    for i in range(tiles.side):
        row = e.add(top, i)
        start = e.mul(e.add(e.mul(number, h), row), w)
        for column in columns:
            inside = e.builder.and_(e.inside(row, h), e.inside(column, w))
            address = e.at(tiles.image, e.mul(e.add(start, column), tiles.channels))
            addresses.append(e.builder.select(inside, address, outside))
    return addresses


def output_tiles(x: Context) -> _Tiles:
    """The tiles of the output, for their addresses."""
    return _Tiles(x.out, x.d, x.out, TILE, 0, cotangent_map)
